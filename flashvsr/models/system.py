"""FlashVSR: LR projection, one-step diffusion transformer, decoder and colour, one chunk at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.decoders import TinyDecoder, TinyVAE, WanVAE
from flashvsr.decoders.color import ColorMatch
from flashvsr.models.dit import VideoDiT
from flashvsr.models.dit_state import DiTState
from flashvsr.models.memory_plan import Placement, fit
from flashvsr.models.parallel import keep_pace, send
from flashvsr.models.paths import describe_paths
from flashvsr.models.system_state import SystemState, copy_to
from flashvsr.streaming import Canvas, Geometry, Stream, upscale

logger = logging.getLogger(__name__)

TIMESTEP = 1000.0
"""The one step starts from pure noise."""

LATENTS_ONLY = (TinyDecoder, TinyVAE, WanVAE)
"""Decoders that do not see the LR frames."""


class FlashVSR(nn.Module):
    """A video super-resolution system out of three networks; streams, and holds no state of any stream.

    Args:
        projection: LR frames to tokens, such as :class:`~flashvsr.models.LRProjection`.
        dit: One-step transformer with sparse attention.
        decoder: Latents and LR frames to frames; any of :mod:`flashvsr.decoders`.
        prompt: Text embedding `[1, L, text_dim]` that the transformer attends to; None for one without a prompt.
        color: ``"adain"``, ``"wavelet"`` or ``"none"``: how colours are brought back to those of the LR frames.
        geometry: How the stream is cut; None for FlashVSR's.
        detail: See :attr:`detail`.

    Attributes:
        gpu_gib: GiB of its device that a stream may take, on one device; what lies on the host instead is decided
            when a stream is opened, and changes no frame. None for no limit.
        placement: What lies in host memory for that; copies of this system share it.

    Raises:
        ValueError: If `color` is unknown, a prompt is missing or not taken, or `detail` is out of range.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747.
    """

    prompt: Tensor | None
    projection: Any  # modules with `state_type`, which type checkers do not see through nn.Module
    decoder: Any

    def __init__(
        self,
        projection: nn.Module,
        dit: VideoDiT,
        decoder: nn.Module,
        prompt: Tensor | None = None,
        *,
        color: str = "adain",
        geometry: Geometry | None = None,
        detail: float = 1.0,
    ) -> None:
        super().__init__()
        if (prompt is not None) != dit.has_prompt:
            raise ValueError(
                "the prompt embedding is missing" if dit.has_prompt else "this transformer takes no prompt"
            )
        self.projection, self.dit, self.decoder = projection, dit, decoder
        self.register_buffer("prompt", prompt, persistent=False)
        self.color = ColorMatch(color)
        self.geometry = geometry or Geometry()
        self.detail = detail
        self.gpu_gib: float | None = None
        self.placement = Placement()

    @property
    def detail(self) -> float:
        """The latents are multiplied by this, from 0 to 1, before they are decoded.

        1 is the whole model. 0 is what the decoder makes of the LR frames alone; projection and transformer are then
        skipped. Between them the latents, not the frames, go in a straight line. It is meant for a decoder that was
        trained with latents dropped, as those of a conditional autoencoder are.

        Raises:
            ValueError: If it is set to something else, or to less than 1 for a decoder that does not see the LR frames.
        """
        return self._detail

    @detail.setter
    def detail(self, detail: float) -> None:
        check_detail(detail)
        if detail != 1 and isinstance(self.decoder, LATENTS_ONLY):
            raise ValueError(
                f"a {type(self.decoder).__name__} sees only the latents and needs them whole: leave detail at 1, or "
                "take a decoder that sees the LR frames"
            )
        self._detail = float(detail)

    def with_detail(self, detail: float) -> FlashVSR:
        """The same networks with another :attr:`detail`; weights are shared, and this system stays as it is.

        Args:
            detail: From 0 to 1.

        Raises:
            ValueError: As for :attr:`detail`.
        """
        other = copy(self)
        other.detail = detail
        return other

    @property
    def device(self) -> torch.device:
        """Where the parameters are; of several devices the first, which takes the LR frames."""
        return self.dit.patch_embedding.weight.device

    @property
    def output_device(self) -> torch.device:
        """Where frames come out: the last of several devices."""
        return next(self.decoder.parameters()).device

    @property
    def devices(self) -> list[torch.device]:
        """All devices, in the order in which a chunk passes them."""
        return list(dict.fromkeys([self.device, *(stage.device for stage in self.dit.stages()), self.output_device]))

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and of what passes between the networks."""
        return self.dit.patch_embedding.weight.dtype

    @property
    def pixel_dtype(self) -> torch.dtype:
        """Of LR frames and output: fp32 where the decoder adds to LR frames, which bf16 would round to 8 bits."""
        return torch.float32 if getattr(self.decoder, "residual", False) else self.dtype

    @property
    def in_parts(self) -> bool:
        """Whether a stream takes frames as they are decoded, so that those of a whole chunk are never there at once."""
        return self.gpu_gib is not None

    def step(
        self,
        lr: Tensor,
        noise: Tensor,
        state: SystemState | None = None,
        *,
        content: tuple[int, int] | None = None,
        on_frames: Callable[[Tensor], object] | None = None,
    ) -> tuple[Tensor, SystemState]:
        """Process one chunk.

        Args:
            lr: LR frames at target size `[B, 3, T, H, W]` in [-1, 1], H and W multiples of 128: 25 at the start, then
                8.
            noise: `[B, 16, latents, H/8, W/8]`, standard normal: 6 latents at the start, then 2.
            state: Of the previous chunk, consumed; None at the start.
            content: Height and width of what is not padding, from the top left; colours are matched over it. None for
                all.
            on_frames: Called with the frames of each latent as soon as they are decoded, the first one alone and then
                four at a time, before the next latent is; they are not kept.

        Returns:
            Frames `[B, 3, T', H, W]` in [-1, 1], 21 at the start, then 8, or none if `on_frames` has had them; and the
            new state. The last 4 LR frames are looked ahead at: their output comes with the next chunk.

        Raises:
            ValueError: If a size does not fit.
            RuntimeError: If the state was consumed before.
        """
        self._check(lr, noise, state)
        past = None if state is None else state.take()
        lr, noise = lr.to(self.device, self.pixel_dtype), noise.to(self.device, self.dtype)
        arrived = send(lr, self.output_device)
        latents, projection, dit = self._latents(lr, noise, past)
        seen = arrived if past is None else torch.cat((past.lr, arrived), 2)
        shown, ahead = seen[:, :, : -self.geometry.lookahead], seen[:, :, -self.geometry.lookahead :]
        decoder: Any = past.decoder if past else None
        if decoder is not None and self.placement.projection is not None:
            decoder = decoder.move(self.output_device)
        kept: list[Tensor] = []
        take = kept.append if on_frames is None else on_frames
        lengths = shown.shape[2], latents.shape[2]
        sizes = [lengths] if on_frames is None else self.parts_of_chunk(*lengths)
        frame_counts, latent_counts = (list(counts) for counts in zip(*sizes, strict=True))
        for those, part in zip(shown.split(frame_counts, 2), latents.split(latent_counts, 2), strict=True):
            frames, decoder = self.decoder(part, those, decoder)
            take(self.color(frames, those, content))
            del frames
        queued = keep_pace(past.queued if past else [], self.devices)
        if self.placement.projection is not None:
            decoder = decoder.move(self._rest_device)
        frames = kept[0] if kept else lr.new_empty(*shown.shape[:2], 0, *shown.shape[3:])
        return frames, SystemState(projection, dit, decoder, ahead.clone(), queued)

    def _latents(self, lr: Tensor, noise: Tensor, past: SystemState | None) -> tuple[Tensor, Any, DiTState | None]:
        """What the decoder gets, where it is, and the states of projection and transformer."""
        if not self.detail:
            return torch.zeros_like(noise, device=self.output_device), None, None
        with self.placement.projection.lend() if self.placement.projection else nullcontext():
            tokens, projection = self.projection(lr.to(self.dtype), past.projection if past else None)
        timestep = torch.full((lr.shape[0],), TIMESTEP, device=lr.device)
        velocity, dit = self.dit(
            noise,
            timestep,
            lr_tokens=tokens,
            prompt=self.prompt if past is None else None,
            state=past.dit if past else None,
        )
        del tokens
        latents = send(noise, velocity.device) - velocity  # a step from sigma 1 to sigma 0
        if self.detail != 1:
            latents = self.detail * latents
        return send(latents, self.output_device), projection, dit

    @property
    def _rest_device(self) -> torch.device:
        """Where the decoder's past lies from one chunk to the next."""
        return self.output_device if self.placement.projection is None else torch.device("cpu")

    def parts_of_chunk(self, frames: int, latents: int) -> list[tuple[int, int]]:
        """Frames and latents that are decoded together, for a chunk whose frames are taken as they come.

        Args:
            frames: Of the chunk; its first latent stands for fewer at the start of a stream.
            latents: Of the chunk.

        Returns:
            Of every part its frames, and its latents: as many as the decoder passes together.
        """
        together = getattr(self.decoder, "latents_per_pass", 1)
        usual = self.geometry.next_frames // len(self.geometry.latents(1))
        sizes = [min(together, latents - start) for start in range(0, latents, together)]
        lacking = usual * latents - frames
        return [(usual * size - (0 if index else lacking), size) for index, size in enumerate(sizes)]

    def _check(self, lr: Tensor, noise: Tensor, state: SystemState | None) -> None:
        """Refuse what does not fit before any part consumes its state."""
        if state is not None:
            state.check_fresh()
        geometry, chunk = self.geometry, 0 if state is None else 1
        batch, (height, width) = lr.shape[0], lr.shape[-2:]
        size = (height // geometry.latent_stride, width // geometry.latent_stride)
        frames = (batch, 3, geometry.lr_frames(chunk), height, width)
        latents = (batch, geometry.latent_channels, len(geometry.latents(chunk)), *size)
        odd = height % geometry.multiple or width % geometry.multiple
        if odd or tuple(lr.shape) != frames or tuple(noise.shape) != latents:
            when = "at the start of a stream" if state is None else "in a running stream"
            raise ValueError(
                f"{when} lr is [B, 3, {frames[2]}, H, W] and noise [B, {latents[1]}, {latents[2]}, H/8, W/8], H and W "
                f"multiples of {geometry.multiple}: got {list(lr.shape)} and {list(noise.shape)}"
            )
        if state is not None and (state.lr.shape[0], *state.lr.shape[3:]) != (batch, height, width):
            raise ValueError(
                f"the state goes on from LR frames {list(state.lr.shape)}, got {list(lr.shape)}; start a new stream "
                "with state=None when the batch or the frame size changes"
            )
        if state is not None and state.dit is None and self.detail:
            raise ValueError(
                f"the state is of a stream with a detail of 0, in which the transformer saw nothing: go on with 0, or "
                f"start a new stream with {self.detail:g}"
            )

    def load_state(self, saved: dict[str, Any]) -> SystemState:
        """Rebuild a state from :meth:`SystemState.state_dict` on this system's devices.

        Args:
            saved: The nested dicts; not changed, not kept.

        Returns:
            A state for :meth:`step`.
        """
        last, projection, dit = self.output_device, None, None
        if saved["dit"] is not None:
            projection = self.projection.state_type.from_state_dict(copy_to(saved["projection"], self.device))
            dit = DiTState.from_state_dict(saved["dit"], cache_gib=self.dit.cache_gib, stages=self.dit.stages())
        return SystemState(
            projection,
            dit,
            self.decoder.state_type.from_state_dict(copy_to(saved["decoder"], self._rest_device)),
            copy_to(saved["lr"], last),
        )

    def paths(self) -> dict[str, str]:
        """What a stream will run, in words: one entry for every operation that has more than one path, and why."""
        return describe_paths(self)

    def stream(
        self,
        *,
        height: int,
        width: int,
        scale: float | tuple[int, int] = 4,
        seed: int = 0,
        noise: Tensor | None = None,
        state: dict[str, Any] | None = None,
    ) -> Stream:
        """Start a stream, or go on with a saved one; see :class:`~flashvsr.streaming.Stream`.

        Args:
            height: Rows of the LR frames.
            width: Columns of the LR frames.
            scale: Output size over input size, or the (height, width) of the output.
            seed: Of the noise.
            noise: Given noise instead, `[1, 16, latents, H/8, W/8]` of the padded output.
            state: Of :meth:`Stream.state_dict`.

        Returns:
            The stream, with ``push`` and ``finish``.

        Raises:
            ValueError: If nothing makes it fit into :attr:`gpu_gib`.
        """
        self._fit(height, width, scale)
        for what, how in self.paths().items():
            logger.info("%s: %s", what, how)
        return Stream(self, height=height, width=width, scale=scale, seed=seed, noise=noise, state=state)

    def upscale(self, video: Tensor, *, scale: float = 4, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """Upscale a clip that fits in memory.

        Args:
            video: `[T, 3, h, w]`, uint8 or float in [0, 1].
            scale: Output size over input size.
            seed: Of the noise.
            noise: Given noise instead, see :meth:`stream`.

        Returns:
            `[T, 3, round(scale*h), round(scale*w)]`, same dtype and range.
        """
        if video.ndim == 4:
            self._fit(video.shape[2], video.shape[3], scale)
        return upscale(self, video, scale=scale, seed=seed, noise=noise)

    def _fit(self, height: int, width: int, scale: float | tuple[int, int]) -> None:
        """Make the next stream fit into what it may take."""
        if self.gpu_gib is not None:
            canvas = Canvas(height, width, scale, self.geometry.multiple, torch.device("cpu"))
            fit(self, canvas.padded_size, self.gpu_gib)


def check_detail(detail: float) -> None:
    """Refuse a detail out of range.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 <= detail <= 1:
        raise ValueError(f"detail goes from 0, the decoder alone, to 1, the whole model; got {detail}")
