"""The parts of the video diffusion transformer: blocks, head and the timestep's embedding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from flashvsr.attention import CrossAttention


def timestep_embedding(timestep: Tensor, dim: int) -> Tensor:
    """Sinusoids of the timestep, cosines first.

    Args:
        timestep: `[B]`, 0 to 1000.
        dim: Even number of channels.

    Returns:
        `[B, dim]` fp32, from angles in fp64.
    """
    exponent = torch.arange(dim // 2, dtype=torch.float64, device=timestep.device) / (dim // 2)
    angle = timestep.double()[:, None] * 10000.0**-exponent
    return torch.cat((angle.cos(), angle.sin()), 1).float()


class DiTBlock(nn.Module):
    """Attention, cross-attention and feed-forward, the first and the last modulated by the timestep.

    Args:
        dim: Channels of a token.
        heads: Attention heads.
        ffn_dim: Channels inside the feed-forward network.
        attention: Builds the self-attention from (dim, heads).
        cross_attention: Whether there is a prompt to attend to.
        eps: Of the norms.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn_dim: int,
        attention: Callable[[int, int], nn.Module],
        cross_attention: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.self_attn = attention(dim, heads)
        if cross_attention:
            self.cross_attn = CrossAttention(dim, heads, eps=eps)
            self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(ffn_dim, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.eps = eps

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        attend: Callable[[nn.Module, Tensor], Tensor],
        context: tuple[Tensor, Tensor] | None,
        segment: Tensor | None,
    ) -> Tensor:
        """Run.

        Args:
            x: `[B, N, dim]`.
            modulation: `[B, 6, dim]`, or one per sample of a packed sequence `[samples, 6, dim]`.
            attend: Calls the self-attention with what it needs besides its input.
            context: Keys and values of the prompt.
            segment: Sample of each token of a packed sequence, `[N]`; None when rows of the batch are samples.

        Returns:
            `[B, N, dim]`.
        """
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (
            per_token(part, segment) for part in (self.modulation + modulation).unbind(1)
        )
        x = torch.addcmul(x, gate, attend(self.self_attn, modulate(x, shift, scale, self.eps)))
        if context is not None:
            x = x + self.cross_attn(self.norm3(x), context)
        return torch.addcmul(x, ffn_gate, self.ffn(modulate(x, ffn_shift, ffn_scale, self.eps)))


def per_token(x: Tensor, segment: Tensor | None) -> Tensor:
    """Spread `[samples, dim]` over tokens: `[B, 1, dim]` to broadcast, or `[1, N, dim]` by the sample of each token."""
    return x[:, None] if segment is None else x[segment][None]


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm without parameters, then ``* (1 + scale) + shift``."""
    return torch.addcmul(shift, layer_norm(x, x.shape[-1:], eps=eps), 1 + scale)


class Head(nn.Module):
    """Modulated norm and the projection to velocities.

    Args:
        dim: Channels of a token.
        out_channels: Channels per token.
        eps: Of the norm.
    """

    def __init__(self, dim: int, out_channels: int, eps: float) -> None:
        super().__init__()
        self.head = nn.Linear(dim, out_channels)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.eps = eps

    def forward(self, x: Tensor, embedding: Tensor, segment: Tensor | None) -> Tensor:
        """`[B, N, dim]` and the time embedding `[B or samples, dim]` to `[B, N, out_channels]`."""
        shift, scale = (per_token(part, segment) for part in (self.modulation + embedding[:, None]).unbind(1))
        return self.head(modulate(x, shift, scale, self.eps))
