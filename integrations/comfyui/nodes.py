"""Load a model, upscale a batch of images, upscale a video file; with ComfyUI's progress bar and its Cancel."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.input_impl import VideoFromFile
from torch import Tensor

import flashvsr
from flashvsr.upscale import EncodeOptions

CATEGORY = "FlashVSR"
MODELS = Path(folder_paths.models_dir) / "flashvsr"
PIECE = 8  # frames pushed at a time

folder_paths.add_model_folder_path("flashvsr", str(MODELS))


def model_folders() -> dict[str, Path]:
    """Model folders below ``models/flashvsr`` of this ComfyUI, by name."""
    above = [Path(path) for path in folder_paths.get_folder_paths("flashvsr")]
    found = [folder for path in above if path.is_dir() for folder in path.iterdir() if folder.is_dir()]
    return {folder.name: folder for folder in sorted(found)}


def check_interrupted() -> None:
    """Raise ComfyUI's own exception if somebody has pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


class LoadModel:
    """A model, on the device that ComfyUI computes on."""

    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = ("FLASHVSR_MODEL",)
    RETURN_NAMES = ("model",)
    DESCRIPTION = "Loads nano, which is packaged, or a model folder from ComfyUI's models/flashvsr."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The model and how it computes."""
        return {
            "required": {
                "model": (["nano", *model_folders()],),
                "dtype": (["auto", "fp32", "bf16", "fp16"], {"tooltip": "auto: bf16 where the device multiplies it"}),
                "decoder": (["tiny", "full"], {"tooltip": "full: the slower Wan2.1 VAE, for models that have one"}),
            }
        }

    def load(self, model: str, dtype: str, decoder: str) -> tuple[Any]:
        """Load the model; other models leave the GPU first."""
        device = comfy.model_management.get_torch_device()
        if device.type != "cpu":
            comfy.model_management.unload_all_models()
        source = model_folders().get(model, model)
        return (flashvsr.load(source, device=str(device), dtype=dtype, decoder=decoder),)


class UpscaleImages:
    """A batch of images, which are the frames of one video."""

    CATEGORY = CATEGORY
    FUNCTION = "upscale"
    RETURN_TYPES = ("IMAGE",)
    DESCRIPTION = (
        "Upscales the frames of one video, or one image. Memory holds the batch, its result and a few frames more; for "
        "long videos use Upscale Video File."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The model, the frames, and what shapes the result."""
        required = {"model": ("FLASHVSR_MODEL",), "images": ("IMAGE",), **_options()}
        return {"required": required, "optional": _detail_option()}

    def upscale(self, model: Any, images: Tensor, scale: float, seed: int, detail: float = 1.0) -> tuple[Tensor]:
        """Upscale `[T, h, w, 3]` in [0, 1] to `[T, scale * h, scale * w, 3]`."""
        model = _with_detail(model, detail)
        count, height, width = images.shape[:3]
        stream = model.stream(height=height, width=width, scale=scale, seed=seed)
        result = torch.empty(count, round(scale * height), round(scale * width), 3)
        bar, done = comfy.utils.ProgressBar(count), 0
        for out in _pieces(stream, images):
            check_interrupted()
            frames = out.movedim(1, -1).to("cpu", torch.float32)
            result[done : done + len(out)] = frames / 255 if out.dtype == torch.uint8 else frames
            done += len(out)
            bar.update_absolute(done, count)
        return (result,)


class UpscaleVideoFile:
    """A video of any length, from file to file."""

    CATEGORY = CATEGORY
    FUNCTION = "upscale"
    RETURN_TYPES = ("VIDEO",)
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Upscales a video in memory that does not grow with its length, with its times, sound and subtitles, as "
        "flashvsr upscale does. The result is saved in ComfyUI's output folder."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The model, the video, and what shapes the result."""
        crf = ("FLOAT", {"default": 16, "min": 0, "max": 51, "tooltip": "quality of the file, lower is better"})
        prefix = ("STRING", {"default": "video/flashvsr"})
        return {
            "required": {
                "model": ("FLASHVSR_MODEL",),
                "video": ("VIDEO",),
                **_options(),
                "filename_prefix": prefix,
                "container": (["mp4", "mkv"],),
                "crf": crf,
            },
            "optional": _detail_option(),
        }

    def upscale(
        self,
        model: Any,
        video: Any,
        scale: float,
        seed: int,
        filename_prefix: str,
        container: str,
        crf: float,
        detail: float = 1.0,
    ) -> dict[str, Any]:
        """Upscale the file, and hand on the result."""
        model = _with_detail(model, detail)
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        output = Path(folder) / f"{name}_{counter:05}_.{container}"
        source, is_copy = _file_of(video)
        bar = comfy.utils.ProgressBar(1)

        def progress(done: int, total: int | None) -> None:
            check_interrupted()
            bar.update_absolute(done, max(total or done, done))

        try:
            flashvsr.upscale_file(
                source,
                output,
                model=model,
                scale=scale,
                seed=seed,
                encoding=EncodeOptions(crf=crf),
                segment_seconds=None,  # a cancelled run leaves nothing behind
                quiet=True,
                progress=progress,
            )
        finally:
            if is_copy:
                source.unlink()
        shown = {"filename": output.name, "subfolder": subfolder, "type": "output"}
        return {"ui": {"images": [shown], "animated": (True,)}, "result": (VideoFromFile(str(output)),)}


def _options() -> dict[str, Any]:
    return {
        "scale": ("FLOAT", {"default": 4, "min": 1, "max": 4, "step": 0.5}),
        "seed": ("INT", {"default": 0, "min": 0, "max": 2**31 - 1, "tooltip": "the same seed gives the same frames"}),
    }


def _detail_option() -> dict[str, Any]:
    """Optional, so that workflows saved without it go on working."""
    tooltip = "0: only what the input shows; 1: all that the model adds. nano has no diffusion part: leave it at 1"
    return {"detail": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": tooltip})}


def _with_detail(model: Any, detail: float) -> Any:
    return model if detail == 1 else model.with_detail(detail)


def _pieces(stream: Any, images: Tensor) -> Iterator[Tensor]:
    """What a stream gives for a batch, a few frames at a time.

    Images that come from 8-bit files are pushed as such: so the result is that of the command, to the bit.
    """
    pieces = images[..., :3].split(PIECE)
    eight_bits = all(torch.equal(_bytes(piece) / 255, piece) for piece in pieces)
    for piece in pieces:
        check_interrupted()
        frames = _bytes(piece) if eight_bits else piece.clamp(0, 1)
        yield from filter(len, [stream.push(frames.movedim(-1, 1).contiguous())])
    yield from filter(len, [stream.finish()])


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _file_of(video: Any) -> tuple[Path, bool]:
    """The file of a video, and whether it is a copy: what other nodes have made has no file yet."""
    source = video.get_stream_source()
    if isinstance(source, str):
        return Path(source), False
    path = Path(folder_paths.get_temp_directory()) / f"flashvsr-{uuid.uuid4().hex}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source.getvalue())
    return path, True


NODE_CLASS_MAPPINGS = {
    "FlashVSRLoadModel": LoadModel,
    "FlashVSRUpscaleImages": UpscaleImages,
    "FlashVSRUpscaleVideoFile": UpscaleVideoFile,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "FlashVSRLoadModel": "Load Model (FlashVSR)",
    "FlashVSRUpscaleImages": "Upscale Images (FlashVSR)",
    "FlashVSRUpscaleVideoFile": "Upscale Video File (FlashVSR)",
}
