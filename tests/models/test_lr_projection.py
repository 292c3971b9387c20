"""The LR projection equals the released one, and its chunks equal one pass."""

from __future__ import annotations

import copy

import pytest
import torch

from flashvsr.models import lr_projection
from flashvsr.models.lr_projection import (
    ChannelsLastNorm,
    LRProjection,
    LRProjectionState,
    StackedConv3d,
    stack_frames,
    stack_frames_once,
)

VARIANTS = {"buffered": "layers1", "causal": "layers1_v11"}


@pytest.fixture(scope="module")
def released(golden):
    return golden("lq_proj.pt")


def load_released(released, variant):
    projection = LRProjection(hidden=(16, 24), dim=256, variant=variant)
    weights = released[VARIANTS[variant]]["state_dict"]
    projection.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return projection.requires_grad_(False)


def small(variant="causal", **options):
    torch.manual_seed(0)
    projection = LRProjection(hidden=(6, 10), dim=12, variant=variant, patch=2, **options)
    for norm in (projection.norm1, projection.norm2):
        torch.nn.init.uniform_(norm.gamma, 0.5, 1.5)
    return projection


def frames(count, batch=1, height=8, width=12):
    return torch.rand(batch, 3, count, height, width, generator=torch.Generator().manual_seed(count)) * 2 - 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_call_equals_the_released_module(released, variant):
    projection, expected = load_released(released, variant), released[VARIANTS[variant]]
    lr = released["video_u8"].float() / 255 * 2 - 1
    state = None
    for (start, stop), output in zip(expected["clips"], expected["outputs"], strict=True):
        tokens, state = projection(lr[:, :, start:stop], state)
        if output is None:
            assert tokens.shape == (1, 0, 256)
        else:
            torch.testing.assert_close(tokens, output[0], atol=1e-5, rtol=0)


def test_the_variants_differ_from_the_first_step_on(released):
    lr = released["video_u8"][:, :, :5].float() / 255 * 2 - 1
    buffered, causal = (load_released(released, variant)(lr)[0] for variant in VARIANTS)
    assert (buffered - causal).abs().max() > 0.1


def test_names_and_shapes_are_the_released_ones(released):
    with torch.device("meta"):
        full = LRProjection()
    assert sum(parameter.numel() for parameter in full.parameters()) == 287_845_888
    assert {name: list(tensor.shape) for name, tensor in full.state_dict().items()} == {
        "conv1.weight": [2048, 768, 4, 3, 3],
        "conv1.bias": [2048],
        "norm1.gamma": [2048, 1, 1, 1],
        "conv2.weight": [3072, 2048, 4, 3, 3],
        "conv2.bias": [3072],
        "norm2.gamma": [3072, 1, 1, 1],
        "linear_layers.0.weight": [1536, 3072],
        "linear_layers.0.bias": [1536],
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cuts", [[1], [5, 9], [1, 13], [9, 13, 17], [17]])
def test_any_cut_into_chunks_equals_one_pass(variant, cuts):
    projection, lr = small(variant), frames(21, batch=2)
    whole, nothing = projection(lr, streaming=False)
    state, tokens = None, []
    for start, stop in zip([0, *cuts], [*cuts, 21], strict=True):
        chunk, state = projection(lr[:, :, start:stop], state)
        tokens.append(chunk)
    torch.testing.assert_close(torch.cat(tokens, 1), whole, atol=1e-5, rtol=0)
    assert whole.shape == (2, 5 * 4 * 6, 12)
    assert nothing is None


def test_one_pass_of_the_causal_variant_is_the_plain_conv3d_network():
    projection, lr = small(), frames(9)
    x = projection._unshuffle(lr).permute(0, 4, 1, 2, 3)
    x = torch.cat([x[:, :, :1]] * 3 + [x], 2)
    for conv, norm in ((projection.conv1, projection.norm1), (projection.conv2, projection.norm2)):
        x = torch.nn.functional.pad(x, (1, 1, 1, 1, 2, 0), mode="replicate")
        x = torch.nn.functional.conv3d(x, conv.weight, conv.bias, stride=(2, 1, 1))
        x = x / x.norm(dim=1, keepdim=True) * x.shape[1] ** 0.5 * norm.gamma
        x = torch.nn.functional.silu(x)
    expected = projection.linear_layers[0](x[:, :, 1:].permute(0, 2, 3, 4, 1).flatten(1, 3))
    torch.testing.assert_close(projection(lr)[0], expected, atol=1e-5, rtol=0)


def test_a_token_sees_no_frame_of_a_later_step():
    projection, lr = small(), frames(13)
    tokens = projection(lr)[0].unflatten(1, (3, -1))
    changed = lr.clone()
    changed[:, :, 9:] = 0
    after = projection(changed)[0].unflatten(1, (3, -1))
    assert torch.equal(tokens[:, :2], after[:, :2])
    assert not torch.equal(tokens[:, 2], after[:, 2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter_and_the_input(variant):
    projection = small(variant).double()
    lr = frames(9, batch=2, height=4, width=4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: projection(x, streaming=False)[0], lr, fast_mode=True)
    projection(lr)[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in projection.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_too_large_for_the_square_of_a_half_are_normalised(dtype):
    norm = ChannelsLastNorm(4096).to(dtype)
    x = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0)) * 1500
    expected = x / x.norm(dim=-1, keepdim=True) * 64
    torch.testing.assert_close(norm(x.to(dtype)).float(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    assert not norm(torch.zeros(1, 4096, dtype=dtype)).any()


def stored_for_conv2d(conv):
    weight = conv.weight
    return weight.transpose(1, 2).flatten(1, 2).data_ptr() == weight.data_ptr()


def test_the_weight_is_a_free_view_of_the_conv2d_weight_and_stays_one():
    conv = StackedConv3d(5, 7)
    assert stored_for_conv2d(conv)
    conv.load_state_dict({"weight": torch.randn(7, 5, 4, 3, 3), "bias": torch.zeros(7)})
    assert stored_for_conv2d(conv)
    assert stored_for_conv2d(copy.deepcopy(conv).to(torch.bfloat16))
    with torch.device("meta"):
        empty = StackedConv3d(5, 7)
    assert stored_for_conv2d(empty.to_empty(device="cpu"))
    flat = conv.weight.transpose(1, 2).flatten(1, 2)
    assert flat.is_contiguous(memory_format=torch.channels_last)


def test_a_weight_in_any_other_storage_gives_the_same_result():
    projection, lr = small(), frames(5)
    expected = projection(lr)[0]
    for conv in (projection.conv1, projection.conv2):
        conv.weight = torch.nn.Parameter(conv.weight.detach().contiguous())
        assert not stored_for_conv2d(conv)
    torch.testing.assert_close(projection(lr)[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_or_cloned_state_goes_on_as_the_original(variant):
    projection, lr = small(variant), frames(13)
    _, state = projection(lr[:, :, :5])
    saved = LRProjectionState.from_state_dict(state.state_dict())
    branches = [state.clone(), saved, state]
    first, *others = [projection(lr[:, :, 5:], branch)[0] for branch in branches]
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_state_can_be_used_once_and_neither_copied_nor_saved_afterwards(variant):
    projection, lr = small(variant), frames(9)
    _, state = projection(lr[:, :, :5])
    projection(lr[:, :, 5:], state)
    for use in (lambda: projection(lr[:, :, 5:], state), state.clone, state.state_dict):
        with pytest.raises(RuntimeError, match="was consumed by an earlier call"):
            use()


def test_a_saved_state_does_not_follow_the_stream():
    projection, lr = small(), frames(5)
    _, state = projection(lr)
    saved = state.state_dict()
    kept = saved["frames"].clone()
    state.frames.zero_()
    assert torch.equal(saved["frames"], kept)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_frame_gives_no_step_and_no_frames_change_nothing(variant):
    projection, lr = small(variant), frames(9, batch=2)
    expected, _ = projection(lr)
    tokens, state = projection(lr[:, :, :1])
    assert tokens.shape == (2, 0, 12)
    tokens, state = projection(lr[:, :, :0], state)
    assert tokens.shape == (2, 0, 12)
    torch.testing.assert_close(projection(lr[:, :, 1:], state)[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("lr", "later", "message"),
    [
        (frames(4), False, r"at the start of a stream lr holds 4n \+ 1 frames, got 4"),
        (frames(5), True, "after the start of a stream lr holds 4n frames, got 5"),
        (frames(5, height=9), False, r"H and W multiples of 2, got \[1, 3, 5, 9, 12\]"),
        (frames(5)[:, :1], False, r"lr is \[B, 3, T, H, W\]"),
        (frames(5)[0], False, r"lr is \[B, 3, T, H, W\] with H and W multiples of 2, got \[3, 5, 8, 12\]"),
        (frames(4, batch=2), True, "lr holds 2 videos of 8x12, the state 1 of 8x12; start a new stream"),
        (frames(4, width=8), True, "lr holds 1 videos of 8x8, the state 1 of 8x12; start a new stream"),
    ],
)
def test_frames_that_do_not_fit_are_refused(lr, later, message):
    projection = small()
    state = projection(frames(1))[1] if later else None
    with pytest.raises(ValueError, match=message):
        projection(lr, state)
    assert state is None or not state.consumed


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="one of causal, buffered; got 'v2'"):
        LRProjection(variant="v2")


@pytest.mark.parametrize("shape", [(2, 6, 3, 5, 4), (1, 4, 1, 1, 3), (1, 10, 2, 1, 1)])
def test_frames_stacked_in_one_pass_are_those_stacked_step_by_step(shape):
    x = torch.randn(shape)
    assert torch.equal(stack_frames_once(x), stack_frames(x))


def test_frames_are_stacked_in_one_pass_where_no_gradient_is_recorded(monkeypatch):
    called = []
    for name in ("stack_frames", "stack_frames_once"):
        stack = getattr(lr_projection, name)
        monkeypatch.setattr(lr_projection, name, lambda x, name=name, stack=stack: called.append(name) or stack(x))
    conv, x = StackedConv3d(3, 4), torch.randn(1, 6, 3, 5, 3)
    recorded = conv(x)
    with torch.inference_mode():
        torch.testing.assert_close(conv(x), recorded)
    assert called == ["stack_frames", "stack_frames_once"]
