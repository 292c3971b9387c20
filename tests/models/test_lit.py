"""What a stage leaves behind can be read, with the weights that were trained."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import load_file
from torch import nn

from flashvsr.attention import FullAttention, LocalSparseAttention
from flashvsr.decoders import TinyDecoder
from flashvsr.models import FlowSchedule, VideoDiT, component
from flashvsr.models.folder import Component, read_model_folder, save_model_folder
from flashvsr.models.lit import ExportModelFolder, gather_tensors, plain_part, trained_component
from flashvsr.training.callbacks import LastCheckpoint, Throughput, WeightAverage

SIZES = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 48, "text_dim": None}
FULL = {"class_path": "flashvsr.attention.FullAttention", "init_args": {}}
SPARSE = {"class_path": "flashvsr.attention.LocalSparseAttention", "init_args": {"history": 1}}
DIT = {"class_path": "flashvsr.models.VideoDiT", "init_args": {**SIZES, "attention": FULL}}
DECODER = {"class_path": "flashvsr.decoders.TinyDecoder", "init_args": {"channels": (8, 8, 8, 8)}}


class Stage(LightningModule):
    def __init__(self, **networks):
        super().__init__()
        for name, network in networks.items():
            setattr(self, name, network)

    def training_step(self, batch, batch_idx):
        return sum(parameter.sum() for parameter in self.parameters() if parameter.requires_grad)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.zeros(2, 1))

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 1e-3)


def train(stage, callbacks, **options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(callbacks=callbacks, **{"max_steps": 2, "accelerator": "cpu", **quiet, **options})
    trainer.fit(stage)
    return stage


@pytest.fixture
def base(tmp_path):
    """A folder with a transformer of full attention and a decoder."""
    dit, decoder = VideoDiT(**SIZES, attention=FullAttention), TinyDecoder(channels=(8, 8, 8, 8))
    parts = {
        "dit": Component(DIT["class_path"], DIT["init_args"], dit),
        "decoder": Component(DECODER["class_path"], DECODER["init_args"], decoder),
    }
    save_model_folder(tmp_path / "base", parts, steps=20, color="none")
    return tmp_path / "base"


def test_a_component_keeps_its_weights_under_another_attention(base):
    dit = component(base, "dit", overrides={"attention": SPARSE})
    assert isinstance(dit.blocks[0].self_attn, LocalSparseAttention) and dit.history == 1
    assert dit.training
    kept = load_file(base / "dit.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in dit.state_dict().items())


def test_a_component_of_a_half_precision_folder_trains_in_fp32(base):
    parts = dict(read_model_folder(base).components)
    save_model_folder(base.with_name("half"), parts, dtype=torch.float16)
    assert {p.dtype for p in component(base.with_name("half"), "decoder").parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("nowhere", "dit"), FileNotFoundError, "nowhere"),
        (("BASE", "vae"), ValueError, "it has dit, decoder"),
        (("BASE", "dit", {"layrs": 2}), ValueError, "takes no 'layrs'"),
        (("BASE", "dit", {"dim": 64}), ValueError, "does not fit"),
    ],
)
def test_a_component_that_cannot_be_built_says_why(base, arguments, error, said):
    folder, name, *overrides = arguments
    with pytest.raises(error, match=said):
        component(base if folder == "BASE" else folder, name, overrides=overrides[0] if overrides else None)


def test_what_is_exported_is_what_was_trained_and_the_rest_is_copied(base, tmp_path):
    export = ExportModelFolder(tmp_path / "made", {"dit": "generator"}, base=base, steps=1, dtype="bf16")
    part = {"folder": str(base), "name": "dit", "overrides": {"attention": SPARSE}}
    export.recipe = {"generator": {"class_path": "flashvsr.models.component", "init_args": part}}
    stage = train(Stage(generator=component(base, "dit", overrides={"attention": SPARSE})), export)
    made = read_model_folder(tmp_path / "made")
    assert made.steps == 1 and made.color == "none"
    assert made.component("dit").init_args["attention"] == SPARSE
    written = component(tmp_path / "made", "dit").state_dict()
    trained = stage.generator.state_dict()
    assert all(torch.equal(value.bfloat16().float(), written[name]) for name, value in trained.items())
    assert not torch.equal(written["head.head.weight"], load_file(base / "dit.safetensors")["head.head.weight"])
    decoders = [load_file(folder / "decoder.safetensors") for folder in (base, tmp_path / "made")]
    assert all(torch.equal(value.bfloat16(), decoders[1][name]) for name, value in decoders[0].items())


def test_shift_and_solver_of_the_schedule_of_a_stage_are_written_and_those_of_the_base_kept(base, tmp_path):
    save_model_folder(tmp_path / "shifted", read_model_folder(base).components, steps=20, shift=3.0, solver="heun")
    for name, schedule, said in (("own", FlowSchedule(2.0), (2.0, "euler")), ("kept", None, (3.0, "heun"))):
        export = ExportModelFolder(tmp_path / name, {"dit": "dit"}, base=tmp_path / "shifted", steps=20)
        part = {"class_path": "flashvsr.models.component", "init_args": {"folder": str(base), "name": "dit"}}
        export.recipe = {"dit": part}
        train(Stage(dit=component(base, "dit"), schedule=schedule), export)
        written = read_model_folder(tmp_path / name)
        assert (written.shift, written.solver) == said
    export = ExportModelFolder(tmp_path / "other", {"dit": "dit"}, steps=20)
    with pytest.raises(ValueError, match="stores the shift of a FlowSchedule, got a schedule of the class Stage"):
        train(Stage(dit=component(base, "dit"), schedule=Stage()), export)
    with pytest.raises(ValueError, match="shift is a positive number, got 0"):
        save_model_folder(tmp_path / "zero", {}, shift=0)
        read_model_folder(tmp_path / "zero")
    with pytest.raises(ValueError, match="solver is one of euler, heun; got 'rk4'"):
        save_model_folder(tmp_path / "unknown", {}, solver="rk4")
        read_model_folder(tmp_path / "unknown")


def test_adapters_are_merged_into_what_is_exported(base, tmp_path):
    pytest.importorskip("peft", reason="peft is not installed: LoRA was not exported")
    from flashvsr.models import with_lora

    export = ExportModelFolder(tmp_path / "made", {"dit": "dit"})
    inner = {"class_path": "flashvsr.models.component", "init_args": {"folder": str(base), "name": "dit"}}
    export.recipe = {"dit": {"class_path": "flashvsr.models.with_lora", "init_args": {"module": inner, "rank": 2}}}
    stage = train(Stage(dit=with_lora(component(base, "dit"), rank=2)), export)
    written = component(tmp_path / "made", "dit")
    inputs = torch.randn(1, 16, 1, 4, 4), torch.tensor([500.0])
    with torch.no_grad():
        expected, found = (dit(*inputs, streaming=False)[0] for dit in (stage.dit, written))
        before, _ = component(base, "dit")(*inputs, streaming=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (expected - before).abs().max() > 1e-4


def test_the_wan_base_is_exported_under_its_builder():
    part = {"class_path": "flashvsr.models.load_wan_base", "init_args": {"path": "x", "attention": FULL}}
    lora = {"class_path": "flashvsr.models.with_lora", "init_args": {"module": part, "rank": 384}}
    assert plain_part(lora) == ("flashvsr.models.video_dit_1b", {"attention": FULL})


def test_a_network_of_another_library_is_not_exported():
    with pytest.raises(ValueError, match="not part of flashvsr"):
        trained_component({"class_path": "torch.nn.Linear", "init_args": {}}, {}, "it")


def test_an_export_without_a_recipe_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="does not know how 'decoder' is built"):
        train(Stage(decoder=nn.Linear(2, 2)), ExportModelFolder(tmp_path / "made", {"decoder": "decoder"}))


def test_an_existing_folder_is_refused_before_training_and_replaced_when_asked(base):
    for overwrite in (False, True):
        export = ExportModelFolder(base, {"decoder": "decoder"}, overwrite=overwrite)
        export.recipe = {"decoder": DECODER}
        stage = Stage(decoder=TinyDecoder(channels=(8, 8, 8, 8)))
        if not overwrite:
            with pytest.raises(FileExistsError, match="overwrite: true"):
                train(stage, export)
            assert set(read_model_folder(base).components) == {"dit", "decoder"}
        else:
            train(stage, export)
            assert set(read_model_folder(base).components) == {"decoder"}


def test_nothing_is_written_in_a_fast_dev_run(tmp_path):
    export = ExportModelFolder(tmp_path / "made", {"decoder": "decoder"})
    train(Stage(decoder=TinyDecoder(channels=(8, 8, 8, 8))), export, fast_dev_run=True)
    assert not (tmp_path / "made").exists()


class Watch(Callback):
    """Keeps the weights after every step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *unused):
        self.seen.append(pl_module.trained.weight.detach().clone())


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_a_short_run_leaves_the_mean_of_the_weights_it_went_through(decay):
    stage, watch = Stage(trained=nn.Linear(2, 1), kept=nn.Linear(2, 1).requires_grad_(False)), Watch()
    stage.register_buffer("count", torch.zeros((), dtype=torch.int64))
    kept = stage.kept.weight.clone()
    train(stage, [watch, WeightAverage(decay)])
    first, last = watch.seen
    assert not torch.equal(first, last)
    torch.testing.assert_close(stage.trained.weight.detach(), (first + last) / 2 if decay else last)
    assert torch.equal(stage.kept.weight, kept)


def test_later_steps_count_by_the_decay():
    stage, watch = Stage(trained=nn.Linear(2, 1)), Watch()
    train(stage, [watch, WeightAverage(0.5)], max_steps=4, max_epochs=2)
    expected = watch.seen[0]
    for weight in watch.seen[1:]:
        expected = (expected + weight) / 2
    torch.testing.assert_close(stage.trained.weight.detach(), expected)


@pytest.mark.gpu
def test_the_average_lies_on_the_gpu_that_trains():
    average = WeightAverage()
    train(Stage(trained=nn.Linear(2, 1)), average, accelerator="gpu", devices=1)
    assert {parameter.device.type for parameter in average._average_model.parameters()} == {"cuda"}


def test_gathered_tensors_are_copies():
    module = nn.Linear(2, 2)
    whole = gather_tensors(module)
    with torch.no_grad():
        module.weight.add_(1)
    assert not torch.equal(whole["weight"], module.weight)
    assert gather_tensors(module, keep=False) == {}


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="'teacher'"):
        ExportModelFolder("made", {"teacher": "dit"})
    with pytest.raises(ValueError, match="'int8'"):
        ExportModelFolder("made", {"dit": "dit"}, dtype="int8")
    with pytest.raises(ValueError, match="window=0"):
        Throughput(0)
    with pytest.raises(ValueError, match=r"got 1\.0"):
        WeightAverage(1.0)


@pytest.mark.parametrize("together", [True, False])
def test_only_processes_that_stop_together_wait_for_one_another_after_ctrl_c(tmp_path, together):
    stage = Stage(decoder=TinyDecoder(channels=(8, 8, 8, 8)))
    callback = ExportModelFolder(tmp_path / "made", {"decoder": "decoder"})
    callback.recipe = {"decoder": DECODER}
    last = LastCheckpoint(tmp_path)
    last.stops = together
    waited = []
    trainer = SimpleNamespace(
        world_size=2, global_step=1, fast_dev_run=False, is_global_zero=True, callbacks=[last],
        strategy=SimpleNamespace(barrier=waited.append),
    )  # fmt: skip
    callback.on_exception(trainer, stage, KeyboardInterrupt())
    assert read_model_folder(tmp_path / "made").components.keys() == {"decoder"}
    assert len(waited) == together
