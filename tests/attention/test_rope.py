import pytest
import torch

from flashvsr.attention import TokenGrid, apply_rope, partition_blocks, rope_table
from flashvsr.attention.rope import rope_split


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
