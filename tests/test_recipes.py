"""Every recipe parses, nano's run through the command line, and what they leave behind streams."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import flashvsr
from flashvsr import attention
from flashvsr.attention import LocalSparseAttention, TokenGrid, block_means
from flashvsr.cli import main
from flashvsr.cli.fit import RecipeCLI, RecipeParser
from flashvsr.evaluate import encoded_lr
from flashvsr.models import VideoDiT, video_dit_1b
from flashvsr.models.class_paths import build
from flashvsr.models.folder import read_model_folder
from tests.toy_recipes import SMALL, make_toy_shards

RECIPES = Path(flashvsr.__file__).parents[1] / "recipes"
STAGES = ("vae", "stage1_joint", "stage2_sparse_causal", "decoder", "stage3_one_step")
PLANS = ("attention", "decoders")
"""Of `flashvsr ablate`: they name recipes and are none."""
ABLATIONS = sorted({file.stem for file in (RECIPES / "ablations").glob("*.yaml")} - set(PLANS))


class ParseOnly(RecipeCLI):
    """Parses, and builds nothing."""

    def _add_instantiators(self):
        pass

    def before_instantiate_classes(self):
        pass

    def instantiate_classes(self):
        pass

    def after_instantiate_classes(self):
        pass


def parse(*recipes, **overrides):
    arguments = [argument for recipe in recipes for argument in ("-c", str(recipe))]
    return deepcopy(parsed_once(*arguments, *(f"--{key}={value}" for key, value in overrides.items())))


@cache
def parsed_once(*arguments):
    """The same recipes are asked for by many tests, and each parser takes a third of a second."""
    cli = ParseOnly("fit", arguments)
    assert isinstance(cli.parser, RecipeParser)
    return cli.config.as_dict()


def base_of(ablation):
    """The recipe that its header says it goes on top of."""
    text = (RECIPES / "ablations" / f"{ablation}.yaml").read_text()
    named = re.search(rf"fit -c (nano/\w+) -c ablations/{ablation}\n", text)
    assert named, f"{ablation}.yaml does not say the command that runs it"
    return RECIPES / f"{named[1]}.yaml"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_toy_shards(tmp_path_factory.mktemp("material"))


@pytest.mark.parametrize("family", ["nano", "wan_1b"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_recipe_parses(family, stage):
    said = parse(RECIPES / family / f"{stage}.yaml")
    assert said["model"]["class_path"].endswith("Stage")


def test_both_families_hold_the_same_five_stages_and_nano_a_conditional_autoencoder():
    for family, more in (("nano", {"autoencoder"}), ("wan_1b", set())):
        assert {file.stem for file in (RECIPES / family).glob("*.yaml")} == set(STAGES) | more


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_ablation_parses_on_its_base_and_changes_it(ablation):
    base, changed = parse(base_of(ablation)), parse(base_of(ablation), RECIPES / "ablations" / f"{ablation}.yaml")
    assert changed["model"] != base["model"]
    assert changed["data"] == base["data"]
    folder = changed["trainer"]["callbacks"][-1]["init_args"]["folder"]
    assert folder == f"runs/nano/{changed['trainer']['logger']['init_args']['name']}"
    assert folder != base["trainer"]["callbacks"][-1]["init_args"]["folder"]
    assert folder in (RECIPES / "ablations" / f"{ablation}.yaml").read_text()


@pytest.mark.parametrize("recipe", sorted(RECIPES.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_recipe_says_what_it_does_its_command_and_what_it_needs(recipe):
    if recipe.parent.name == "curate":
        pytest.skip("not a recipe of `flashvsr fit`")
    header = "".join(line for line in recipe.open() if line.startswith("#"))
    assert header.startswith("# ")
    command = "ablate" if recipe.stem in PLANS else "fit -c"
    named = f"flashvsr {command} {recipe.parent.name}/{recipe.stem}" in header
    assert named or (recipe.parent.name == "ablations" and f"-c ablations/{recipe.stem}" in header)
    assert "# Needs" in header
    assert re.search("Leaves (the model folder )?runs/", header)


def kept_pairs(said):
    """The block pairs that the first layer of stage 2 computes on a clip of the recipe, for the same random tokens."""
    init_args, data = said["model"]["init_args"], said["data"]["init_args"]
    made = init_args["dit"]["init_args"]["overrides"]["attention"]
    layer = getattr(attention, made["class_path"].rpartition(".")[2])(64, 2, **made.get("init_args", {}))
    if not isinstance(layer, LocalSparseAttention):
        return None  # every token sees every other
    grid = TokenGrid((data["frames"] - 1) // 4, data["crop"] // 16, data["crop"] // 16)
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 2, grid.frames * grid.rows * grid.columns, 32)
    return layer.selection(query, block_means(key), grid, layer.history)


ATTENTION = [name for name in ABLATIONS if base_of(name).stem == "stage2_sparse_causal"]


@pytest.mark.parametrize("ablation", ATTENTION)
def test_an_ablation_of_attention_keeps_other_pairs_than_its_base_at_the_crop_of_the_recipe(ablation):
    base = kept_pairs(parse(base_of(ablation)))
    changed = kept_pairs(parse(base_of(ablation), RECIPES / "ablations" / f"{ablation}.yaml"))
    assert changed is None or not torch.equal(changed, base)


def test_an_override_on_the_command_line_reaches_what_is_interpolated():
    recipe = RECIPES / "nano" / "stage1_joint.yaml"
    said = parse(recipe, **{"trainer.max_steps": 321, "trainer.logger.init_args.name": "other"})
    assert said["model"]["init_args"]["scheduler"]["init_args"]["steps"] == 321
    assert said["trainer"]["callbacks"][-1]["init_args"]["folder"] == "runs/nano/other"
    assert said["trainer"]["callbacks"][-2]["init_args"]["dirpath"] == "runs/nano/checkpoints/other"


@pytest.mark.parametrize("recipe", [*STAGES, *ABLATIONS])
def test_every_learning_rate_of_nano_falls_until_the_end_that_the_command_line_sets(recipe):
    files = [base_of(recipe), RECIPES / "ablations" / f"{recipe}.yaml"] if recipe in ABLATIONS else []
    model = parse(*files or [RECIPES / "nano" / f"{recipe}.yaml"], **{"trainer.max_steps": 40000})["model"]["init_args"]
    schedulers = [model.get("scheduler"), (model.get("optimization") or {}).get("generator_scheduler")]
    assert [one["init_args"]["steps"] for one in schedulers if one] == [40000]


@pytest.mark.parametrize("recipe", ["nano/decoder", "nano/autoencoder", "nano/stage3_one_step"])
def test_validation_on_the_sharp_set_is_two_options_of_the_command(recipe):
    sharp = {"validation.degradation": "flashvsr.evaluate.encoded_lr", "val": "shards/sharp/*.tar"}
    said = parse(RECIPES / f"{recipe}.yaml", **{f"data.init_args.{name}": value for name, value in sharp.items()})
    assert said["data"]["init_args"]["validation"]["degradation"] is encoded_lr
    assert said["data"]["init_args"]["val"] == "shards/sharp/*.tar"


def test_settings_of_the_data_are_overridden_one_by_one_and_interpolated(tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text('data: {init_args: {epoch: {pool: "${.echo}"}, loader: {prefetch: "${..batch_size}"}}}')
    overrides = {"data.epoch.echo": 3, "data.batch_size": 5, "data.photos.motion.pan": 2.0}
    said = parse(RECIPES / "nano" / "stage1_joint.yaml", more, **overrides)["data"]["init_args"]
    assert said["epoch"] == {"batches": 60, "echo": 3, "pool": 3, "turn": False, "shards_at_once": None}
    assert (said["loader"]["workers"], said["loader"]["prefetch"]) == (2, 5)
    assert (said["photos"]["fraction"], said["photos"]["motion"]["pan"]) == (0.5, 2.0)


def test_an_unknown_setting_of_the_data_is_named_in_a_few_lines(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(RECIPES / "nano" / "stage1_joint.yaml", **{"data.epoch.ecko": 3})
    said = capsys.readouterr().err
    assert "ecko" in said
    assert len(said.splitlines()) <= 4


class BuildModel(RecipeCLI):
    """Builds everything but the trainer, which would ask for 32 GPUs."""

    def before_instantiate_classes(self):
        pass

    def instantiate_trainer(self, **unused):
        pass

    def after_instantiate_classes(self):
        pass


def _component(folder: str, name: str, *, overrides: dict | None = None, dtype: str = "fp32") -> nn.Module:
    """`flashvsr.models.component` without files: the published network of that name, empty."""
    built = {
        "dit": ("flashvsr.models.video_dit_1b", {}),
        "projection": ("flashvsr.models.lr_projection_1b", {}),
        "decoder": ("flashvsr.models.tiny_conditional_decoder_1b", {}),
        "vae": ("flashvsr.decoders.WanVAE", {}),
    }
    class_path, init_args = built[name]
    return build(class_path, {**init_args, **(overrides or {})})


def _nano_component(folder: str, name: str, *, overrides: dict | None = None, dtype: str = "fp32") -> nn.Module:
    """`flashvsr.models.component` without files: the network of that name that a nano recipe trains."""
    recipe = {"vae": "vae", "decoder": "decoder", "encoder": "autoencoder"}.get(name, "stage1_joint")
    part = parse(RECIPES / "nano" / f"{recipe}.yaml")["model"]["init_args"][name]
    return build(part["class_path"], {**part.get("init_args", {}), **(overrides or {})})


@pytest.mark.parametrize("stage", [*STAGES, "autoencoder", *ABLATIONS])
def test_every_recipe_of_nano_and_every_ablation_builds_its_stage(stage, monkeypatch):
    monkeypatch.setattr("flashvsr.models.component", _nano_component)
    files = [base_of(stage), RECIPES / "ablations" / f"{stage}.yaml"] if stage in ABLATIONS else []
    files = files or [RECIPES / "nano" / f"{stage}.yaml"]
    with torch.device("meta"):
        model = BuildModel("fit", [argument for file in files for argument in ("-c", str(file))]).model
    assert any(parameter.requires_grad for parameter in model.parameters())
    if stage.startswith("history_"):
        assert model.dit.history == int(stage.removeprefix("history_"))


@pytest.mark.parametrize(
    ("stage", "part"), [("stage1_joint", "encoder"), ("stage2_sparse_causal", "encoder"), ("decoder", "vae")]
)
def test_the_folder_that_a_stage_completes_is_the_one_that_it_reads(stage, part):
    said = parse(RECIPES / "nano" / f"{stage}.yaml", **{f"model.{part}.init_args.folder": "elsewhere"})
    assert said["trainer"]["callbacks"][-1]["init_args"]["base"] == "elsewhere"


def _load_wan_base(
    path: str, *, attention: Callable[[int, int], nn.Module], activation_checkpointing: bool = False
) -> VideoDiT:
    """`flashvsr.models.load_wan_base` without files."""
    return video_dit_1b(attention, activation_checkpointing=activation_checkpointing)


LORA_384 = 30 * (8 * 384 * (1536 + 1536) + 2 * 384 * (1536 + 8960))
PROJECTION = 287_845_888


@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        ("vae", {"decoder": 126_892_531}),
        ("stage1_joint", {"dit": LORA_384, "projection": PROJECTION}),
        ("stage2_sparse_causal", {"dit": LORA_384, "projection": PROJECTION}),
        ("decoder", {"decoder": 45_338_371}),
        (
            "stage3_one_step",
            {"dit": LORA_384, "projection": PROJECTION, "fake_score": LORA_384, "fake_projection": PROJECTION},
        ),
    ],
)
def test_a_recipe_of_the_paper_builds_its_stage_and_trains_what_it_says(stage, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flashvsr.models.component", _component)
    monkeypatch.setattr("flashvsr.models.load_wan_base", _load_wan_base)
    monkeypatch.setattr("flashvsr.distill.reconstruction._lpips", lambda net: torch.nn.Linear(1, 1))  # a download
    Path("models/FlashVSR-v1.1").mkdir(parents=True)
    torch.save(torch.zeros(1, 512, 4096, dtype=torch.bfloat16), "models/FlashVSR-v1.1/posi_prompt.pth")
    with torch.device("meta"):
        model = BuildModel("fit", ["-c", str(RECIPES / "wan_1b" / f"{stage}.yaml")]).model
    counted = {
        name: sum(p.numel() for p in network.parameters() if p.requires_grad)
        for name, network in model.named_children()
    }
    assert {name: count for name, count in counted.items() if count} == trained


def test_the_paper_trains_32_clips_at_a_time_at_a_rate_of_1e_5():
    for stage in STAGES:
        said = parse(RECIPES / "wan_1b" / f"{stage}.yaml")
        processes = said["trainer"]["num_nodes"] * said["trainer"]["devices"]
        assert processes * said["data"]["init_args"]["batch_size"] == 32
        given = said["model"]["init_args"]
        given = given | given.get("optimization", {})
        optimizers = [value for key, value in given.items() if key.endswith("optimizer") and value]
        assert {(one["init_args"]["lr"], one["init_args"]["weight_decay"]) for one in optimizers} == {(1e-5, 0.01)}


def fit(recipe, shards, *more, **overrides):
    small = SMALL | {"data.train": f"{shards}/*.tar", "data.val": f"{shards}/*.tar"} | overrides
    return main(["fit", "-c", str(recipe), *more, *(f"--{key}={value}" for key, value in small.items())])


def steps_of_optimizers(stage):
    checkpoint = torch.load(f"runs/nano/checkpoints/{stage}/last.ckpt", weights_only=True)
    states = [[float(entry["step"]) for entry in one["state"].values()] for one in checkpoint["optimizer_states"]]
    return [max(steps) for steps in states]


@pytest.mark.slow  # four trainings of two steps each, of nano at its real size, about half a minute
def test_nano_trains_from_shards_stage_after_stage_and_the_last_one_streams(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = ("autoencoder", "stage1_joint", "stage2_sparse_causal", "stage3_one_step")
    for recipe in stages:
        overrides = {"data.loader.memory.processes": "0"}
        overrides |= {"model.validation_steps": "2"} if recipe in ("stage1_joint", "stage2_sparse_causal") else {}
        if recipe == "stage3_one_step":
            overrides |= {"model.optimization.generator_every": "1", "trainer.max_steps": "6"}
            overrides["model.optimization.generator_scheduler.init_args.warmup"] = "1"
        else:
            overrides["model.scheduler.init_args.warmup"] = "1"
        assert fit(RECIPES / "nano" / f"{recipe}.yaml", shards, **overrides) == 0
        stage = recipe.partition("_")[0]
        assert all(steps >= 2 for steps in steps_of_optimizers(stage))
        assert len(steps_of_optimizers(stage)) == (3 if recipe == "stage3_one_step" else 1)
    assert {read_model_folder(f"runs/nano/{stage.partition('_')[0]}").color for stage in stages} == {"none"}
    teacher = read_model_folder("runs/nano/stage1")
    assert (teacher.steps, teacher.shift, teacher.solver) == (20, 1.0, "heun")
    system = flashvsr.load("runs/nano/stage3", device="cpu")
    assert system.upscale(torch.zeros(3, 3, 32, 32, dtype=torch.uint8)).shape == (3, 3, 128, 128)
    parameters = sum(parameter.numel() for parameter in system.parameters())
    assert parameters <= 8_000_000


@pytest.mark.slow  # three trainings at nano's real size
def test_the_controls_and_the_reconstruction_alone_train_without_transformers_before_them(
    shards, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    warmup = "model.optimization.generator_scheduler.init_args.warmup"
    for ablation, overrides in (
        ("control", {"model.scheduler.init_args.warmup": "1"}),
        ("reconstruction_only", {"data.loader.memory.processes": "0", warmup: "1"}),
        (
            "stage3_control",
            {"model.decoder.init_args.folder": "nano", "data.loader.memory.processes": "0", warmup: "1"},
        ),
    ):
        more = ("-c", str(RECIPES / "ablations" / f"{ablation}.yaml"))
        assert fit(base_of(ablation), shards, *more, **overrides) == 0
    assert set(read_model_folder("runs/nano/decoder_control").components) == {"decoder"}
    assert read_model_folder("runs/nano/decoder_control").color == "none"
    assert set(read_model_folder("runs/nano/stage3_control").components) == {"decoder"}
    system = flashvsr.load("runs/nano/reconstruction_only", device="cpu")
    assert system.color.method == "none"
    assert system.upscale(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 3, 128, 128)
