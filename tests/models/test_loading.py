"""Published downloads and folders of ours load whole or not at all, and say why not."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import flashvsr.models
from flashvsr.attention import LocalSparseAttention
from flashvsr.decoders import TinyConditionalDecoder, WanVAE
from flashvsr.models import LRProjection, VideoDiT, builders, loading, official
from flashvsr.models.class_paths import build
from flashvsr.models.folder import Component, read_model_folder, save_model_folder
from flashvsr.models.loading import choose_device, choose_dtype, find_model, load
from flashvsr.models.official import load_wan_base, read_official_folder
from flashvsr.models.weight_files import read_tensors
from tests.official_folder import write_official_folder

DIT = "diffusion_pytorch_model_streaming_dmd.safetensors"
PROMPT_SHAPE = (1, 5, 24)


def tiny_dit(attention=LocalSparseAttention, **options):
    return VideoDiT(32, 2, 2, 48, text_dim=24, attention=attention, **options)


def tiny_projection(variant="causal"):
    return LRProjection(hidden=(6, 10), dim=32, variant=variant)


def tiny_decoder():
    return TinyConditionalDecoder(channels=(16, 8, 8, 8))


def tiny_vae():
    return WanVAE(base_width=8)


TINY = {
    "video_dit_1b": tiny_dit,
    "lr_projection_1b": tiny_projection,
    "tiny_conditional_decoder_1b": tiny_decoder,
    "wan_vae": tiny_vae,
}
PARTS = {"dit": tiny_dit, "lq_proj": tiny_projection, "tcdecoder": tiny_decoder, "wan_vae": tiny_vae}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small folder in the published format, with the builders of the full size replaced by small ones."""
    for name, function in TINY.items():
        monkeypatch.setattr(function, "__module__", builders.__name__)
        monkeypatch.setattr(flashvsr.models, name, function)
    monkeypatch.setattr(official, "video_dit_1b", tiny_dit)
    monkeypatch.setattr(official, "PROMPT_SHAPE", PROMPT_SHAPE)
    shapes = {
        part: {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
        for part, make in PARTS.items()
    }
    folder = tmp_path / "FlashVSR"
    write_official_folder(folder, shapes, prompt_shape=PROMPT_SHAPE)
    return folder


@pytest.fixture
def ours(published, tmp_path):
    """The same model as a folder of ours."""
    folder = read_official_folder(published, version="v1.1")
    save_model_folder(tmp_path / "ours", folder.components, prompt=folder.prompt)
    return tmp_path / "ours"


def clip(frames=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 3, 16, 20), dtype=torch.uint8, generator=generator)


def edit(folder, change):
    """Change model.yaml."""
    file = folder / "model.yaml"
    said = yaml.safe_load(file.read_text())
    change(said)
    file.write_text(yaml.safe_dump(said))


# Published folders


def test_full_size_builders_have_exactly_the_published_tensors():
    manifest = json.loads((Path(__file__).parent.parent / "golden" / "manifest_full.json").read_text())
    made = {
        "dit": builders.video_dit_1b,
        "lq_proj": builders.lr_projection_1b,
        "tcdecoder": builders.tiny_conditional_decoder_1b,
        "wan_vae": builders.wan_vae,
    }
    for part, build_part in made.items():
        with torch.device("meta"):
            module = build_part()
        assert {name: list(t.shape) for name, t in module.state_dict().items()} == manifest[part], part
        assert sum(t.numel() for t in module.parameters()) == manifest["params"][part]


def test_a_published_folder_loads_every_tensor_and_streams(published):
    system = load(published, version="v1", device="cpu", dtype="fp32")
    for part, file in (("dit", DIT), ("projection", "LQ_proj_in.ckpt"), ("decoder", "TCDecoder.ckpt")):
        path = published / file
        saved = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        loaded = getattr(system, part).state_dict()
        assert loaded.keys() == saved.keys()
        assert all(torch.equal(loaded[name], saved[name].float()) for name in saved)
    assert system.upscale(clip()).shape == (3, 3, 64, 80)
    assert not any(parameter.requires_grad for parameter in system.parameters())


@pytest.mark.parametrize(("version", "variant"), [("v1", "buffered"), ("v1.1", "causal")])
def test_the_version_decides_the_variant_of_the_projection(published, version, variant):
    assert load(published, version=version, device="cpu").projection.variant == variant


def test_a_version_that_neither_hash_nor_user_tells_is_asked_for(published):
    with pytest.raises(ValueError, match=r'say version="v1" or version="v1.1"'):
        load(published, device="cpu")
    with pytest.raises(ValueError, match=r"version is one of v1, v1.1; got '1.1'"):
        load(published, version="1.1")


def test_the_known_hash_tells_version_1_1(published, monkeypatch):
    digest = hashlib.sha256((published / "LQ_proj_in.ckpt").read_bytes()).hexdigest()
    monkeypatch.setattr(official, "PROJECTION_V11_SHA256", digest)
    assert load(published, device="cpu").projection.variant == "causal"


def test_the_known_hash_contradicts_another_version(published, monkeypatch):
    digest = hashlib.sha256((published / "LQ_proj_in.ckpt").read_bytes()).hexdigest()
    monkeypatch.setattr(official, "PROJECTION_V11_SHA256", digest)
    with pytest.raises(ValueError, match=r"LQ_proj_in.ckpt is the published file of v1.1"):
        read_official_folder(published, version="v1")


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": []}', "{}"])
def test_an_index_that_is_none_is_refused_by_its_name(tmp_path, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ValueError, match=r"model.safetensors.index.json is damaged or no index"):
        read_tensors(index)


def test_a_missing_prompt_is_asked_for_by_name_and_place(published, tmp_path):
    elsewhere = (published / "posi_prompt.pth").rename(tmp_path / "elsewhere.pth")
    with pytest.raises(FileNotFoundError, match=r"posi_prompt.pth is not in .* under examples/WanVSR/prompt_tensor"):
        load(published, version="v1", device="cpu")
    by_path = load(published, version="v1", device="cpu", prompt=elsewhere)
    by_tensor = load(published, version="v1", device="cpu", prompt=torch.load(elsewhere))
    assert torch.equal(by_path.prompt, by_tensor.prompt)
    with pytest.raises(ValueError, match=r"a tensor \[1, 5, 24\], got \[1, 4, 24\]"):
        load(published, version="v1", device="cpu", prompt=torch.zeros(1, 4, 24))


def test_the_full_decoder_is_the_vae_bare_or_under_model_state(published):
    bare = load(published, version="v1", device="cpu", dtype="fp32", decoder="full")
    file = published / "Wan2.1_VAE.pth"
    torch.save({"model_state": torch.load(file)}, file)
    wrapped = load(published, version="v1", device="cpu", dtype="fp32", decoder="full", color="none")
    assert isinstance(wrapped.decoder, WanVAE)
    assert all(map(torch.equal, bare.decoder.parameters(), wrapped.decoder.parameters()))
    assert not wrapped.decoder.mean.is_meta
    assert torch.equal(wrapped.decoder.mean, tiny_vae().mean)
    with pytest.raises(ValueError, match="decoder is one of tiny, full; got 'fast'"):
        load(published, decoder="fast")


def test_a_component_that_is_not_there_is_named(published):
    (published / "TCDecoder.ckpt").unlink()
    with pytest.raises(ValueError, match="has no decoder; it has projection, dit, vae"):
        load(published, version="v1", device="cpu")


# Files that do not fit


def rewrite(file, change):
    if file.suffix == ".safetensors":
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)
    else:
        tensors = torch.load(file)
        change(tensors)
        torch.save(tensors, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blocks.1.ffn.0.bias"), r"VideoDiT: blocks.1.ffn.0.bias is missing \(1 such tensors"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra is unexpected"),
        (lambda t: t.update({"head.head.bias": torch.zeros(3)}), r"head.head.bias is \[3\], not \[64\]"),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named(published, change, message):
    rewrite(published / DIT, change)
    with pytest.raises(ValueError, match=message):
        load(published, version="v1", device="cpu")


def test_a_decoder_file_with_other_keys_is_refused_with_their_names(published):
    rewrite(published / "TCDecoder.ckpt", lambda t: t.update({"decoder.99.weight": t.pop("decoder.1.weight")}))
    with pytest.raises(ValueError, match=r"TCDecoder.ckpt does not fit .*: decoder.1.weight is missing; decoder.99"):
        load(published, version="v1", device="cpu")


@pytest.mark.parametrize(
    ("file", "keep", "message"),
    [
        (DIT, 0.5, r"is truncated at [\d,]+ of [\d,]+ bytes; \S+ is the first of \d+ lost tensors; download"),
        (DIT, 0.001, "is truncated within its header"),
        (DIT, 0, "is not a safetensors file"),
        ("LQ_proj_in.ckpt", 0.5, "is truncated or not a PyTorch file"),
        ("TCDecoder.ckpt", 0, "is truncated or not a PyTorch file"),
        ("posi_prompt.pth", 0.9, "is truncated or not a PyTorch file"),
    ],
)
def test_a_truncated_file_is_named(published, file, keep, message):
    content = (published / file).read_bytes()
    (published / file).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=f"{file} {message}"):
        load(published, version="v1", device="cpu")


@pytest.mark.parametrize("file", [DIT, "LQ_proj_in.ckpt", "posi_prompt.pth"])
def test_a_web_page_saved_under_the_name_of_a_file_is_refused(published, file):
    (published / file).write_text("<!DOCTYPE html><html>404: not found</html>" * 10)
    with pytest.raises(ValueError, match=f"{file} is .*; download or copy it again"):
        load(published, version="v1", device="cpu")


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the file ran')",)


def test_a_file_that_would_run_code_is_refused(published):
    torch.save({"conv1.weight": Harmful()}, published / "LQ_proj_in.ckpt")
    with pytest.raises(ValueError, match=r"LQ_proj_in.ckpt holds Python objects, which could run code"):
        load(published, version="v1", device="cpu")


def test_a_file_of_anything_but_named_tensors_is_refused(published):
    torch.save({"epoch": 3}, published / "TCDecoder.ckpt")
    with pytest.raises(ValueError, match=r"TCDecoder.ckpt does not hold named tensors"):
        load(published, version="v1", device="cpu")


# Folders of ours


def test_published_to_ours_and_back_into_memory_is_the_same_system(published, ours):
    assert sorted(file.name for file in ours.iterdir()) == [
        *("decoder.safetensors", "dit.safetensors", "model.yaml", "projection.safetensors"),
        *("prompt.safetensors", "vae.safetensors"),
    ]
    before, after = load(published, version="v1.1", device="cpu"), load(ours, device="cpu")
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(map(torch.equal, before.state_dict().values(), after.state_dict().values()))
    assert torch.equal(before.upscale(clip(), seed=4), after.upscale(clip(), seed=4))


def test_a_trained_component_replaces_its_weights_and_nothing_else(ours, tmp_path):
    folder = read_model_folder(ours)
    dit = folder.component("dit").build()
    torch.nn.init.zeros_(dit.head.head.weight)
    assert all(parameter.requires_grad for parameter in dit.parameters())
    new = folder.replaced(dit=dit)
    save_model_folder(tmp_path / "trained", new.components, prompt=new.prompt)
    assert not load(tmp_path / "trained", device="cpu").dit.head.head.weight.any()
    for name in ("projection", "decoder", "vae", "prompt"):
        file = f"{name}.safetensors"
        assert (tmp_path / "trained" / file).read_bytes() == (ours / file).read_bytes()


def test_a_model_built_by_hand_comes_back_with_its_arguments(tmp_path):
    attention = {
        "class_path": "flashvsr.attention.LocalSparseAttention",
        "init_args": {"window_hw": (3, 3), "rule": "keep_all_when_covered", "history": 1},
    }
    classes = {
        "projection": ("flashvsr.models.LRProjection", {"hidden": (6, 10), "dim": 32}),
        "dit": (
            "flashvsr.models.VideoDiT",
            {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 48, "text_dim": None, "attention": attention},
        ),
        "decoder": ("flashvsr.decoders.TinyConditionalDecoder", {"channels": (16, 8, 8, 8), "residual": True}),
    }
    components = {name: Component(path, args, build(path, args)) for name, (path, args) in classes.items()}
    save_model_folder(tmp_path / "hand", components)
    system = load(tmp_path / "hand", device="cpu", color="none")
    layer = system.dit.blocks[0].self_attn
    assert (layer.selection.window_hw, layer.selection.rule, layer.history) == ((3, 3), "keep_all_when_covered", 1)
    assert system.decoder.residual
    assert system.prompt is None
    assert system.upscale(clip(1)).shape == (1, 3, 64, 80)


def test_loading_converts_the_dtype_and_keeps_the_storage_the_projection_wants(ours):
    system = load(ours, device="cpu", dtype="bf16")
    assert {tensor.dtype for tensor in system.state_dict().values()} == {torch.bfloat16}
    assert system.prompt.dtype == torch.bfloat16
    weight = system.projection.conv1.weight
    assert weight.transpose(1, 2).flatten(1, 2).data_ptr() == weight.data_ptr()


def test_impl_and_density_reach_every_layer(ours):
    system = load(ours, device="cpu", impl="gather", sparse_ratio=1.5)
    layers = [block.self_attn for block in system.dit.blocks]
    assert [(layer.impl, layer.selection.sparse_ratio) for layer in layers] == [("gather", 1.5)] * 2
    with pytest.raises(ValueError, match=r"impl is one of auto, .*; got 'fast'"):
        load(ours, impl="fast")
    with pytest.raises(ValueError, match="sparse_ratio is positive, got 0"):
        load(ours, sparse_ratio=0, device="cpu")


def test_the_detail_reaches_the_system_and_is_checked_before_a_model_is_looked_for(ours):
    assert (load(ours, device="cpu").detail, load(ours, device="cpu", detail=0.6).detail) == (1, 0.6)
    with pytest.raises(ValueError, match=r"detail goes from 0, the decoder alone, to 1, the whole model; got 1\.5"):
        load("nowhere", detail=1.5)
    with pytest.raises(ValueError, match="the full decoder sees only the latents and needs them whole: leave out det"):
        load("nowhere", decoder="full", detail=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said: said.update(extra=1), "unknown key extra; there are format, steps, components, color"),
        (lambda said: said.pop("steps"), "steps is missing"),
        (lambda said: said.update(format=7), "has format 7; this version of flashvsr reads format 1"),
        (lambda said: said.update(steps=0), "steps is a whole number of at least 1, got 0"),
        (lambda said: said.update(components=None), "components has keys, got None"),
        (lambda said: said["components"].update(colour={}), "unknown key components.colour"),
        (lambda said: said["components"]["dit"].update(init=1), "unknown key components.dit.init"),
        (lambda said: said["components"]["dit"].pop("class_path"), "components.dit.class_path is missing"),
        (lambda said: said["components"]["prompt"].update(shape=[1]), r"one tensor, prompt \[1\]; it holds prompt"),
        (lambda said: said["components"]["projection"]["init_args"].update(depth=2), "takes no 'depth'; it takes"),
        (lambda said: said["components"]["dit"].update(class_path="flashvsr.models.DiT"), "no flashvsr.models.DiT"),
    ],
)
def test_a_description_that_is_not_understood_is_refused_by_key(ours, change, message):
    edit(ours, change)
    with pytest.raises(ValueError, match=message):
        load(ours, device="cpu")


def test_a_model_says_which_colour_correction_it_wants(ours):
    assert load(ours).color.method == "adain"
    edit(ours, lambda said: said.update(color="none"))
    assert load(ours).color.method == "none"
    assert load(ours, color="wavelet").color.method == "wavelet"
    edit(ours, lambda said: said.update(color="sepia"))
    with pytest.raises(ValueError, match="color is one of adain, wavelet, none; got 'sepia'"):
        load(ours)


def test_a_model_of_many_steps_or_full_attention_does_not_stream_and_says_what_does(ours):
    edit(ours, lambda said: said.update(steps=50))
    with pytest.raises(ValueError, match="50 sampling steps and cannot stream; `flashvsr evaluate`"):
        load(ours, device="cpu")
    full = {"class_path": "flashvsr.attention.FullAttention"}
    edit(ours, lambda said: (said.update(steps=1), said["components"]["dit"].update(init_args={"attention": full})))
    with pytest.raises(ValueError, match="full attention and cannot stream; `flashvsr evaluate`"):
        load(ours, device="cpu")


def test_a_missing_weight_file_or_description_is_named(ours, tmp_path):
    (ours / "dit.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"dit.safetensors is missing, model.yaml lists it"):
        load(ours, device="cpu")
    (ours / "model.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model.yaml nor files of FlashVSR"):
        load(ours, device="cpu")
    with pytest.raises(FileNotFoundError, match="there is no model 'nanoo': packaged are"):
        find_model("nanoo")


def test_version_and_prompt_are_refused_for_a_folder_of_ours(ours):
    with pytest.raises(ValueError, match="version and prompt are for published folders"):
        load(ours, version="v1")


# Class paths of strangers


@pytest.mark.parametrize("path", ["torch.nn.Identity", "os.system", "flashvsrx.Net", "flashvsr"])
def test_classes_of_other_libraries_are_refused_unless_trusted(path):
    with pytest.raises(
        ValueError, match=r"could run any code; if you trust where it comes from, pass --trust-code \(trust_code=True"
    ):
        build(path)


@pytest.mark.parametrize(
    "path",
    [
        *("flashvsr.upscale_file", "flashvsr.__main__.main", "flashvsr.cli.upscale.run"),
        *("flashvsr.models.loading.load", "flashvsr.models.class_paths.import_module"),
    ],
)
def test_functions_of_this_library_that_build_no_network_are_refused(path):
    with pytest.raises(ValueError, match="neither a network of flashvsr nor one of its builders"):
        build(path)


def test_trusted_classes_of_other_libraries_are_built():
    assert isinstance(build("torch.nn.Linear", {"in_features": 2, "out_features": 3}, trust_code=True), torch.nn.Linear)


def test_nested_classes_that_lack_arguments_become_factories():
    refused = {"attention": {"class_path": "torch.nn.Linear", "init_args": {}}}
    with pytest.raises(ValueError, match=r"torch.nn.Linear is not part of flashvsr"):
        build("flashvsr.models.VideoDiT", refused)
    with pytest.raises(
        ValueError, match=r"flashvsr.attention.LocalSparseAttention needs dim, heads among its init_args"
    ):
        build("flashvsr.attention.LocalSparseAttention")


# Saving


def test_an_existing_folder_is_replaced_only_when_asked(ours):
    folder = read_model_folder(ours)
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        save_model_folder(ours, folder.components)
    save_model_folder(ours, {"dit": folder.component("dit")}, overwrite=True, dtype=torch.float16)
    assert sorted(file.name for file in ours.iterdir()) == ["dit.safetensors", "model.yaml"]
    assert {tensor.dtype for tensor in load_file(ours / "dit.safetensors").values()} == {torch.float16}
    assert [item.name for item in ours.parent.iterdir() if item.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["ours", "ours/", "link", "."])
def test_a_model_replaces_a_model_and_no_other_file(ours, monkeypatch, name):
    (ours / "notes.txt").write_text("kept")
    (ours / "logs").mkdir()
    (ours.parent / "link").symlink_to(ours)
    monkeypatch.chdir(ours if name == "." else ours.parent)
    save_model_folder(name, {"dit": read_model_folder(ours).component("dit")}, overwrite=True)
    assert sorted(file.name for file in ours.iterdir()) == ["dit.safetensors", "logs", "model.yaml", "notes.txt"]
    assert (ours / "notes.txt").read_text() == "kept" and (ours.parent / "link").is_symlink()


def test_a_file_is_no_folder_for_a_model(ours):
    with pytest.raises(NotADirectoryError, match=r"model\.yaml is a file"):
        save_model_folder(ours / "model.yaml", read_model_folder(ours).components, overwrite=True)


def test_a_failed_save_leaves_nothing_and_harms_nothing(ours, tmp_path):
    folder = read_model_folder(ours)
    before = {file.name: file.read_bytes() for file in ours.iterdir()}
    broken = {**folder.components, "vae": Component("flashvsr.decoders.WanVAE", {}, tmp_path / "gone.safetensors")}
    for target in (ours, tmp_path / "new"):
        with pytest.raises(FileNotFoundError, match=r"gone\.safetensors is missing"):
            save_model_folder(target, broken, overwrite=True)
    assert {file.name: file.read_bytes() for file in ours.iterdir()} == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["FlashVSR", "ours"]
    with pytest.raises(ValueError, match="components are projection, dit, decoder, vae and encoder; got prompt"):
        save_model_folder(tmp_path / "new", {"prompt": folder.component("dit")})


# Wan2.1


@pytest.mark.parametrize("sharded", [False, True])
def test_wan_base_weights_load_from_one_file_or_several(published, tmp_path, sharded):
    tensors = load_file(published / DIT)
    name = "diffusion_pytorch_model"
    if sharded:
        parts = [dict(list(tensors.items())[k::2]) for k in range(2)]
        files = [f"{name}-0000{k + 1}-of-00002.safetensors" for k in range(2)]
        for file, part in zip(files, parts, strict=True):
            save_file(part, tmp_path / file)
        index = {key: file for file, part in zip(files, parts, strict=True) for key in part}
        (tmp_path / f"{name}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    else:
        save_file(tensors, tmp_path / f"{name}.safetensors")
    for attention, order in ((None, "raster"), (partial(LocalSparseAttention, history=2), "block")):
        dit = load_wan_base(tmp_path, **({"attention": attention} if attention else {}))
        assert dit.order == order
        assert all(torch.equal(value, tensors[key]) for key, value in dit.state_dict().items())
    if sharded:
        (tmp_path / files[1]).unlink()
        with pytest.raises(FileNotFoundError, match=r"-00002-of-00002\.safetensors is missing"):
            load_wan_base(tmp_path)


def test_a_folder_without_wan_weights_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds neither diffusion_pytorch_model\.safetensors nor"):
        load_wan_base(tmp_path)


# Where and in which dtype


def test_auto_is_bf16_on_a_cpu_that_multiplies_it(monkeypatch):
    for has, chosen in (({}, "fp32"), ({"avx512_bf16": False}, "fp32"), ({"avx512_bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        assert choose_dtype("auto", torch.device("cpu")) == choose_dtype(chosen, torch.device("cpu"))
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # PyTorch 2.10
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32


def test_unknown_dtypes_and_devices_are_refused(monkeypatch):
    assert choose_dtype("fp16", torch.device("cpu")) == choose_dtype(torch.float16, torch.device("cpu"))
    with pytest.raises(ValueError, match="dtype is auto or one of fp32, bf16, fp16; got 'int8'"):
        choose_dtype("int8", torch.device("cpu"))
    with pytest.raises(ValueError, match="device is auto, cpu, cuda or cuda:N; got 'gpu'"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for untried in ("mps", "xpu"):
        with pytest.raises(ValueError, match=f"device is auto, cpu, cuda or cuda:N; got '{untried}'"):
            choose_device(untried)
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="there is no device 'cuda:1' here: 0 CUDA GPUs"):
        choose_device("cuda:1")


def test_every_packaged_model_loads():
    for description in loading.PACKAGED.glob("*/model.yaml"):
        assert load(description.parent.name, device="cpu").upscale(clip(1)).shape == (1, 3, 64, 80)
