"""Which implementation runs, and why."""

import torch

from flashvsr.attention import choose_impl, explain_impls
from flashvsr.attention.choice import IMPLS, PACKED_IMPLS


def test_auto_takes_gather_on_a_cpu_and_says_why():
    name, reason = choose_impl("cpu", torch.float32, 128, requires_grad=True)
    assert name == "gather"
    assert "triton" in reason


def test_every_impl_answers_whether_it_can_run():
    reasons = explain_impls("cpu", torch.float32, 128, requires_grad=True)
    assert set(reasons) == set(IMPLS)
    assert reasons["reference"] is reasons["gather"] is reasons["dense"] is None
    assert reasons["flex"]
    assert set(explain_impls("cpu", torch.float32, 128, requires_grad=True, packed=True)) == set(PACKED_IMPLS)
