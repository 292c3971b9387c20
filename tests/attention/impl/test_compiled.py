"""Attention inside graphs of ``torch.compile`` and ``torch.export``: one graph, the eager numbers."""

import shutil

import pytest
import torch

from flashvsr.attention import (
    FullAttention,
    LocalSparseAttention,
    TokenGrid,
    block_sparse_attention,
    packed_attention,
    rope_table,
)

SIZE = 16


def _inputs(rows: int = 4, columns: int = 6, head_dim: int = 16) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((2, 3, rows * SIZE, head_dim), (2, 3, columns * SIZE, head_dim), (2, 3, columns * SIZE, head_dim))
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def _mask() -> torch.Tensor:
    torch.manual_seed(1)
    mask = torch.rand(2, 3, 4, 6) < 0.4
    mask[0, 0, 1] = False
    return mask


def _whole_graph(function, *, backend: str = "aot_eager"):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


@pytest.mark.parametrize("impl", ["auto", "gather", "dense", "reference"])
def test_a_call_is_one_graph_with_the_eager_output_and_gradients(impl):
    inputs, mask = _inputs(), _mask()

    def attend(query, key, value):
        return block_sparse_attention(
            query * 2,
            (key[:, :, :SIZE], key[:, :, SIZE:]),
            (value[:, :, :SIZE], value[:, :, SIZE:]),
            mask,
            SIZE,
            impl=impl,
        )

    eager, compiled = attend(*inputs), _whole_graph(attend)(*inputs)
    torch.testing.assert_close(compiled, eager, rtol=0, atol=1e-5)
    grad = torch.randn_like(eager)
    for ours, theirs in zip(
        torch.autograd.grad(compiled, inputs, grad), torch.autograd.grad(eager, inputs, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("impl", ["auto", "gather", "dense", "reference"])
def test_two_layers_are_one_graph(impl):
    grid = TokenGrid(4, 8, 16)
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(LocalSparseAttention(32, 2, sparse_ratio=0.05, impl=impl) for _ in range(2)))
    rope, x = rope_table(grid, 16, order="block"), torch.randn(1, grid.tokens, 32)

    def run(x):
        for layer in layers:
            x = x + layer(x, grid, rope)
        return x

    torch.testing.assert_close(_whole_graph(run, backend="eager")(x), run(x), rtol=0, atol=1e-5)


def test_full_attention_over_packed_samples_is_one_graph():
    query, key, value = (x[:1].detach() for x in _inputs(6))

    def attend(query, key, value):
        return packed_attention(query, key, value, [SIZE, 5 * SIZE], impl="sdpa")

    torch.testing.assert_close(_whole_graph(attend)(query, key, value), attend(query, key, value))
    layer, grid = FullAttention(32, 2), TokenGrid(2, 3, 5)
    x, rope = torch.randn(1, grid.tokens, 32), rope_table(grid, 16)
    torch.testing.assert_close(_whole_graph(layer)(x, grid, rope), layer(x, grid, rope))


@pytest.mark.parametrize("impl", ["gather", "dense", "reference"])
def test_an_exported_layer_gives_the_eager_output_for_other_inputs(impl):
    grid = TokenGrid(2, 8, 16)
    torch.manual_seed(0)
    layer = LocalSparseAttention(32, 2, sparse_ratio=0.05, impl=impl).eval()
    rope, x = rope_table(grid, 16, order="block"), torch.randn(1, grid.tokens, 32)

    class Bound(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, rope):
            return self.layer(x, grid, rope)

    program = torch.export.export(Bound(), (x, rope))
    other = torch.randn_like(x)
    torch.testing.assert_close(program.module()(other, rope), layer(other, grid, rope), rtol=0, atol=1e-5)
    assert layer(other, grid, rope).isfinite().all()  # tracing left nothing of its own in the caches of masks


@pytest.mark.slow  # FlexAttention builds C++ for 10 to 20 seconds
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler: flex was not run")
def test_flex_is_one_graph_with_the_eager_output():
    query, key, value = (torch.randn(1, 2, 256, 16) for _ in range(3))
    mask = torch.tensor([[True, False], [True, True]])[None, None]

    def attend(query, key, value):
        return block_sparse_attention(query, key, value, mask, impl="flex")

    torch.testing.assert_close(_whole_graph(attend)(query, key, value), attend(query, key, value))
