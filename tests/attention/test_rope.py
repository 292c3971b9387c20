import os
import subprocess
import sys

import pytest
import torch

from flashvsr.attention import TokenGrid, apply_rope, partition_blocks, rope_table
from flashvsr.attention.rope import norm_rope, rms_norm, rope_split

GRID = TokenGrid(2, 4, 8, 3)


def test_rotation_equals_the_released_one(golden):
    for case in golden("masks_rope_windows.pt")["rope"]:
        grid = TokenGrid(case["f"], case["h"], case["w"], case["frame_start"])
        x = case["x"].unflatten(2, (case["num_heads"], -1))
        out = apply_rope(x, rope_table(grid, 128)).flatten(2)
        torch.testing.assert_close(out, case["y"], rtol=0, atol=1e-5)


def test_128_channels_split_as_released_and_every_head_size_sums_up():
    assert rope_split(128) == (44, 42, 42)
    for head_dim in range(6, 130, 2):
        split = rope_split(head_dim)
        assert sum(split) == head_dim
        assert all(part % 2 == 0 for part in split)


def test_block_order_is_the_raster_table_cut_into_blocks():
    grid = TokenGrid(2, 16, 8, 5)
    raster = rope_table(grid, 32).flatten(1).view(1, 2, 16, 8, -1)
    assert torch.equal(rope_table(grid, 32, order="block").flatten(1), partition_blocks(raster)[0])


def test_relative_rotation_does_not_depend_on_where_the_stream_is_even_after_a_day_of_video():
    x = torch.randn(1, 2, 1, 16, dtype=torch.float32)

    def product(offset: int) -> torch.Tensor:
        rotated = apply_rope(x, rope_table(TokenGrid(2, 1, 1, offset), 16))
        return (rotated[:, 0] * rotated[:, 1]).sum()

    torch.testing.assert_close(product(0), product(24 * 3600 * 60 // 4), rtol=0, atol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="got 5"):
        rope_split(5)
    with pytest.raises(ValueError, match="'zigzag'"):
        rope_table(TokenGrid(2, 8, 8), 32, order="zigzag")


def _inputs(dim: int, heads: int, dtype: torch.dtype, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, GRID.tokens, dim, generator=generator).to(device, dtype)
    weight = torch.randn(dim, generator=generator).to(device, dtype)
    return x, weight, rope_table(GRID, dim // heads).to(device)


def test_the_norm_is_that_of_pytorch():
    x, weight, _ = _inputs(24, 2, torch.float32)
    torch.testing.assert_close(rms_norm(x, weight, 1e-6), torch.nn.functional.rms_norm(x, (24,), weight, 1e-6))


def test_rotation_keeps_the_length_of_every_head():
    x, weight, table = _inputs(24, 2, torch.float32)
    out = norm_rope(x, weight, table, heads=2, eps=1e-6)
    assert out.shape == (2, GRID.tokens, 2, 12)
    torch.testing.assert_close(out.norm(dim=3), rms_norm(x, weight, 1e-6).unflatten(2, (2, 12)).norm(dim=3))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("dim", "heads"), [(1536, 12), (256, 4), (96, 3)])
def test_the_kernel_rounds_where_plain_pytorch_does(dtype, dim, heads):
    inputs = _inputs(dim, heads, dtype, "cuda")
    tolerance = 8 * torch.finfo(dtype).eps
    rotated = [norm_rope(*inputs, heads=heads, eps=1e-6, impl=impl) for impl in ("plain", "triton")]
    normed = [rms_norm(*inputs[:2], 1e-6, impl=impl) for impl in ("plain", "triton")]
    for plain, kernel in (rotated, normed):
        # the sums over channels run in another order, so single values may round the other way, by one step
        assert (plain != kernel).float().mean() < (1.0 if dtype == torch.float32 else 0.01)
        torch.testing.assert_close(kernel, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
def test_training_takes_the_plain_path_and_the_named_kernel_refuses():
    x, weight, table = _inputs(96, 3, torch.float32, "cuda")
    weight.requires_grad_()
    norm_rope(x, weight, table, heads=3, eps=1e-6).sum().backward()
    assert weight.grad is not None
    with pytest.raises(RuntimeError, match="no backward pass"):
        norm_rope(x, weight, table, heads=3, eps=1e-6, impl="triton")


def test_a_named_kernel_never_falls_back_and_an_unknown_one_is_refused():
    inputs = _inputs(24, 2, torch.float32)
    with pytest.raises(RuntimeError, match="needs a GPU"):
        norm_rope(*inputs, heads=2, eps=1e-6, impl="triton")
    with pytest.raises(ValueError, match="'fused'"):
        norm_rope(*inputs, heads=2, eps=1e-6, impl="fused")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel itself was tested")
def test_the_kernel_equals_plain_pytorch_under_the_interpreter():
    code = (
        "import torch\n"
        "torch.manual_seed(0)\n"
        "from flashvsr.attention import TokenGrid, rope_table\n"
        "from flashvsr.attention.rope import norm_rope\n"
        "from flashvsr.kernels.norm_rope import launch_norm_rope\n"
        "table = rope_table(TokenGrid(2, 2, 3, 5), 32)\n"
        "for dtype in (torch.float32, torch.float16):\n"
        "    x, weight = torch.randn(2, 12, 96).to(dtype), torch.randn(96).to(dtype)\n"
        "    expected = norm_rope(x, weight, table, heads=3, eps=1e-6).flatten(2)\n"
        "    tolerance = 8 * torch.finfo(dtype).eps\n"  # a rotation that cancels leaves the error of its summands
        "    out = launch_norm_rope(x, weight, 1e-6, table, 3)\n"
        "    torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
