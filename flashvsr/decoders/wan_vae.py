"""The Wan2.1 video VAE, encoder and decoder, as streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from flashvsr.decoders.blocks import check_latents
from flashvsr.decoders.wan_blocks import (
    CausalConv3d,
    ChannelNorm,
    Downsample,
    FrameAttention,
    Past,
    ResidualBlock,
    Upsample,
    WanVAEState,
)

_MULTIPLIERS = (1, 2, 4, 4)  # width of each resolution, from full to 1/8, in base widths
_IN_TIME = (False, True, True)  # whether the step between two resolutions also halves time
_FRAMES = 4  # frames per latent, after the first

# Statistics of the latents of Wan2.1, per channel
_WAN_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_WAN_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916,
)  # fmt: skip


class _Encoder(nn.Module):
    def __init__(self, base_width: int, out_channels: int) -> None:
        super().__init__()
        widths = [base_width * factor for factor in _MULTIPLIERS]
        self.conv1 = CausalConv3d(3, widths[0], (3, 3, 3))
        layers: list[nn.Module] = []
        for level, (before, width) in enumerate(zip([widths[0], *widths[:-1]], widths, strict=True)):
            layers += [ResidualBlock(before, width), ResidualBlock(width, width)]
            if level < len(_IN_TIME):
                layers.append(Downsample(width, _IN_TIME[level]))
        self.downsamples = nn.ModuleList(layers)
        self.middle = _middle(widths[-1])
        self.head = _head(widths[-1], out_channels)

    def forward(self, frames: list[Tensor], past: Past) -> Tensor:
        """One latent frame from frame 0, or from four later ones, each `[B, 3, H, W]`."""
        frames = [self.conv1(frame, past) for frame in frames]
        for layer in self.downsamples:
            if isinstance(layer, Downsample):
                frames = layer(frames, past)
            else:
                frames = [layer(frame, past) for frame in frames]
        (x,) = frames
        for layer in self.middle:
            x = layer(x, past)
        return self.head["2"](functional.silu(self.head["0"](x)), past)


class _Decoder(nn.Module):
    def __init__(self, base_width: int, in_channels: int) -> None:
        super().__init__()
        widths = [base_width * factor for factor in reversed(_MULTIPLIERS)]
        self.conv1 = CausalConv3d(in_channels, widths[0], (3, 3, 3))
        self.middle = _middle(widths[0])
        layers: list[nn.Module] = []
        before = widths[0]
        for level, width in enumerate(widths):
            layers += [ResidualBlock(before, width), ResidualBlock(width, width), ResidualBlock(width, width)]
            before = width // 2  # an upsampling step halves the channels
            if level < len(_IN_TIME):
                layers.append(Upsample(width, _IN_TIME[-1 - level]))
        self.upsamples = nn.ModuleList(layers)
        self.head = _head(widths[-1], 3)

    def forward(self, x: Tensor, past: Past) -> Iterator[Tensor]:
        """The frames `[B, 3, 8h, 8w]` of one latent frame `[B, C, h, w]`: one at the start of a stream, later four."""
        x = self.conv1(x, past)
        for layer in self.middle:
            x = layer(x, past)
        for out in self._enlarge(x, 0, past):
            yield self.head["2"](functional.silu(self.head["0"](out)), past)

    def _enlarge(self, x: Tensor, index: int, past: Past) -> Iterator[Tensor]:
        """Run the layers from ``index`` on. Each frame goes to the end before its successor: few live at once."""
        while index < len(self.upsamples):
            layer = self.upsamples[index]
            index += 1
            if isinstance(layer, Upsample):
                for frame in layer(x, past):
                    yield from self._enlarge(frame, index, past)
                return
            x = layer(x, past)
        yield x


class WanVAE(nn.Module):
    """The video VAE whose latents the diffusion transformer works on; FlashVSR's full decoder.

    Frame 0 of a clip becomes latent 0, every four later frames one more latent, each 8 times smaller in height and
    width. Both directions are causal and go latent by latent, so any split of a stream gives the same bits and memory
    does not grow with the length of a call.

    Args:
        base_width: Channels at full resolution; 96 is the released network.
        latent_channels: Channels of the latents.
        mean: Mean of each latent channel before normalisation; None is Wan2.1's own.
        std: Standard deviation of each latent channel; None is Wan2.1's own.

    Raises:
        ValueError: If ``mean`` or ``std`` does not have one value per latent channel.

    Reference:
        Wan: Open and Advanced Large-Scale Video Generative Models, https://arxiv.org/abs/2503.20314, section 4.1.
    """

    state_type = WanVAEState
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        base_width: int = 96,
        latent_channels: int = 16,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        for name, values, default in (("mean", mean, _WAN_MEAN), ("std", std, _WAN_STD)):
            chosen = default if values is None else tuple(values)
            if len(chosen) != latent_channels:
                raise ValueError(f"{name} needs {latent_channels} values, one per latent channel, got {len(chosen)}")
            self.register_buffer(name, torch.tensor(chosen).view(-1, 1, 1), persistent=False)
        self.encoder = _Encoder(base_width, 2 * latent_channels)
        self.conv1 = CausalConv3d(2 * latent_channels, 2 * latent_channels, (1, 1, 1))
        self.conv2 = CausalConv3d(latent_channels, latent_channels, (1, 1, 1))
        self.decoder = _Decoder(base_width, latent_channels)
        for name, module in self.named_modules():
            if isinstance(module, CausalConv3d):
                module.name = name

    def encode(self, frames: Tensor, state: WanVAEState | None = None) -> tuple[Tensor, WanVAEState]:
        """Encode the next frames of a stream to the mean of their latent distribution, normalised.

        Args:
            frames: `[B, 3, T, H, W]` in [-1, 1], H and W multiples of 8; T = 4n + 1 in the first call, 4n later.
            state: What the previous ``encode`` returned, which is consumed, or None at the start of a stream.

        Returns:
            Latents `[B, 16, T', H/8, W/8]`, T' = n + 1 in the first call and n later; and the new state.

        Raises:
            ValueError: If the frame count or size does not fit, or the state is of another size or direction.
            RuntimeError: If the state was consumed before.
        """
        first = 1 if state is None else 0
        count = frames.shape[2] if frames.ndim == 5 and frames.shape[1] == 3 else 0
        if count < 1 or count % _FRAMES != first or frames.shape[3] % 8 or frames.shape[4] % 8:
            call = "T = 4n + 1 in the first call" if first else "T = 4n in a later call"
            raise ValueError(
                f"encode takes [B, 3, T, H, W] with H and W multiples of 8 and {call} of a stream, "
                f"got {tuple(frames.shape)}"
            )
        past = self._past(state, "encoder", frames[:, :, 0])
        steps = [_channels_last(frame) for frame in frames.unbind(2)]
        latents = []
        for end in range(first or _FRAMES, count + 1, _FRAMES):
            moments = self.conv1(self.encoder(steps[max(end - _FRAMES, 0) : end], past), past)
            latents.append((moments.chunk(2, dim=1)[0] - self.mean) / self.std)
        return torch.stack(latents, dim=2).contiguous(), WanVAEState(past)

    def decode(self, latents: Tensor, state: WanVAEState | None = None) -> tuple[Tensor, WanVAEState]:
        """Decode the next latents of a stream.

        Args:
            latents: `[B, 16, n, H/8, W/8]`, normalised, n >= 1.
            state: What the previous ``decode`` returned, which is consumed, or None at the start of a stream.

        Returns:
            Frames `[B, 3, T, H, W]`, about [-1, 1] and not clamped, T = 4n - 3 in the first call and 4n later; and the
            new state.

        Raises:
            ValueError: If the latents have the wrong shape, or the state is of another size or direction.
            RuntimeError: If the state was consumed before.
        """
        check_latents(latents, self.latent_channels)
        past = self._past(state, "decoder", latents[:, :, 0])
        frames: list[Tensor] = []
        for latent in latents.unbind(2):
            frames += self.decoder(self.conv2(_channels_last(latent * self.std + self.mean), past), past)
        return torch.stack(frames, dim=2).contiguous(), WanVAEState(past)

    def forward(
        self, latents: Tensor, lr: Tensor | None = None, state: WanVAEState | None = None
    ) -> tuple[Tensor, WanVAEState]:
        """:meth:`decode` with the arguments of every decoder; ``lr`` is ignored."""
        return self.decode(latents, state)

    def _past(self, state: WanVAEState | None, side: str, step: Tensor) -> Past:
        """The frames to go on from, once they are known to fit the input ``step`` `[B, C, H, W]` of this side."""
        if state is None:
            return {}
        state.check_fresh()
        name = f"{side}.conv1"
        if name not in state.past:
            raise ValueError(f"this state is of the other direction: it remembers nothing of {name!r}")
        held = state.past[name][0]
        if held.shape != step.shape:
            raise ValueError(
                f"the VAE state goes on from frames of shape {tuple(held.shape)}, got {tuple(step.shape)}; start a new "
                "stream with state=None when the batch or the frame size changes"
            )
        return state.take().past


def _channels_last(frame: Tensor) -> Tensor:
    return frame.contiguous(memory_format=torch.channels_last)


def _middle(width: int) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(width, width), FrameAttention(width), ResidualBlock(width, width)])


def _head(width: int, out_channels: int) -> nn.ModuleDict:
    return nn.ModuleDict({"0": ChannelNorm(width), "2": CausalConv3d(width, out_channels, (3, 3, 3))})
