"""A system that streams with only a decoder: LR frames in, frames out, no transformer and no latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.decoders.color import ColorMatch
from flashvsr.models.memory import estimate_decoder_needs
from flashvsr.models.memory_plan import plan_memory
from flashvsr.streaming import Canvas, Geometry, Stream, upscale

GEOMETRY = Geometry(
    first_frames=1, next_frames=4, first_latents=1, next_latents=1, multiple=8, lookahead=0, latent_channels=0
)
"""One frame first, then four at a time, as a decoder cuts them; without lookahead and without noise."""


class DecoderSystem(nn.Module):
    """A conditional decoder that enlarges LR frames by itself, with zeros in place of latents.

    It is called as :class:`~flashvsr.models.FlashVSR` is, but the first frame is ready as soon as it came, and every
    further four with the last of them.

    Args:
        decoder: Takes latents and LR frames, such as a :class:`~flashvsr.decoders.TinyConditionalDecoder`.
        color: ``"adain"``, ``"wavelet"`` or ``"none"``: how colours are brought back to those of the LR frames.

    Raises:
        ValueError: If `color` is unknown.

    Attributes:
        geometry: How the stream is cut; its noise has no channels.
        gpu_gib: GiB of its device that a stream may take: one that takes more is refused when it is opened. None for no
            limit.
    """

    decoder: Any  # with `state_type`, which type checkers do not see through nn.Module

    def __init__(self, decoder: nn.Module, *, color: str = "none") -> None:
        super().__init__()
        self.decoder = decoder
        self.color = ColorMatch(color)
        self.geometry = GEOMETRY
        self.gpu_gib: float | None = None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    @property
    def pixel_dtype(self) -> torch.dtype:
        """Of LR frames and output: fp32 where the decoder adds to LR frames, which bf16 would round to 8 bits."""
        return torch.float32 if getattr(self.decoder, "residual", False) else self.dtype

    def step(
        self,
        lr: Tensor,
        noise: Tensor | None = None,
        state: Any = None,
        *,
        content: tuple[int, int] | None = None,
        on_frames: Callable[[Tensor], None] | None = None,
    ) -> tuple[Tensor, Any]:
        """Process one chunk.

        Args:
            lr: LR frames at target size `[B, 3, T, H, W]` in [-1, 1], H and W multiples of 8: T = 4n + 1 at the start,
                then 4n.
            noise: Not used.
            state: Of the previous chunk, consumed; None at the start.
            content: Height and width of what is not padding, from the top left; colours are matched over it. None for
                all.
            on_frames: Called with the frames as soon as they are decoded.

        Returns:
            As many frames, in [-1, 1], and the new state.

        Raises:
            ValueError: If a size does not fit.
            RuntimeError: If the state was consumed before.
        """
        lr = lr.to(self.device, self.pixel_dtype)
        batch, _, count, height, width = lr.shape
        steps = (count + 3) // 4
        size = (height // self.geometry.latent_stride, width // self.geometry.latent_stride)
        latents = torch.zeros(batch, self.decoder.latent_channels, steps, *size, device=lr.device, dtype=self.dtype)
        frames, state = self.decoder(latents, lr, state)
        frames = self.color(frames, lr, content)
        if on_frames is not None:
            on_frames(frames)
        return frames, state

    def with_detail(self, detail: float) -> DecoderSystem:
        """This system; there are no latents whose detail could be turned down.

        Args:
            detail: 1.

        Raises:
            ValueError: If it is anything else.
        """
        if detail != 1:
            raise ValueError(
                f"this model is a decoder alone, without a diffusion part whose detail could be {detail:g}: leave it "
                "at 1, or choose a model with a transformer"
            )
        return self

    def load_state(self, saved: dict[str, Any]) -> Any:
        """Rebuild the state that :meth:`step` returned from its ``state_dict``, on this system's device.

        Args:
            saved: The tensors by name; not changed, not kept.

        Returns:
            A state for :meth:`step`.
        """
        return self.decoder.state_type.from_state_dict({name: x.to(self.device) for name, x in saved.items()})

    def paths(self) -> dict[str, str]:
        """Describe what a stream will run."""
        return {"model": f"a decoder alone, {str(self.dtype).removeprefix('torch.')}"}

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
            scale: Output size over input size.
            seed: Changes nothing: there is no noise.
            noise: `[1, 0, latents, H/8, W/8]`, likewise.
            state: Of :meth:`Stream.state_dict`.

        Returns:
            The stream, with ``push`` and ``finish``.

        Raises:
            ValueError: If it takes more than :attr:`gpu_gib`.
        """
        self._check_room(height, width, scale)
        return Stream(self, height=height, width=width, scale=scale, seed=seed, noise=noise, state=state)

    def upscale(self, video: Tensor, *, scale: float = 4, seed: int = 0, noise: Tensor | None = None) -> Tensor:
        """Upscale a clip that fits in memory.

        Args:
            video: `[T, 3, h, w]`, uint8 or float in [0, 1].
            scale: Output size over input size.
            seed: Changes nothing: there is no noise.
            noise: Likewise.

        Returns:
            `[T, 3, round(scale*h), round(scale*w)]`, same dtype and range.
        """
        if video.ndim == 4:
            self._check_room(video.shape[2], video.shape[3], scale)
        return upscale(self, video, scale=scale, seed=seed, noise=noise)

    def _check_room(self, height: int, width: int, scale: float | tuple[int, int]) -> None:
        if self.gpu_gib is not None:
            size = Canvas(height, width, scale, self.geometry.multiple, torch.device("cpu")).padded_size
            plan_memory(estimate_decoder_needs(self, *size), self.gpu_gib)
