"""The parts of the video diffusion transformer: blocks, head, the timestep's embedding, and sums and norms between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from flashvsr.attention import CrossAttention
from flashvsr.kernels import takes_kernel, unavailable
from flashvsr.models.fp8 import Fp8Linear

PIECE_TOKENS = 1 << 14
"""Tokens that pass the layers after the attention together, in inference: enough to fill a GPU."""


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


def linear_velocity(sigma: Tensor) -> Tensor:
    """The multiple of a noisy sample that comes nearest to its velocity, where latents have unit variance.

    Args:
        sigma: Noise levels of any shape; the noisy sample is ``(1 - sigma) * x0 + sigma * noise``.

    Returns:
        Shaped as `sigma`: -1 without noise, 1 for nothing but noise.
    """
    return (2 * sigma - 1) / (sigma**2 + (1 - sigma) ** 2)


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
        self.ffn = FeedForward(dim, ffn_dim)
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.eps = eps

    def to_fp8(self) -> None:
        """Exchange the linear layers that tokens pass for :class:`~flashvsr.models.fp8.Fp8Linear`, for good.

        Those of the prompt's keys and values, which are computed once a stream, stay exact.
        """
        layers = [(self.self_attn, name) for name in ("q", "k", "v", "o")]
        if hasattr(self, "cross_attn"):
            layers += [(self.cross_attn, name) for name in ("q", "o")]
        for parent, name in layers:
            layer = getattr(parent, name, None)  # attention of another class may have others
            if isinstance(layer, nn.Linear):
                setattr(parent, name, Fp8Linear(layer))
        self.ffn.to_fp8()

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
            x: `[B, N, dim]`; changed in place where autograd and autocast are off.
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
        attended = attend(self.self_attn, modulate(x, shift, scale, self.eps))
        if not may_write_in_place(x):
            x = torch.addcmul(x, gate, attended)
            if context is not None:
                x = x + self.cross_attn(self.norm3(x), context)
            return torch.addcmul(x, ffn_gate, self.ffn(modulate(x, ffn_shift, ffn_scale, self.eps)))
        rows = (gate, 1 + ffn_scale, ffn_shift, ffn_gate)
        for start in range(0, x.shape[1], PIECE_TOKENS):  # what follows is per token: a long chunk takes no more memory
            piece = slice(start, start + PIECE_TOKENS)
            part, y = x[:, piece], attended[:, piece]
            now, weight, bias, last = (row if row.shape[1] == 1 else row[:, piece] for row in rows)
            entering: Tensor | None = now
            if context is not None:
                norm = self.norm3
                y = self.cross_attn(add_norm_(part, y, entering, norm.weight, norm.bias, norm.eps), context)
                entering = None
            add_(part, self.ffn(add_norm_(part, y, entering, weight, bias, self.eps)), last)
        return x


class FeedForward(nn.Sequential):
    """Two linear layers with a tanh-approximated GELU between them, in inference without a second hidden tensor.

    Args:
        dim: Channels in and out.
        hidden: Channels between.

    Attributes:
        impl: ``"fused"`` computes the GELU within the first product, on a GPU in inference, and rounds once where
            ``"plain"`` rounds twice; ``"auto"`` is fused where that can run.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        self.impl = "auto"

    def to_fp8(self) -> None:
        """Exchange both layers for :class:`~flashvsr.models.fp8.Fp8Linear`, for good."""
        for index in (0, 2):
            self[index] = Fp8Linear(cast(nn.Linear, self[index]))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, dim]` to the same.

        Raises:
            ImplUnavailableError: If the fused product is named and cannot run.
            ValueError: If `impl` is unknown.
        """
        first, activation, second = cast(Any, tuple(self))
        if isinstance(first, Fp8Linear):
            return second(first(x), gelu=True)
        if takes_kernel(self.impl, self._fused_unavailable(x), kernel="fused"):
            hidden = torch._addmm_activation(first.bias, x.flatten(0, 1), first.weight.t(), use_gelu=True)
            return second(hidden).unflatten(0, x.shape[:2])
        if type(first) is not nn.Linear or not may_write_in_place(x):
            return second(activation(first(x)))
        return second(torch.ops.aten.gelu_(first(x), approximate="tanh"))

    def _fused_unavailable(self, x: Tensor) -> str | None:
        if type(self[0]) is not nn.Linear:
            return "an adapter (LoRA) computes more than a product"
        if not may_write_in_place(x):
            return "gradients or autocast are on"
        return unavailable("fused_gelu", x.device, x.dtype)


def may_write_in_place(x: Tensor) -> bool:
    """Whether neither autograd nor autocast looks on, so that tensors may be changed in place and steps joined."""
    device = x.device.type
    mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return not (mixed or torch.is_grad_enabled())


def per_token(x: Tensor, segment: Tensor | None) -> Tensor:
    """Spread `[samples, dim]` over tokens: `[B, 1, dim]` to broadcast, or `[1, N, dim]` by the sample of each token."""
    return x[:, None] if segment is None else x[segment][None]


def modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Layer norm without parameters, then ``* (1 + scale) + shift``."""
    return scaled_norm(x, 1 + scale, shift, eps)


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


def add_(x: Tensor, y: Tensor, gate: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """Add to `x` in place what a layer made of it, for inference.

    Args:
        x: `[B, N, dim]`.
        y: Likewise.
        gate: Factor on `y`, `[B or 1, N or 1, dim]`; None for 1.
        impl: As for :func:`add_norm_`.

    Returns:
        `x`.

    Raises:
        ImplUnavailableError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if takes_kernel(impl, _kernel_unavailable(x, y, gate)):
        from flashvsr.kernels.residual import launch_add_norm

        launch_add_norm(x, y, gate)
        return x
    return x.add_(y) if gate is None else x.addcmul_(gate, y)


def add_norm_(
    x: Tensor, y: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float, *, impl: str = "auto"
) -> Tensor:
    """Add to `x` in place what a layer made of it, and return the layer norm of the sum, for inference.

    Args:
        x: `[B, N, dim]`.
        y: Likewise; its memory may hold the result afterwards.
        gate: Factor on `y`, `[B or 1, N or 1, dim]`; None for 1.
        weight: `[B or 1, N or 1, dim]` or `[dim]`, of the norm.
        bias: Likewise.
        eps: Added to the variance.
        impl: ``"plain"`` (any device), ``"triton"`` (one kernel on a GPU, where all tokens share the gate and the
            norm), or ``"auto"``: the kernel where it can run. Both round the sum, and then the norm.

    Returns:
        `[B, N, dim]`.

    Raises:
        ImplUnavailableError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if takes_kernel(impl, _kernel_unavailable(x, y, gate, weight, bias)):
        from flashvsr.kernels.residual import launch_add_norm

        launch_add_norm(x, y, gate, weight, bias, eps)
        return y
    add_(x, y, gate, impl="plain")
    return scaled_norm(x, weight, bias, eps)


def scaled_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm, times `weight`, plus `bias`, of which each token may have its own: in one pass where it has not."""
    if weight.numel() == x.shape[-1] == bias.numel():
        return layer_norm(x, x.shape[-1:], weight.flatten(), bias.flatten(), eps)
    return torch.addcmul(bias, layer_norm(x, x.shape[-1:], eps=eps), weight)


def _kernel_unavailable(x: Tensor, y: Tensor, *rows: Tensor | None) -> str | None:
    if not (x.is_contiguous() and y.is_contiguous()):
        return "its tensors are not contiguous"
    if any(row is not None and row.numel() != x.shape[-1] for row in rows):
        return "tokens have gates or norms of their own"
    return unavailable("residual", x.device, x.dtype)
