import gc
import pickle
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from flashvsr.data import BatchDegradation, CameraMotion
from flashvsr.data.batches import plan_loader
from flashvsr.data.lit import ShardDataModule
from flashvsr.data.memory import FootageInMemory, StoredFrames
from flashvsr.data.sampling import derive_seed
from flashvsr.data.settings import EpochOptions, LoaderOptions, MemoryOptions, PhotoOptions

MOVING = CameraMotion(still=0)
STILL = CameraMotion(pan=0, zoom=1, rotation=0, shake=0)


def _picture(seed: int, height: int = 96, width: int = 128) -> torch.Tensor:
    small = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    return (large[0] * 255).byte()


def _video(frames: int = 12) -> torch.Tensor:
    return torch.stack([_picture(number) for number in range(frames)])


def _footage(motion: CameraMotion = MOVING, **options) -> FootageInMemory:
    return FootageInMemory([_video()], [_picture(99)], motion, MemoryOptions(**options))


def _clip(footage: FootageInMemory, photo: bool, seed: int, frames: int = 5, crop=(48, 64)) -> torch.Tensor:
    return footage.batch([photo], [0], [seed], frames, crop)[0].transpose(0, 1)


@pytest.mark.parametrize("photo", [False, True])
def test_a_clip_is_a_function_of_its_seed_and_not_of_its_batch(photo):
    footage = _footage()
    together = footage.batch([photo, photo], [0, 0], [1, 2], 5, (48, 64))
    assert together.shape == (2, 3, 5, 48, 64) and together.dtype == torch.uint8
    assert torch.equal(together[1].transpose(0, 1), _clip(footage, photo, 2))
    assert not torch.equal(together[0], together[1])


def test_a_clip_of_full_size_is_cut_out_of_consecutive_frames():
    video, found = _video(), 0
    for seed in range(6):
        clip = _clip(_footage(), False, seed, frames=3)
        rng = np.random.default_rng(derive_seed(seed, "memory"))
        rng.uniform(1, 1)
        start, top, left = (int(rng.integers(0, room + 1)) for room in (9, 48, 64))
        part = video[start : start + 3, :, top : top + 48, left : left + 64]
        found += any(torch.equal(clip, part.flip(dims) if dims else part) for dims in ([], [0], [3], [0, 3]))
    assert found == 6


def test_shrinking_takes_a_larger_part_as_far_as_there_is_one():
    fine = torch.zeros(3, 3, 96, 128, dtype=torch.uint8)
    fine[..., ::2] = 255  # stripes of one pixel: gone when two become one
    plain, shrunk = (
        FootageInMemory([fine], [], STILL, MemoryOptions(shrink=(factor, factor))).batch([False], [0], [3], 3, (48, 64))
        for factor in (1.0, 2.0)
    )
    assert plain.float().std() > 100 and shrunk.float().std() < 20
    whole = FootageInMemory([fine], [], STILL, MemoryOptions(shrink=(9.0, 9.0)))
    assert whole.batch([False], [0], [3], 3, (48, 64)).float().std() < 20


def test_a_short_video_is_reflected_in_time():
    video = _video(2)
    clip = FootageInMemory([video], [], STILL, MemoryOptions()).batch([False], [0], [0], 5, (96, 128))[0]
    assert torch.equal(clip[:, 0], clip[:, 2]) and torch.equal(clip[:, 1], clip[:, 3])
    assert not torch.equal(clip[:, 0], clip[:, 1])


def test_a_camera_moves_over_a_photograph_and_without_strength_stands_still():
    moving, still = (_clip(_footage(motion), True, 4, frames=9) for motion in (CameraMotion(pan=6, still=0), STILL))
    assert (moving[1:].float() - moving[:-1].float()).abs().mean() > 0.5
    assert all(torch.equal(frame, still[0]) for frame in still)
    pixels = _picture(99)
    places = [pixels[:, top : top + 48, left : left + 64] for top in range(49) for left in range(65)]
    assert any(torch.equal(still[0], place) or torch.equal(still[0].flip(2), place) for place in places)


def test_a_shift_by_whole_pixels_reads_the_photograph_where_the_map_says():
    from flashvsr.data.memory import _warped

    photo = _picture(7)
    maps = torch.tensor([[[1.0, 0, 20], [0, 1.0, 10]], [[1.0, 0, 33], [0, 1.0, 12]]])
    made = _warped(photo[None], maps, (48, 64))
    for frame, (left, top) in zip(made, ((20, 10), (33, 12)), strict=True):
        difference = (frame.float() - photo[:, top : top + 48, left : left + 64].float()).abs()
        assert difference.mean() < 1.5  # of 255: a twofold enlargement and a bilinear look-up


@pytest.mark.parametrize("options", [{"shrink": (0.5, 1.0)}, {"shrink": (2.0, 1.5)}, {"threads": 0}, {"processes": -1}])
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        MemoryOptions(**options)


def _module(shards, **options) -> ShardDataModule:
    degradation = BatchDegradation("mild", clean_fraction=0.5, threads=1, drift=False)
    settings = {
        "epoch": EpochOptions(batches=3, **options.pop("epoch", {})),
        "photos": PhotoOptions(fraction=0.5, images_per_batch=options.pop("images", 0)),
        "loader": LoaderOptions(workers=0, memory=MemoryOptions(shrink=(1.0, 1.5))),
        "device_degradation": degradation,
    }
    return ShardDataModule(str(shards), batch_size=2, frames=5, crop=64, seed=5, **settings | options)


def _batches(data: ShardDataModule) -> list[dict]:
    return [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]


def test_the_data_module_gives_what_the_stages_take_and_the_same_again(shards):
    first, second = _batches(_module(shards, images=1)), _batches(_module(shards, images=1))
    assert first[0]["hr"].shape == first[0]["lr"].shape == (2, 3, 5, 64, 64)
    assert first[0]["image"]["hr"].shape == (1, 3, 1, 64, 64)
    assert first[0]["hr"].abs().max() <= 1 and first[0]["hr"].std() > 0.05
    assert (first[0]["hr"] - first[0]["lr"]).abs().mean() < 0.3
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a["hr"], b["hr"]) and torch.equal(a["lr"], b["lr"])
    assert not torch.equal(first[0]["hr"], first[1]["hr"])


def test_a_resumed_run_gets_the_batches_that_were_next(shards):
    whole, stopped = _batches(_module(shards)), _module(shards)
    stopped.on_after_batch_transfer(next(iter(stopped.train_dataloader())), 0)
    resumed = _module(shards)
    resumed.load_state_dict(stopped.state_dict())
    for a, b in zip(_batches(resumed)[:2], whole[1:], strict=True):
        assert torch.equal(a["hr"], b["hr"]) and torch.equal(a["lr"], b["lr"])


def test_footage_is_decoded_once_however_many_epochs_run(shards, monkeypatch):
    calls = []
    import flashvsr.data.lit as lit

    load = lit.load_footage
    monkeypatch.setattr(lit, "load_footage", lambda *arguments: calls.append(1) or load(*arguments))
    data = _module(shards)
    _batches(data)
    _batches(data)
    assert len(calls) == 1


def test_stored_pictures_are_the_same_in_a_process_that_gets_them(tmp_path):
    pictures = [_picture(0), _picture(1, 32, 48), _picture(2)]
    (tmp_path / "photos").write_bytes(b"".join(picture.numpy().tobytes() for picture in pictures))
    stored = StoredFrames(tmp_path / "photos", [picture.shape for picture in pictures])
    assert stored[0].shape == pictures[0].shape
    got = pickle.loads(pickle.dumps(stored))
    assert len(got) == 3 and all(torch.equal(got[number], pictures[number]) for number in range(3))


def _in_processes(shards, workers: int = 1, **options) -> ShardDataModule:
    data = _module(shards, **options)
    memory = replace(data._loader_options.memory, processes=workers)
    return _module(shards, **options, loader=replace(data._loader_options, memory=memory))


def test_the_makers_of_clips_give_those_that_the_training_would_have_made(shards, monkeypatch):
    data = _in_processes(shards, images=1)
    here = lambda dataset, plans, options, **unused: plan_loader(dataset, plans, options, workers=0)  # noqa: E731
    monkeypatch.setattr("flashvsr.data.lit.plan_loader", here)
    made = _batches(data)
    folder = data._folder.name
    for a, b in zip(made, _batches(_module(shards, images=1)), strict=True):
        assert torch.equal(a["hr"], b["hr"]) and torch.equal(a["lr"], b["lr"]) and torch.equal(a["seed"], b["seed"])
        assert torch.equal(a["image"]["lr"], b["image"]["lr"])
    assert sorted(file.name for file in Path(folder).iterdir()) == ["photos", "videos"]
    del data
    gc.collect()
    assert not Path(folder).exists()


@pytest.mark.slow  # spawns processes that import the library
def test_makers_of_clips_run_in_processes_of_their_own(shards):
    for a, b in zip(_batches(_in_processes(shards, 2)), _batches(_module(shards)), strict=True):
        assert torch.equal(a["hr"], b["hr"]) and torch.equal(a["lr"], b["lr"])


class _Step(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def training_step(self, batch):
        self.seen.append(tuple(batch["hr"].shape))
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_trainer_learns_from_memory_with_a_pool(shards, tmp_path):
    stage = _Step()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(accelerator="cpu", max_steps=5, default_root_dir=tmp_path, **quiet)
    trainer.fit(stage, _module(shards, epoch={"echo": 2, "pool": 2, "turn": True}))
    assert stage.seen == [(2, 3, 5, 64, 64)] * 5


def test_memory_without_a_degradation_on_the_device_is_refused():
    with pytest.raises(ValueError, match="give device_degradation"):
        ShardDataModule("x", degradation=lambda clip, seed: clip, loader=LoaderOptions(memory=MemoryOptions()))


def test_without_drift_all_frames_of_a_clip_are_spoiled_alike():
    from flashvsr.data.degrade import Blur, Codec, DegradationRound, Jpeg, Noise, Resize

    quiet = {"noise": Noise(probability=0), "jpeg": Jpeg(probability=0), "codec": Codec(probability=0)}
    blur = Blur(sigma=(0.5, 3.0), sigma_step=0.5)
    rounds = {"first": DegradationRound(blur=blur, resize=Resize(probability=0), **quiet)}
    rounds["second"] = DegradationRound(blur=Blur(probability=0), resize=Resize(probability=0), **quiet)
    clip = _picture(1, 64, 64)[None, :, None].expand(1, 3, 6, 64, 64).contiguous()
    held, drifting = (
        BatchDegradation("mild", sinc=Blur(probability=0), threads=1, drift=drift, **rounds)(clip, torch.tensor([3]))
        for drift in (False, True)
    )
    assert all(torch.equal(held[:, :, 0], held[:, :, t]) for t in range(6))
    assert not torch.equal(drifting[:, :, 0], drifting[:, :, 5])
    assert torch.equal(held[:, :, 0], drifting[:, :, 0])
