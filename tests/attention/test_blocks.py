import pytest
import torch

from flashvsr.attention import TokenGrid, partition_blocks, unpartition_blocks


def test_blocks_equal_the_released_windows(golden):
    case = golden("masks_rope_windows.pt")["window"]
    windows = case["windows"]  # [blocks, 128, C]
    assert torch.equal(partition_blocks(case["x"]).view_as(windows), windows)


def test_unpartition_undoes_partition_on_a_grid_that_is_not_square():
    x = torch.randn(2, 4, 16, 24, 3)
    assert torch.equal(unpartition_blocks(partition_blocks(x), (4, 16, 24)), x)


def test_a_grid_that_is_not_whole_blocks_is_refused_by_its_size():
    with pytest.raises(ValueError, match=r"\(2, 8, 9\)"):
        partition_blocks(torch.zeros(1, 2, 8, 9, 1))
    with pytest.raises(ValueError, match="do not fill"):
        unpartition_blocks(torch.zeros(1, 128, 1), (2, 8, 16))
    with pytest.raises(ValueError, match="3 latent frames"):
        _ = TokenGrid(3, 8, 8).slots
    with pytest.raises(ValueError, match="multiples of 128 pixels"):
        _ = TokenGrid(2, 9, 8).blocks_hw
