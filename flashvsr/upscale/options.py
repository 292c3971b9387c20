"""Settings of a run, grouped by whom they concern: the input, the model, and the file that is written."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from flashvsr.video import Deinterlace, Trim, VideoInfo


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded from its name or folder: the options of `flashvsr.load`, which checks them.

    Attributes:
        version: Release of an official folder, ``"v1"`` or ``"v1.1"``; None finds it by hash.
        prompt: Prompt tensor of an official folder; None looks for it in the folder.
        decoder: ``"tiny"`` or ``"full"`` (the Wan2.1 VAE).
        color: ``"adain"``, ``"wavelet"`` or ``"none"``; ``"auto"`` for the choice of the model.
        detail: Factor of the latents, from 0 (the decoder alone) to 1 (the whole model).
        device: ``"auto"``, a device of PyTorch, or several GPUs: ``"cuda:0,cuda:1"``, ``"cuda:*"``.
        dtype: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        impl: Attention implementation, ``"auto"`` or a name.
        sparse_ratio: Density of attention, lower is faster; None keeps the model's own.
        fp8: Multiply in 8-bit floats in the linear layers of the transformer's blocks: faster and less exact.
        fast: ``fp8``, attention in 8 bits and a ``sparse_ratio`` of 1.5, on a GPU that can.
        cache_gib: GiB of a GPU's memory for keys and values; the rest of them lies in the host's memory, which
            changes no frame. None is 24, which only frames of about 4K exceed; ``math.inf`` keeps all on the GPU.
        gpu_gib: GiB of a GPU's memory for the whole run; what does not fit lies in the host's memory, which changes no
            frame. None for no limit.
        trust_code: Allow a folder to name classes outside this library.
    """

    version: str | None = None
    prompt: str | Path | None = None
    decoder: str = "tiny"
    color: str = "auto"
    detail: float = 1.0
    device: str = "auto"
    dtype: str = "auto"
    impl: str = "auto"
    sparse_ratio: float | None = None
    fp8: bool = False
    fast: bool = False
    cache_gib: float | None = None
    gpu_gib: float | None = None
    trust_code: bool = False


@dataclass(frozen=True)
class ClipOptions:
    """Which part of the input is upscaled, and to what size.

    Attributes:
        start: Seconds since the first frame of the input; the first frame shown then or later is the first of the
            output.
        end: Seconds since the first frame of the input; the output ends before the first frame shown then or later.
            None is the end of the input.
        cuts: ``"auto"`` looks for scene cuts and starts the model anew there; ``"off"`` does not.
        height: Rows of the output, in place of a scale; the columns follow the shape of the input, to the nearest even
            number.
        width: Columns of the output. With ``height``: the largest picture of the input's shape that fits into both.
    """

    start: Fraction | None = None
    end: Fraction | None = None
    cuts: str = "auto"
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if self.cuts not in ("auto", "off"):
            raise ValueError(f"cuts must be 'auto' or 'off', got {self.cuts!r}")

    @property
    def trim(self) -> Trim:
        """The part as a reader takes it.

        Raises:
            VideoError: If it is empty.
        """
        return Trim(Fraction(self.start or 0), None if self.end is None else Fraction(self.end))

    def target(self, info: VideoInfo, scale: float) -> float | tuple[int, int]:
        """What a stream takes as its scale: ``scale``, or the (height, width) to reach.

        Args:
            info: Of the input.
            scale: What holds when neither height nor width is given.

        Raises:
            ValueError: If the size is smaller than the input.
        """
        if self.height is None and self.width is None:
            return scale
        factors = [Fraction(self.height, info.height)] if self.height is not None else []
        factors += [Fraction(self.width, info.width)] if self.width is not None else []
        factor = min(factors)
        if factor < 1:
            wanted = " x ".join(str(side) for side in (self.width, self.height) if side is not None)
            raise ValueError(
                f"the input has {info.width} x {info.height} pixels, more than {wanted}: there is nothing to enlarge"
            )
        height, width = _even(info.height * factor), _even(info.width * factor)
        if self.height is not None and factor == factors[0]:
            height = self.height
        if self.width is not None and factor == factors[-1]:
            width = self.width
        return height, width


def _even(length: Fraction) -> int:
    return max(2, 2 * round(length / 2))


@dataclass(frozen=True)
class LiveOptions:
    """How a stream without an end is followed.

    Attributes:
        realtime: Drop the oldest whole chunk of frames where the model is slower than the stream; else all frames are
            upscaled, ever later, as far as the sender waits.
        patience: Seconds without data after which the stream counts as ended; so long it is connected to again.
        report_every: Seconds between two lines about latency and speed.
    """

    realtime: bool = False
    patience: float = 10.0
    report_every: float = 10.0


@dataclass(frozen=True)
class EncodeOptions:
    """How the output is encoded.

    Attributes:
        codec: ``"auto"``, or a video encoder by its FFmpeg name.
        crf: Quality of the encoder, lower is better.
        format: Container; ``"auto"`` goes by the ending, Matroska for stdout.
        fps: Frame rate of an input without timestamps; None takes what it states, else 25.
        deinterlace: What to do with the fields of an interlaced input, as `flashvsr.video.VideoReader` takes it.
    """

    codec: str = "auto"
    crf: float = 16
    format: str = "auto"
    fps: Fraction | None = None
    deinterlace: Deinterlace = "auto"
