import itertools
import warnings
from pathlib import Path

import lightning as L
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import distributed
from torch.nn.functional import interpolate

from flashvsr.data.batches import upsample
from flashvsr.data.lit import ShardDataModule
from flashvsr.data.settings import EpochOptions, LoaderOptions, PhotoOptions, ValidationOptions
from flashvsr.data.tar_samples import ShardError
from flashvsr.streaming import Canvas


class Area:
    """Stands in for a degradation."""

    def __call__(self, clip, seed):
        return interpolate(clip.float(), scale_factor=0.25, mode="area").round().to(torch.uint8)


def on_device(hr, seeds):
    assert hr.dtype == torch.uint8
    frames = hr.transpose(1, 2).flatten(0, 1)
    return Area()(frames, 0).unflatten(0, (hr.shape[0], hr.shape[2])).transpose(1, 2)


SMALL = {"batch_size": 2, "frames": 9, "crop": 64, "seed": 5}


def module(shards, **options):
    """A data module of short clips, with the options of its settings given flat."""
    options = {"batches": 4, "workers": 0} | options
    settings = {
        name: kind(**{key: options.pop(key) for key in list(options) if key in kind.__annotations__})
        for name, kind in (("epoch", EpochOptions), ("photos", PhotoOptions), ("loader", LoaderOptions))
    }
    if "device_degradation" not in options:
        settings["degradation"] = Area()
    train = [*map(str, shards)] if isinstance(shards, list) else str(shards)
    return ShardDataModule(train, **SMALL | settings | options)


def batches(data):
    return [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]


def same(a, b):
    return all(same(a[key], b[key]) if isinstance(a[key], dict) else torch.equal(a[key], b[key]) for key in a)


def test_a_batch_is_what_the_stages_take(shards):
    batch = batches(module(shards, images_per_batch=3, image_crop=(96, 64)))[0]
    assert {key: tuple(value.shape) for key, value in batch.items() if key != "image"} == {
        "hr": (2, 3, 9, 64, 64),
        "lr": (2, 3, 9, 64, 64),
        "seed": (2,),
    }
    assert {key: tuple(value.shape) for key, value in batch["image"].items()} == {
        "hr": (3, 3, 1, 96, 64),
        "lr": (3, 3, 1, 96, 64),
        "seed": (3,),
    }
    assert batch["seed"].dtype == torch.int64
    for part in (batch, batch["image"]):
        for name in ("hr", "lr"):
            levels = (part[name] + 1) * 127.5
            assert part[name].dtype == torch.float32
            assert part[name].abs().max() <= 1
            torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_the_low_resolution_shows_the_same_scene(shards):
    batch = batches(module(shards))[0]
    assert (batch["lr"] - batch["hr"]).abs().mean() < 0.1


def test_workers_send_bytes(shards):
    batch = next(iter(module(shards).train_dataloader()))
    assert batch["hr"].dtype == batch["lr"].dtype == torch.uint8
    assert batch["lr"].shape == (2, 3, 9, 16, 16)


def test_degrading_in_the_workers_or_on_the_device_gives_the_same_batch(shards):
    workers, device = batches(module(shards)), batches(module(shards, device_degradation=on_device))
    assert all(same(a, b) for a, b in zip(workers, device, strict=True))


def test_worker_processes_change_nothing(shards):
    assert all(same(a, b) for a, b in zip(batches(module(shards)), batches(module(shards, workers=2)), strict=True))


def test_another_seed_gives_other_batches(shards):
    assert not torch.equal(batches(module(shards))[0]["hr"], batches(module(shards, seed=6))[0]["hr"])


def test_a_run_that_goes_on_gets_exactly_the_batches_that_were_next(shards):
    whole = batches(module(shards))
    killed = module(shards)
    for batch, _ in zip(killed.train_dataloader(), range(2), strict=False):
        killed.on_after_batch_transfer(batch, 0)
    resumed = module(shards)
    resumed.load_state_dict(killed.state_dict())
    rest = batches(resumed)
    assert all(same(a, b) for a, b in zip(rest[:2], whole[2:], strict=True))
    assert killed.state_dict()["next"] == (0, 2)
    assert resumed.state_dict()["next"] == (1, 2)
    with pytest.raises(ValueError, match="seed=5, this one has 6"):
        module(shards, seed=6).load_state_dict(killed.state_dict())


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def training_step(self, batch):
        self.seen.append(batch["seed"].tolist())
        return self.weight.sum()

    def validation_step(self, batch):
        assert batch["hr"].shape[1] == 3

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


ECHO = {"echo": 3, "pool": 3, "turn": True}  # with four batches, an epoch has 12 steps


@pytest.mark.parametrize(
    ("stops", "options"),
    [
        ([6], {}),
        ([5, 14], ECHO),  # among the steps of a batch, and again: passes then begin there
        ([12], ECHO),  # at the end of an epoch
        ([11, 12, 13], {"echo": 3}),
        pytest.param([7, 24], ECHO | {"workers": 2}, marks=pytest.mark.slow),  # two processes for each of four runs
    ],
)
@pytest.mark.parametrize("saved", ["after a step", "at the end"])
def test_a_run_that_lightning_resumes_gets_the_batches_of_one_that_never_stopped(
    shards, tmp_path, stops, options, saved
):
    """Those after the epoch in which it was resumed, too."""
    steps = 11 if not options else 38
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)

    def train(steps, resume=None):
        model = Recorder()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=steps,
            default_root_dir=tmp_path,
            limit_val_batches=1,
            num_sanity_val_steps=1,
            callbacks=[keep] if saved == "after a step" else [],
            **quiet,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = module(shards, val=str(shards), **options)
            trainer.fit(model, data, ckpt_path=resume, weights_only=True if resume else None)
        if saved == "at the end":
            trainer.save_checkpoint(tmp_path / f"step={steps}.ckpt")
        return model.seen

    whole = train(steps)
    assert len({tuple(seeds) for seeds in whole}) > 8
    assert train(stops[0]) == whole[: stops[0]]
    for done, stop in itertools.pairwise([*stops, steps]):
        assert train(stop, tmp_path / f"step={done}.ckpt") == whole[done:stop]


def test_validation_is_the_same_every_time_and_shows_every_sample(shards):
    data = module(shards, val=str(shards))
    first, again = ([batch["hr"] for batch in data.val_dataloader()] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(first) == 7
    assert module(shards).val_dataloader() == []


@pytest.mark.parametrize("where", ["workers", "device"])
def test_the_validation_may_be_degraded_by_other_means_than_the_training(shards, where):
    def darker(clip, seed):
        return clip[..., ::4, ::4] // 2

    options = {"validation": ValidationOptions(degradation=darker), "val": str(shards)}
    options |= {"device_degradation": on_device} if where == "device" else {}
    data = module(shards, **options)
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch["lr"], batch["hr"][..., ::4, ::4] // 2)
    assert torch.equal(data._degraded(batch)["lr"], batch["lr"])  # the device leaves it alone
    assert all(same(a, b) for a, b in zip(batches(data), batches(module(shards)), strict=True))


def test_a_broken_sample_is_replaced_named_and_counted(shards):
    spoil(shards, lambda key: key == "photo_1")
    data = module(shards, fraction=1.0, batches=8)
    with pytest.warns(UserWarning, match=r"photo_1: cannot decode") as said:
        assert len(batches(data)) == 8
    assert len([line for line in said if "photo_1" in str(line.message)]) == 1
    ((line, count),) = data.broken.items()
    assert count >= 2
    assert ".tar" in line


def test_when_everything_is_broken_training_stops(shards):
    spoil(shards, lambda key: True)
    with pytest.raises(ShardError, match="16 broken samples in a row"):
        batches(module(shards))


def spoil(shards, chosen):
    from flashvsr.data.shards import ShardIndex

    for entry in ShardIndex(shards).entries:
        if chosen(entry.key):
            with Path(entry.shard).open("r+b") as file:
                file.seek(entry.offset)
                file.write(b"\0" * entry.size)


def test_what_cannot_be_used_is_said_at_the_start(shards):
    with pytest.raises(ShardError, match="no usable samples"), pytest.warns(UserWarning, match="smaller than the crop"):
        module(shards, crop=256).train_dataloader()


def test_no_photographs_for_images_is_an_error(shards, tmp_path, write_clip):
    from fractions import Fraction

    from flashvsr.data.shard_writer import ShardRules, make_shards
    from flashvsr.video import VideoInfo

    info = VideoInfo(128, 96, Fraction(25), Fraction(1, 90000))
    clip = write_clip(tmp_path / "a.mp4", [Fraction(0), Fraction(1, 25)], info)
    make_shards([clip], tmp_path / "videos", ShardRules())
    with pytest.raises(ShardError, match="1 videos and 0 photographs"):
        module(tmp_path / "videos", images_per_batch=1).setup("fit")
    assert batches(module(tmp_path / "videos"))[0]["hr"].shape[2] == 9  # two frames, reflected


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"device_degradation": on_device, "degradation": Area()}, "not both"),
        ({"degradation": None}, "not none"),
        ({"crop": 60}, "multiples of 8"),
        ({"batch_size": 0}, "count from 1"),
        ({"fraction": 2.0}, "in \\[0, 1\\]"),
    ],
)
def test_arguments_that_cannot_be_are_refused(shards, wrong, words):
    with pytest.raises(ValueError, match=words):
        module(shards, **wrong)


def test_a_degradation_of_another_size_is_refused(shards):
    with pytest.raises(ValueError, match="expected uint8"):
        batches(module(shards, degradation=lambda clip, seed: clip))


def test_stages_see_the_pixels_that_a_stream_shows_its_model():
    small = torch.randint(0, 256, (2, 3, 3, 24, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    canvas = Canvas(24, 16, 4, 32, torch.device("cpu"), torch.float32)
    streamed = torch.cat([canvas.to_model(clip.transpose(0, 1))[..., :96, :64] for clip in small])
    torch.testing.assert_close(upsample(small, (96, 64)), streamed, atol=1e-6, rtol=0)


def test_upsampling_is_that_of_pillow():
    import numpy as np
    from PIL import Image

    small = torch.randint(60, 200, (1, 3, 1, 12, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    picture = Image.fromarray(small[0, :, 0].permute(1, 2, 0).numpy()).resize((64, 48), Image.Resampling.BICUBIC)
    ours = ((upsample(small, (48, 64))[0, :, 0] + 1) * 127.5).permute(1, 2, 0)
    apart = (ours - torch.from_numpy(np.array(picture)).float()).abs()
    assert apart.max() < 1.01
    assert (apart > 0.01).float().mean() < 0.005


def test_a_recipe_builds_it(shards):
    parser = ArgumentParser()
    parser.add_subclass_arguments(ShardDataModule, "data")
    config = f"""
    class_path: flashvsr.data.lit.ShardDataModule
    init_args:
      train: [{shards}]
      crop: [64, 96]
      photos: {{motion: {{pan: 2}}}}
      degradation: {{class_path: {__name__}.Area}}
    """
    built = parser.instantiate_classes(parser.parse_object({"data": __import__("yaml").safe_load(config)})).data
    assert next(iter(built.train_dataloader()))["hr"].shape[-2:] == (64, 96)


def _rank(rank, world, store, shards, queue):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    torch.set_num_threads(1)
    data = module(shards, batch_size=2, batches=3)
    queue.put((rank, [(batch["seed"].tolist(), batch["hr"].sum(dim=(1, 2, 3, 4)).tolist()) for batch in batches(data)]))
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_share_the_global_batches_of_one(shards, tmp_path):
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    ranks = [context.Process(target=_rank, args=(r, 2, tmp_path / "store", shards, queue)) for r in range(2)]
    for process in ranks:
        process.start()
    parts = dict(queue.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(60)
    whole = batches(module(shards, batch_size=4, batches=3))
    assert len(parts[0]) == len(parts[1]) == 3
    for number, batch in enumerate(whole):
        (first, sums), (second, others) = parts[0][number], parts[1][number]
        assert not set(first) & set(second)
        together = dict(zip(first + second, sums + others, strict=True))
        expected = dict(zip(batch["seed"].tolist(), batch["hr"].sum(dim=(1, 2, 3, 4)).tolist(), strict=True))
        assert together == expected


def test_echo_gives_each_batch_several_times_and_goes_on_in_the_middle_of_them(shards):
    plain = batches(module(shards))
    echoed = batches(module(shards, echo=3))
    assert len(echoed) == 12
    assert all(same(batch, plain[step // 3]) for step, batch in enumerate(echoed))
    rest = after(5, shards, echo=3)
    assert all(same(a, b) for a, b in zip(rest[:7], echoed[5:], strict=True))


def test_a_pool_mixes_the_clips_of_the_last_batches_and_no_others(shards):
    plain = [batch["seed"].tolist() for batch in batches(module(shards, images_per_batch=1))]
    data = module(shards, images_per_batch=1, echo=4, pool=2)
    drawn = batches(data)
    for step, batch in enumerate(drawn):
        newest = step // 4
        kept = [seed for seeds in plain[max(0, newest - 1) : newest + 1] for seed in seeds]
        assert len(set(batch["seed"].tolist())) == 2  # no clip twice in a batch
        assert set(batch["seed"].tolist()) <= set(kept)
    sets = [tuple(sorted(batch["seed"].tolist())) for batch in drawn[4:]]
    assert len(set(sets)) > len(sets) // 2
    first = {
        seed: clip
        for batch in batches(module(shards))
        for seed, clip in zip(batch["seed"].tolist(), batch["hr"], strict=True)
    }
    for batch in drawn:  # every clip is drawn with its own pictures
        assert all(
            torch.equal(clip, first[seed]) for seed, clip in zip(batch["seed"].tolist(), batch["hr"], strict=True)
        )


def test_turning_shows_every_clip_in_its_eight_views_lr_and_truth_alike(shards):
    plain = {
        seed: batch["hr"][row] for batch in batches(module(shards)) for row, seed in enumerate(batch["seed"].tolist())
    }
    seen = set()
    for batch in batches(module(shards, echo=40, turn=True)):
        for seed, lr, hr in zip(batch["seed"].tolist(), batch["lr"], batch["hr"], strict=True):
            views = [
                view for x in (plain[seed], plain[seed].mT) for view in (x, x.flip(-1), x.flip(-2), x.flip(-1, -2))
            ]
            (view,) = (number for number, view in enumerate(views) if torch.equal(view, hr))
            seen.add((seed, view))
            assert (area(hr) - area(lr)).abs().mean() < 0.02  # the same view of both
    assert len(seen) > 7 * len(plain)
    assert same(batches(module(shards, turn=True))[0], batches(module(shards, turn=True))[0])


def area(x):
    return interpolate(x.transpose(0, 1), scale_factor=0.125, mode="area")


class Preparing(L.LightningModule):
    """Keeps a number of each clip, and notes how often it was asked to."""

    def __init__(self):
        super().__init__()
        self.asked, self.drawn = 0, []

    def prepare(self, batch):
        self.asked += len(batch["hr"]) if batch["hr"].shape[2] > 1 else 0  # images are asked for beside
        return {"mean": batch["hr"].mean((1, 2, 3, 4))}

    def training_step(self, batch, batch_idx):
        self.drawn.append(batch)

    def configure_optimizers(self):
        return None


@pytest.mark.parametrize("turn", [False, True])
def test_what_a_stage_prepares_of_a_clip_is_computed_once_and_comes_with_it(shards, turn):
    stage = Preparing()
    trainer = L.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, barebones=True)
    trainer.fit(stage, module(shards, echo=3, pool=2, images_per_batch=1, turn=turn))
    assert len(stage.drawn) == 12
    assert stage.asked == (0 if turn else 8)  # else once for each of four batches of two clips
    for batch in stage.drawn:
        for part in (batch, batch["image"]):
            assert ("mean" in part) != turn
            assert turn or torch.equal(part["mean"], part["hr"].mean((1, 2, 3, 4)))


@pytest.mark.parametrize("done", [1, 6, 18])
def test_a_resumed_run_fills_its_pool_again_and_draws_the_same(shards, done):
    options = {"echo": 2, "pool": 3, "images_per_batch": 1}
    data = module(shards, **options)
    whole = [batch for _ in range(4) for batch in batches(data)]
    rest = after(done, shards, **options)
    assert all(same(a, b) for a, b in zip(rest, whole[done : done + len(rest)], strict=True))
    with pytest.raises(ValueError, match="pool=3, this one has 1"):
        module(shards, echo=2, images_per_batch=1).load_state_dict(data.state_dict())


def test_a_pass_that_begins_among_the_steps_of_a_batch_is_as_long_as_any_other(shards):
    options = {"echo": 3, "pool": 2}
    data = module(shards, **options)
    whole = [batch for _ in range(3) for batch in batches(data)]
    cut = module(shards, **options)
    parts = [cut.on_after_batch_transfer(batch, 0) for batch in itertools.islice(cut.train_dataloader(), 5)]
    parts += batches(cut)  # the pool is full and holds the batch
    assert len(parts) == 17
    assert len(after(5, shards, **options)) == 12  # the pool is empty
    assert all(same(a, b) for a, b in zip(parts + batches(cut), whole, strict=False))


def after(steps, shards, **options):
    """The batches of a run that was killed after some steps and went on."""
    killed, taken = module(shards, **options), 0
    while taken < steps:
        for batch in killed.train_dataloader():
            killed.on_after_batch_transfer(batch, 0)
            taken += 1
            if taken == steps:
                break
    resumed = module(shards, **options)
    resumed.load_state_dict(killed.state_dict())
    return batches(resumed)
