"""LR projection: low-resolution frames at target size become tokens that are added to those of the transformer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from flashvsr.state import ConsumableState

VARIANTS = ("causal", "buffered")
STEP_FRAMES = 4
"""LR frames of one latent step."""
STEPS_AT_ONCE = 2
"""Latent steps computed together: what a running stream asks for, so that the longer first chunk needs no more."""

LARGE_FRAME = 1 << 14
"""Tokens of a frame from which on a single step fills a GPU and steps are computed one by one."""


@dataclass
class LRProjectionState(ConsumableState):
    """What the projection keeps of earlier frames.

    Attributes:
        frames: The last 2 frames, unshuffled, `[B, 2, h, w, C]`; None for the buffered variant, which has no memory.
        features: The last 2 outputs of the first convolution, `[B, 2, h, w, C]`; None likewise.
    """

    frames: Tensor | None
    features: Tensor | None

    def state_dict(self) -> dict[str, Tensor | None]:
        """Copy out to the CPU.

        Raises:
            RuntimeError: If the state was consumed before.
        """
        self.check_fresh()
        parts = {"frames": self.frames, "features": self.features}
        return {name: None if x is None else x.detach().to("cpu", copy=True) for name, x in parts.items()}

    @classmethod
    def from_state_dict(cls, saved: dict[str, Tensor | None]) -> LRProjectionState:
        """Rebuild a state from :meth:`state_dict`, whose tensors it takes over."""
        return cls(saved["frames"], saved["features"])


class StackedConv3d(nn.Module):
    """A Conv3d of kernel (4, 3, 3) and stride (2, 1, 1), computed as a Conv2d over 4 frames stacked in channels.

    On Hopper cuDNN's Conv3d is several times slower. `weight` keeps the shape of a Conv3d but is stored in the order
    (out, row, column, time, in), which is the channels-last storage of the Conv2d: the two are views of each other.
    ``load_state_dict`` and ``.to()`` keep that order; a weight stored otherwise is copied at each call.

    Args:
        in_channels: Channels of a frame.
        out_channels: Channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        stored = torch.empty(out_channels, 3, 3, STEP_FRAMES, in_channels)
        self.weight = nn.Parameter(stored.permute(0, 4, 3, 1, 2))
        self.bias = nn.Parameter(torch.empty(out_channels))
        bound = (in_channels * STEP_FRAMES * 9) ** -0.5  # as nn.Conv3d
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, h, w, in]` to `[B, (T - 2) / 2, h, w, out]`; the border is replicated in space, not in time."""
        needs_grad = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        stacked = stack_frames(x) if needs_grad else stack_frames_once(x)
        weight = self.weight.transpose(1, 2).flatten(1, 2)  # [out, 4*in, 3, 3], a view
        out = functional.conv2d(stacked.flatten(0, 1).permute(0, 3, 1, 2), weight, self.bias)
        return out.permute(0, 2, 3, 1).unflatten(0, stacked.shape[:2])


def stack_frames(x: Tensor) -> Tensor:
    """`[B, T, h, w, C]` to `[B, (T - 2) / 2, h + 2, w + 2, 4*C]`: every second four frames, the border replicated."""
    x = torch.cat((x[:, :, :1], x, x[:, :, -1:]), 2)
    x = torch.cat((x[:, :, :, :1], x, x[:, :, :, -1:]), 3)
    return torch.cat([x[:, k : x.shape[1] - 3 + k : 2] for k in range(STEP_FRAMES)], -1)


def stack_frames_once(x: Tensor) -> Tensor:
    """Do what :func:`stack_frames` does in one pass over memory instead of three, without gradients."""
    batch, frames, height, width, channels = x.shape
    stacked = x.new_empty(batch, (frames - 2) // 2, height + 2, width + 2, STEP_FRAMES * channels)
    inner = stacked[:, :, 1:-1, 1:-1].unflatten(-1, (STEP_FRAMES, channels))
    for k in range(STEP_FRAMES):
        inner[..., k, :] = x[:, k : frames - 3 + k : 2]
    for side, beside in ((0, 1), (-1, -2)):
        stacked[:, :, side, 1:-1] = stacked[:, :, beside, 1:-1]
    for side, beside in ((0, 1), (-1, -2)):  # with the corners
        stacked[:, :, :, side] = stacked[:, :, :, beside]
    return stacked


class ChannelsLastNorm(nn.Module):
    """Scale the channels of every position to root-mean-square `gamma`, rounding once before the gain.

    The same formula as :class:`flashvsr.decoders.wan_blocks.ChannelNorm`, which rounds once after it.

    Args:
        channels: Size of the last axis.
        eps: Smallest L2 norm divided by.
    """

    def __init__(self, channels: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., channels]` to the same; the norm in at least fp32, which fp16 would overflow."""
        wide = torch.promote_types(x.dtype, torch.float32)
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).clamp_min(self.eps)
        return (x * (self.gamma.shape[0] ** 0.5 / norm)).to(x.dtype) * self.gamma.flatten()


class LRProjection(nn.Module):
    """Tokens for the transformer from LR frames upsampled to the target size: 4 frames per latent step.

    Parameter names are the released ones. Frames pass a 16x16 pixel unshuffle, two convolutions over 4 frames and a
    linear layer.

    Args:
        in_channels: Colours of a frame.
        hidden: Channels of the two convolutions.
        dim: Channels of a token.
        variant: ``"causal"`` (v1.1): each convolution sees the last 2 inputs of the previous step. ``"buffered"`` (v1):
            it sees the last 2 inputs of its own step instead, a slip that the v1 weights were trained with; steps are
            then independent. The parameters are the same, so the variant has to be known.
        patch: Pixels per token, along rows and columns.

    Raises:
        ValueError: If `variant` is unknown.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, and its released code.
    """

    state_type = LRProjectionState

    def __init__(
        self,
        in_channels: int = 3,
        hidden: tuple[int, int] = (2048, 3072),
        dim: int = 1536,
        *,
        variant: str = "causal",
        patch: int = 16,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is one of {', '.join(VARIANTS)}; got {variant!r}")
        self.in_channels, self.patch, self.variant = in_channels, patch, variant
        first, second = hidden
        self.conv1 = StackedConv3d(in_channels * patch**2, first)
        self.norm1 = ChannelsLastNorm(first)
        self.conv2 = StackedConv3d(first, second)
        self.norm2 = ChannelsLastNorm(second)
        self.linear_layers = nn.ModuleList([nn.Linear(second, dim)])

    def forward(
        self, lr: Tensor, state: LRProjectionState | None = None, *, streaming: bool = True
    ) -> tuple[Tensor, LRProjectionState | None]:
        """Project a chunk of a stream, or a whole clip.

        Args:
            lr: `[B, in_channels, T, H, W]` in [-1, 1], H and W multiples of `patch`. ``T = 4n + 1`` at the start of a
                stream, where the first frame stands alone; ``T = 4n`` later.
            state: Of the previous chunk, consumed; None at the start.
            streaming: False to return None as the state.

        Returns:
            Tokens `[B, n*h*w, dim]` in raster order (step, row, column), none for ``n = 0``; and the new state.

        Raises:
            ValueError: If a size does not fit.
            RuntimeError: If the state was consumed before.
        """
        self._check(lr, state)
        if state is None:
            first, lr = lr[:, :, :1], lr[:, :, 1:]
            state = self._start(first) if self.variant == "causal" else LRProjectionState(None, None)
        past = state.take()
        frames, features = past.frames, past.features
        del past  # what is no longer needed is freed on the way
        tokens = []
        large = lr.shape[3] * lr.shape[4] >= LARGE_FRAME * self.patch**2
        for piece in lr.split(STEP_FRAMES * (1 if large else STEPS_AT_ONCE), 2):
            if piece.shape[2]:
                steps, frames, features = self._steps(piece, frames, features)
                tokens.append(steps)
        if not tokens:
            batch, _, _, height, width = lr.shape
            tokens = [lr.new_empty(batch, 0, height // self.patch, width // self.patch, self.norm2.gamma.shape[0])]
        projected = self.linear_layers[0](torch.cat(tokens, 1).flatten(1, 3))
        return projected, LRProjectionState(frames, features) if streaming else None

    def _check(self, lr: Tensor, state: LRProjectionState | None) -> None:
        if lr.ndim != 5 or lr.shape[1] != self.in_channels or any(size % self.patch for size in lr.shape[3:]):
            raise ValueError(
                f"lr is [B, {self.in_channels}, T, H, W] with H and W multiples of {self.patch}, got {list(lr.shape)}"
            )
        batch, _, frames, height, width = lr.shape
        if frames % STEP_FRAMES != (1 if state is None else 0):
            length, when = ("4n + 1", "at the start") if state is None else ("4n", "after the start")
            raise ValueError(f"{when} of a stream lr holds {length} frames, got {frames}")
        if state is not None:
            state.check_fresh()
        if state is None or state.frames is None:
            return
        held, _, rows, columns, _ = state.frames.shape
        expected = (held, rows * self.patch, columns * self.patch)
        if (batch, height, width) != expected:
            raise ValueError(
                f"lr holds {batch} videos of {height}x{width}, the state {held} of {expected[1]}x{expected[2]}; "
                "start a new stream with state=None when the batch or the frame size changes"
            )

    def _unshuffle(self, lr: Tensor) -> Tensor:
        """`[B, c, T, H, W]` to `[B, T, h, w, c*p*q]`."""
        return rearrange(lr, "b c t (h p) (w q) -> b t h w (c p q)", p=self.patch, q=self.patch)

    def _features(self, frames: Tensor) -> Tensor:
        """First convolution, norm and SiLU."""
        return functional.silu(self.norm1(self.conv1(frames)))

    def _start(self, first: Tensor) -> LRProjectionState:
        """Memory of a stream that has stood still at its first frame `[B, c, 1, H, W]`."""
        frame = self._unshuffle(first)
        feature = self._features(frame.expand(-1, STEP_FRAMES, -1, -1, -1))
        return LRProjectionState(frame.repeat(1, 2, 1, 1, 1), feature.repeat(1, 2, 1, 1, 1))

    def _steps(
        self, lr: Tensor, frames: Tensor | None, features: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """`[B, c, 4n, H, W]` to `[B, n, h, w, hidden]` and the new memory."""
        new_frames = self._unshuffle(lr)
        if frames is None or features is None:  # buffered: every step by itself, fronted by its own last two
            steps = new_frames.shape[1] // STEP_FRAMES
            clips = new_frames.unflatten(1, (steps, STEP_FRAMES)).flatten(0, 1)
            new_features = self._features(torch.cat((clips[:, -2:], clips), 1))
            out = self.conv2(torch.cat((new_features, new_features), 1)).unflatten(0, (-1, steps)).flatten(1, 2)
            return functional.silu(self.norm2(out)), None, None
        new_features = self._features(torch.cat((frames, new_frames), 1))
        out = self.conv2(torch.cat((features, new_features), 1))
        return functional.silu(self.norm2(out)), new_frames[:, -2:].clone(), new_features[:, -2:].clone()
