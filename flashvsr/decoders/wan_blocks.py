"""Parts of the Wan2.1 video VAE, one frame `[B, C, H, W]` at a time.

A causal 3-D convolution is a 2-D convolution over the last few frames stacked as channels. So every layer maps frames
to frames, in channels_last, and what a layer remembers is a few of its own earlier inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from flashvsr.state import ConsumableState

Past = dict[str, tuple[Tensor, ...]]  # earlier inputs of each remembering layer, oldest first, by layer name


@dataclass
class WanVAEState(ConsumableState):
    """What the Wan VAE remembers between two calls of one stream, of encoding or of decoding.

    Attributes:
        past: Earlier inputs `[B, C, h, w]` of each remembering layer, oldest first, by layer name.
    """

    past: Past

    def state_dict(self) -> dict[str, Tensor]:
        """CPU copies of the remembered frames; keys are the layer name and the age, ``decoder.conv1.0`` the oldest.

        Raises:
            RuntimeError: If the state was consumed before.
        """
        self.check_fresh()
        items = [(f"{name}.{age}", frame) for name, frames in self.past.items() for age, frame in enumerate(frames)]
        return {key: frame.detach().to("cpu", copy=True) for key, frame in items}

    @classmethod
    def from_state_dict(cls, saved: dict[str, Tensor]) -> WanVAEState:
        """The state that :meth:`state_dict` saved; it continues on the device and in the dtype of the tensors."""
        past: Past = {}
        for key in sorted(saved):  # ages are single digits, so this is oldest first
            name = key.rpartition(".")[0]
            past[name] = (*past.get(name, ()), saved[key].clone(memory_format=torch.channels_last))
        return cls(past)


class CausalConv3d(nn.Conv3d):
    """A 3-D convolution that sees no later frame, run on one frame at a time.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Taps over time, height and width, all odd; space is padded with zeros to keep its size.
    """

    name: str  # set by the VAE: the key of this layer in the state

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int, int]) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.space_padding = (kernel_size[1] // 2, kernel_size[2] // 2)

    def stacked(self, frames: tuple[Tensor, ...]) -> Tensor:
        """The convolution at the last of ``frames`` `[B, C, H, W]`, one frame per tap over time."""
        weight = self.weight.transpose(1, 2).flatten(1, 2)  # [O, taps * I, kh, kw]
        return functional.conv2d(torch.cat(frames, dim=1), weight, self.bias, padding=self.space_padding)

    def forward(self, x: Tensor, past: Past) -> Tensor:  # type: ignore[override]  # a Conv3d by its parameters only
        """Convolve the next frame `[B, C, H, W]`; frames before the stream are zero."""
        taps = self.kernel_size[0]
        if taps == 1:
            return self.stacked((x,))
        before = past.get(self.name)
        window = (*((torch.zeros_like(x),) * (taps - 1) if before is None else before), x)
        past[self.name] = window[1:]
        return self.stacked(window)


class ChannelNorm(nn.Module):
    """L2 normalisation over the channels of a pixel, times ``sqrt(C)``, times a learned gain.

    Args:
        channels: Channels in and out.
        trailing: Ones behind the channel axis in the released shape of ``gamma``: 3 for video, 2 for frames.
    """

    def __init__(self, channels: int, trailing: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * trailing))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[B, C, H, W]`; a pixel of zeros stays zero."""
        last = x.permute(0, 2, 3, 1)  # [B, H, W, C]
        # x / |x| * sqrt(C) is x / rms(x); the release bounds |x| by 1e-12 from below
        return functional.rms_norm(last, last.shape[-1:], self.gamma.flatten(), eps=1e-24).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two (norm, SiLU, causal 3x3x3 convolution), added to the input.

    Args:
        in_channels: Channels in.
        out_channels: Channels out; when they differ the input is brought there by a 1x1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(  # the released indices; those without weights are absent
            {
                "0": ChannelNorm(in_channels),
                "2": CausalConv3d(in_channels, out_channels, (3, 3, 3)),
                "3": ChannelNorm(out_channels),
                "6": CausalConv3d(out_channels, out_channels, (3, 3, 3)),
            }
        )
        self.shortcut = None if in_channels == out_channels else CausalConv3d(in_channels, out_channels, (1, 1, 1))

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Apply the block to the next frame `[B, C, H, W]`."""
        out = self.residual["2"](functional.silu(self.residual["0"](x)), past)
        out = self.residual["6"](functional.silu(self.residual["3"](out)), past)
        return out.add_(x if self.shortcut is None else self.shortcut(x, past))


class FrameAttention(nn.Module):
    """Single-head attention among the pixels of one frame, added to the input.

    Args:
        channels: Channels in and out, and width of the head.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, trailing=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        """Attend within the frame `[B, C, H, W]`; nothing is remembered."""
        tokens = self.to_qkv(self.norm(x)).permute(0, 2, 3, 1).flatten(1, 2).unsqueeze(1)  # [B, 1, H*W, 3C]
        query, key, value = tokens.chunk(3, dim=-1)
        out = functional.scaled_dot_product_attention(query, key, value)
        out = out.squeeze(1).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # [B, C, H, W]
        return self.proj(out) + x


class Downsample(nn.Module):
    """Half the size in space and, with ``in_time``, in time: the first frame of a stream alone, then pairs.

    Args:
        channels: Channels in and out.
        in_time: Whether pairs of frames become one.
    """

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 3, stride=2)})  # released index
        self.time_conv = CausalConv3d(channels, channels, (3, 1, 1)) if in_time else None

    def forward(self, frames: list[Tensor], past: Past) -> list[Tensor]:
        """Reduce consecutive frames `[B, C, H, W]`: one at the start of a stream, later an even number."""
        convolve = self.resample["1"]
        small = [convolve(functional.pad(frame, (0, 1, 0, 1))) for frame in frames]  # one row and column behind
        if self.time_conv is None:
            return small
        before = past.get(self.time_conv.name)
        past[self.time_conv.name] = (small[-1],)
        if before is None:
            return small
        small = [*before, *small]
        return [self.time_conv.stacked(tuple(small[end - 2 : end + 1])) for end in range(2, len(small), 2)]


class Upsample(nn.Module):
    """Twice the size and half the channels and, with ``in_time``, twice the frames but for the first of a stream.

    Args:
        channels: Channels in; half of them come out.
        in_time: Whether a frame becomes two.
    """

    def __init__(self, channels: int, in_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels // 2, 3, padding=1)})  # released index
        self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1)) if in_time else None

    def forward(self, x: Tensor, past: Past) -> list[Tensor]:
        """Enlarge the next frame `[B, C, H, W]`."""
        frames: tuple[Tensor, ...] = (x,)
        if self.time_conv is not None:
            if self.time_conv.name in past:
                frames = self.time_conv(x, past).chunk(2, dim=1)
            else:  # frame 0 is not grown, nor does the growth of later frames see it
                past[self.time_conv.name] = (torch.zeros_like(x),) * 2
        return [self.resample["1"](functional.interpolate(frame, scale_factor=2.0)) for frame in frames]
