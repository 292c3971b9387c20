import pytest
import torch

from flashvsr.attention import FullAttention, LocalSparseAttention, TokenGrid, partition_blocks, rope_table
from flashvsr.attention.distill import block_score_divergence, block_scores, output_error


def test_block_scores_are_the_same_in_either_order_of_tokens():
    torch.manual_seed(0)
    grid, sparse, full = TokenGrid(2, 16, 8), LocalSparseAttention(16, 2), FullAttention(16, 2)
    full.load_state_dict(sparse.state_dict())
    raster = torch.randn(1, grid.tokens, 16)
    blocks = partition_blocks(raster.unflatten(1, (2, 16, 8)))
    expected = block_scores(full, raster, grid, rope_table(grid, 8, order="raster"))
    found = block_scores(sparse, blocks, grid, rope_table(grid, 8, order="block"))
    assert found.shape == (1, 2, 2, 2)
    torch.testing.assert_close(found, expected)


def test_a_score_is_the_product_of_means_over_the_root_of_their_size():
    grid, layer = TokenGrid(2, 8, 8), FullAttention(12, 2)
    x, rope = torch.randn(1, 128, 12, requires_grad=True), rope_table(TokenGrid(2, 8, 8), 6)
    angles = rope.clone()
    angles[..., 0], angles[..., 1] = 1, 0  # no rotation
    query, key = (
        norm(linear(x)).unflatten(2, (2, 6)).mean(1)
        for linear, norm in ((layer.q, layer.norm_q), (layer.k, layer.norm_k))
    )
    expected = (query * key).sum(-1) / 6**0.5
    found = block_scores(layer, x, grid, angles)[:, :, 0, 0]
    torch.testing.assert_close(found, expected)
    gradients = (
        torch.autograd.grad(scores.square().sum(), [x, layer.q.weight, layer.k.weight]) for scores in (found, expected)
    )
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_divergence_is_zero_for_equal_distributions_and_positive_otherwise():
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    visible = torch.ones(4, 4, dtype=torch.bool).tril()
    hidden = torch.where(visible, 0.0, torch.randn(4, 4))
    torch.testing.assert_close(block_score_divergence(teacher + 5 + hidden, teacher, visible), torch.zeros(2))
    found = block_score_divergence(student, teacher, visible)
    expected = torch.zeros(2)
    for row in range(4):
        p, q = (scores[:, :, row, : row + 1].softmax(-1) for scores in (teacher, student))
        expected += (p * (p / q).log()).sum(-1).mean(1) / 4
    torch.testing.assert_close(found, expected)
    assert (found > 0).all()


def test_a_row_that_sees_nothing_counts_zero_and_gives_no_nan():
    student = torch.randn(1, 1, 2, 2, requires_grad=True)
    loss = block_score_divergence(student, torch.randn(1, 1, 2, 2), torch.tensor([[True, True], [False, False]]))
    loss.sum().backward()
    assert student.grad.isfinite().all()
    assert student.grad[0, 0, 0].any()
    assert not student.grad[0, 0, 1].any()


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    student, teacher = (torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    visible = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda s: block_score_divergence(s, teacher, visible), (student,))
    assert torch.autograd.gradcheck(lambda s: output_error(s, teacher[0]), (student[0],))


def test_nothing_reaches_the_teacher():
    student, teacher = (torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(2))
    loss = block_score_divergence(student, teacher, torch.ones(3, 3, dtype=torch.bool)) + output_error(student, teacher)
    loss.sum().backward()
    assert student.grad.any()
    assert teacher.grad is None


@pytest.mark.parametrize(("scale", "expected"), [(1.0, 0.0), (0.0, 1.0), (3.0, 4.0)])
def test_the_error_is_relative_to_the_teacher(scale, expected):
    teacher = torch.randn(2, 5, 4)
    torch.testing.assert_close(output_error(scale * teacher, teacher), torch.full((2,), expected))
