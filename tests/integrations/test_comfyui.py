"""The ComfyUI nodes, in a host that only pretends, and in the real one."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import types
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.cli import main
from tests.upscale.standin import StandIn, audio_packets, read_frames, write_clip

NODES = Path(__file__).parents[2] / "integrations" / "comfyui"


class Cancelled(Exception):
    """As ComfyUI's InterruptProcessingException."""


class Host:
    """What the nodes use of ComfyUI.

    Args:
        folder: Where its folders are.
    """

    def __init__(self, folder):
        self.folder, self.progress, self.unloaded = folder, [], 0
        self.cancel_after, self.device = float("inf"), torch.device("cpu")

    def modules(self):
        management = types.ModuleType("comfy.model_management")
        management.throw_exception_if_processing_interrupted = self.check
        management.get_torch_device = lambda: self.device
        management.unload_all_models = self.unload
        utils = types.ModuleType("comfy.utils")
        utils.ProgressBar = lambda total: types.SimpleNamespace(
            update_absolute=lambda done, total: self.progress.append((done, total))
        )
        paths = types.ModuleType("folder_paths")
        paths.models_dir = str(self.folder / "models")
        paths.add_model_folder_path = lambda name, path: None
        paths.get_folder_paths = lambda name: [str(self.folder / "models" / name)]
        paths.get_output_directory = lambda: str(self.folder / "output")
        paths.get_temp_directory = lambda: str(self.folder / "temp")
        paths.get_save_image_path = self.save_path
        videos = types.ModuleType("comfy_api.input_impl")
        videos.VideoFromFile = VideoFile
        comfy, api = types.ModuleType("comfy"), types.ModuleType("comfy_api")
        comfy.model_management, comfy.utils = management, utils
        named = (comfy, management, utils, paths, api, videos)
        return {module.__name__: module for module in named}

    def check(self):
        self.cancel_after -= 1
        if self.cancel_after < 0:
            raise Cancelled

    def unload(self):
        self.unloaded += 1

    def save_path(self, prefix, output):
        folder = Path(output, prefix).parent
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder), Path(prefix).name, 1, str(Path(prefix).parent), prefix


class VideoFile:
    """As ComfyUI's VideoFromFile: a path, or the bytes of a file."""

    def __init__(self, source):
        self.source = source

    def get_stream_source(self):
        return self.source


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def nodes(host, monkeypatch):
    """The nodes as ComfyUI imports them: a folder that is a package, under a name of the host's choice."""
    for name, module in host.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location(
        "custom_nodes_flashvsr", NODES / "__init__.py", submodule_search_locations=[str(NODES)]
    )
    package = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, package)
    spec.loader.exec_module(package)
    yield {name: node() for name, node in package.NODE_CLASS_MAPPINGS.items()}
    sys.modules.pop(f"{spec.name}.nodes")


def frames_of(path):
    frames, _ = read_frames(path)
    return frames, frames.movedim(1, -1).float() / 255


def test_an_image_batch_gives_the_frames_of_one_stream_with_progress(nodes, host, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 40)
    frames, images = frames_of(clip)
    stream = StandIn().stream(height=32, width=48, scale=2, seed=3, state=None)
    expected = torch.cat([stream.push(frames), stream.finish()])
    (result,) = nodes["FlashVSRUpscaleImages"].upscale(StandIn(), images, 2.0, 3)
    assert result.shape == (40, 64, 96, 3) and result.dtype == torch.float32
    saved = np.clip(255.0 * result.numpy(), 0, 255).astype(np.uint8)  # as ComfyUI's Save Image does
    assert torch.equal(torch.from_numpy(saved).movedim(-1, 1), expected)
    assert [done for done, _ in host.progress] == [21, 29, 40] and host.progress[-1] == (40, 40)


def test_images_between_the_levels_of_8_bits_keep_their_precision(nodes):
    images = torch.full((3, 32, 48, 3), 0.5) + 0.3 / 255
    (result,) = nodes["FlashVSRUpscaleImages"].upscale(StandIn(), images, 1.0, 0)
    levels = result * 255
    assert (levels - levels.round()).abs().max() > 1e-3


def test_cancel_ends_a_batch_and_a_file_and_leaves_nothing(nodes, host, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 60)
    host.cancel_after = 2
    with pytest.raises(Cancelled):
        nodes["FlashVSRUpscaleImages"].upscale(StandIn(), frames_of(clip)[1], 2.0, 0)
    host.cancel_after = 2
    with pytest.raises(Cancelled):
        nodes["FlashVSRUpscaleVideoFile"].upscale(StandIn(), VideoFile(str(clip)), 2.0, 0, "video/out", "mp4", 16.0)
    assert list((tmp_path / "output").rglob("*.*")) == []


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_video_file_goes_through_with_its_sound(nodes, host, tmp_path, in_memory):
    clip = write_clip(tmp_path / "clip.mp4", 60)
    video = VideoFile(io.BytesIO(clip.read_bytes()) if in_memory else str(clip))
    given = nodes["FlashVSRUpscaleVideoFile"].upscale(StandIn(), video, 2.0, 0, "video/out", "mp4", 16.0)
    output = tmp_path / "output" / "video" / "out_00001_.mp4"
    assert given["result"][0].source == str(output)
    assert given["ui"]["images"] == [{"filename": output.name, "subfolder": "video", "type": "output"}]
    assert read_frames(output)[0].shape == (60, 3, 64, 96)
    assert audio_packets(output) == audio_packets(clip)
    assert clip.exists() and list((tmp_path / "temp").glob("*")) == []
    assert host.progress[-1] == (60, 60)


def test_models_are_nano_and_the_folders_of_the_host(nodes, tmp_path):
    (tmp_path / "models" / "flashvsr" / "FlashVSR-v1.1").mkdir(parents=True)
    (tmp_path / "models" / "flashvsr" / "notes.txt").touch()
    assert nodes["FlashVSRLoadModel"].INPUT_TYPES()["required"]["model"][0] == ["nano", "FlashVSR-v1.1"]


def test_a_model_is_loaded_on_the_device_of_the_host(nodes, host, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("flashvsr.load", lambda source, **options: asked.append((source, options)))
    (tmp_path / "models" / "flashvsr" / "mine").mkdir(parents=True)
    nodes["FlashVSRLoadModel"].load("nano", "fp32", "tiny")
    assert host.unloaded == 0
    host.device = torch.device("cuda:1")
    nodes["FlashVSRLoadModel"].load("mine", "auto", "full")
    assert host.unloaded == 1  # of the host's own models, which would fill the GPU
    assert asked == [
        ("nano", {"device": "cpu", "dtype": "fp32", "decoder": "tiny"}),
        (tmp_path / "models" / "flashvsr" / "mine", {"device": "cuda:1", "dtype": "auto", "decoder": "full"}),
    ]


def test_the_detail_of_a_node_changes_the_model_of_this_node_only(nodes, tmp_path):
    used = []

    class Detailed(StandIn):
        def with_detail(self, detail):
            used.append(detail)
            return self

    clip = write_clip(tmp_path / "clip.mp4", 2)
    nodes["FlashVSRUpscaleImages"].upscale(Detailed(), frames_of(clip)[1], 2.0, 0, 0.25)
    nodes["FlashVSRUpscaleVideoFile"].upscale(
        Detailed(), VideoFile(str(clip)), 2.0, 0, "video/out", "mp4", 16.0, detail=0.5
    )
    assert used == [0.25, 0.5]
    for name in ("FlashVSRUpscaleImages", "FlashVSRUpscaleVideoFile"):
        assert nodes[name].INPUT_TYPES()["optional"]["detail"][1]["default"] == 1.0


def test_the_example_workflows_use_nodes_and_inputs_that_exist(nodes):
    files = sorted((NODES / "example_workflows").glob("*.json"))
    assert files
    for file in files:
        for node in json.loads(file.read_text())["nodes"]:
            if node["type"].startswith("FlashVSR"):
                inputs = nodes[node["type"]].INPUT_TYPES()["required"]
                assert {entry["name"] for entry in node["inputs"]} <= set(inputs)
                assert len(node["widgets_values"]) in (len(inputs) - links(inputs), len(inputs) - links(inputs) + 1)


def links(inputs):
    """How many inputs come from other nodes and have no widget."""
    return sum(kind[0] in ("FLASHVSR_MODEL", "IMAGE", "VIDEO") for kind in inputs.values())


def test_the_manager_finds_what_it_reads():
    project = tomllib.loads((NODES / "pyproject.toml").read_text())
    assert {"name", "version", "description", "license", "dependencies"} <= set(project["project"])
    assert {"PublisherId", "DisplayName", "requires-comfyui"} <= set(project["tool"]["comfy"])
    assert (NODES / "requirements.txt").read_text().split() == project["project"]["dependencies"]


class Server:
    """A running ComfyUI, spoken to through its HTTP API."""

    def __init__(self, port):
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path):
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return json.loads(answer.read())

    def post(self, path, content):
        body = json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def start(self, prompt):
        """Start a workflow in API form, and give its number."""
        return json.loads(self.post("/prompt", {"prompt": prompt}))["prompt_id"]

    def end(self, number):
        """What became of a workflow, at its end."""
        for _ in range(600):
            done = self.get(f"/history/{number}").get(number)
            if done:
                return done
            time.sleep(0.5)
        raise AssertionError("the workflow did not end in five minutes")

    def run(self, prompt):
        """Run a workflow to its end, and give the outputs of its nodes."""
        done = self.end(self.start(prompt))
        assert done["status"]["status_str"] == "success", done["status"]
        return done["outputs"]


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory):
    """The real ComfyUI on the CPU, with the nodes linked into folders of its own."""
    home = os.environ.get("FLASHVSR_COMFYUI")
    if not home:
        pytest.skip("FLASHVSR_COMFYUI does not name a ComfyUI checkout: the nodes were not run in the real one")
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("input", "output", "temp", "user", "models", "custom_nodes"):
        (base / name).mkdir()
    (base / "custom_nodes" / "flashvsr").symlink_to(NODES)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    python = os.environ.get("FLASHVSR_COMFYUI_PYTHON", sys.executable)
    command = [python, "main.py", "--cpu", "--port", str(port), "--base-directory", str(base), "--disable-auto-launch"]
    environment = {**os.environ, "PYTHONPATH": str(NODES.parents[1])}
    with (base / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    server = Server(port)
    try:
        for _ in range(360):
            assert process.poll() is None, (base / "log.txt").read_text()[-3000:]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield server, base
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow  # starts ComfyUI, and runs nano on a CPU in two processes
def test_in_the_real_comfyui_a_workflow_gives_the_files_of_the_command(comfyui, tmp_path):
    server, base = comfyui
    clip = write_clip(base / "input" / "clip.mp4", 5, size=(48, 64))
    prompt = {
        "1": {"class_type": "FlashVSRLoadModel", "inputs": {"model": "nano", "dtype": "auto", "decoder": "tiny"}},
        "2": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "3": {"class_type": "GetVideoComponents", "inputs": {"video": ["2", 0]}},
        "4": {
            "class_type": "FlashVSRUpscaleImages",
            "inputs": {"model": ["1", 0], "images": ["3", 0], "scale": 4, "seed": 0},
        },
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "frames"}},
        "6": {
            "class_type": "FlashVSRUpscaleVideoFile",
            "inputs": {
                "model": ["1", 0],
                "video": ["2", 0],
                "scale": 4,
                "seed": 0,
                "filename_prefix": "video/out",
                "container": "mp4",
                "crf": 16,
            },
        },
    }
    outputs = server.run(prompt)
    images = [base / "output" / image["filename"] for image in outputs["5"]["images"]]
    (video,) = (base / "output" / shown["subfolder"] / shown["filename"] for shown in outputs["6"]["images"])
    # The host decodes with its own means: what it has shown the node is saved, and given to the command.
    prompt["4"] = prompt.pop("5") | {"inputs": {"images": ["3", 0], "filename_prefix": "lr"}}
    prompt.pop("6")
    lr = [base / "output" / image["filename"] for image in server.run(prompt)["4"]["images"]]
    (tmp_path / "lr").mkdir()
    for image in lr:
        shutil.copy(image, tmp_path / "lr" / image.name)
    command = ["upscale", "--quiet", "--device", "cpu"]
    assert main([*command, str(tmp_path / "lr"), str(tmp_path / "hr")]) == 0
    assert main([*command, str(clip), str(tmp_path / "hr.mp4"), "--no-resume"]) == 0
    expected = sorted((tmp_path / "hr").iterdir())
    assert len(images) == len(expected) == 5
    for ours, theirs in zip(images, expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(ours)), np.asarray(Image.open(theirs)))
    assert video.read_bytes() == (tmp_path / "hr.mp4").read_bytes()


@pytest.mark.slow  # starts ComfyUI, and runs nano on a CPU
def test_in_the_real_comfyui_cancel_stops_a_video_and_leaves_no_file(comfyui):
    server, base = comfyui
    write_clip(base / "input" / "long.mp4", 200, size=(48, 64))
    loads = {"class_type": "FlashVSRLoadModel", "inputs": {"model": "nano", "dtype": "auto", "decoder": "tiny"}}
    options = {"scale": 4, "seed": 0, "filename_prefix": "cancelled/out", "container": "mp4", "crf": 16}
    number = server.start(
        {
            "1": loads,
            "2": {"class_type": "LoadVideo", "inputs": {"file": "long.mp4"}},
            "3": {
                "class_type": "FlashVSRUpscaleVideoFile",
                "inputs": {"model": ["1", 0], "video": ["2", 0], **options},
            },
        }
    )
    folder = base / "output" / "cancelled"
    for _ in range(600):
        if folder.exists() and any(folder.iterdir()):  # it has begun to write
            break
        time.sleep(0.1)
    server.post("/interrupt", {})
    messages = [name for name, _ in server.end(number)["status"]["messages"]]
    assert "execution_interrupted" in messages and "execution_success" not in messages
    assert list(folder.iterdir()) == []
