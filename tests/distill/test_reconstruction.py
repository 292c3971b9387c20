"""The reconstruction loss: per sample, by name, never another one silently."""

import pytest
import torch
from torch import nn

from flashvsr.distill import ReconstructionLoss

BETAS = (0.3, 0.7)


def _frames(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sr, hr = (torch.rand(2, 3, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    return sr, hr


@pytest.mark.parametrize("perceptual", ["none", "fft", "ms_ssim"])
@pytest.mark.parametrize("pixel", ["charbonnier", "mse"])
def test_a_batch_of_two_equals_two_batches_of_one(pixel, perceptual):
    sr, hr = _frames()
    loss = ReconstructionLoss(pixel, perceptual=perceptual, ms_ssim_betas=BETAS, temporal_weight=0.5)
    together, parts = loss(sr, hr)
    assert together.shape == (2,) and all(part.shape == (2,) for part in parts.values())
    for index in range(2):
        alone, _ = loss(sr[index : index + 1], hr[index : index + 1])
        torch.testing.assert_close(alone[0], together[index])
    assert set(parts) == {pixel, "temporal"} | {perceptual} - {"none"}


def test_the_terms_are_what_they_are_called():
    sr, hr = (x.double() for x in _frames())
    difference = (sr - hr)[0]
    _, parts = ReconstructionLoss("mse", perceptual="fft", temporal_weight=1)(sr, hr)
    torch.testing.assert_close(parts["mse"][0], difference.square().mean())
    spectrum = torch.fft.fft2(difference)[..., :17] / 32
    torch.testing.assert_close(parts["fft"][0], (spectrum.real.abs() + spectrum.imag.abs()).mean() / 2)
    change = difference[:, 1:] - difference[:, :-1]
    torch.testing.assert_close(parts["temporal"][0], (change.square() + 1e-6).sqrt().mean())
    _, parts = ReconstructionLoss(perceptual="ms_ssim", ms_ssim_betas=BETAS)(hr, hr)
    torch.testing.assert_close(parts["ms_ssim"], torch.zeros(2, dtype=torch.float64))


def test_the_motion_term_sees_pictures_from_0_to_1_and_counts_by_its_weight():
    sr, hr = _frames()
    seen = []

    def motion(frames, truth):
        seen.append((frames, truth))
        return frames.flatten(1).mean(1)

    plain, _ = ReconstructionLoss()(sr, hr)
    loss, parts = ReconstructionLoss(motion=motion, motion_weight=2.0)(sr, hr)
    torch.testing.assert_close(loss, plain + 2 * (sr.flatten(1).mean(1) + 1) / 2)
    assert parts["motion"].shape == (2,)
    assert all(x.min() >= 0 and x.max() <= 1 for x in seen[0])
    for off in (ReconstructionLoss(motion=motion), ReconstructionLoss(motion=motion, motion_weight=1.0)):
        assert "motion" not in off(sr[:, :, :1], hr[:, :, :1])[1]  # one frame has no motion
    assert torch.equal(ReconstructionLoss(motion=motion)(sr, hr)[0], plain)
    assert len(seen) == 1
    with pytest.raises(ValueError, match=r"motion_weight=0\.5: a weight of at least 0 needs a motion"):
        ReconstructionLoss(motion_weight=0.5)


def test_the_truth_is_sharpened_with_an_unsharp_mask_when_asked():
    from torchvision.transforms.functional import gaussian_blur

    hr = 0.9 * _frames()[1].double()
    padded = torch.nn.functional.pad(hr.flatten(0, 1), (5, 5, 5, 5), mode="replicate")
    blurred = gaussian_blur(padded, 11, 1.5)[..., 5:-5, 5:-5].view_as(hr)
    target = (hr + 0.4 * (hr - blurred)).clamp(-1, 1)
    assert (target.abs() == 1).any()
    loss = ReconstructionLoss("mse", perceptual="fft", temporal_weight=1.0, sharpen=0.4, sharpen_sigma=1.5)
    assert loss(target, hr)[1]["mse"].max() < 1e-20
    assert loss(hr, hr)[1]["mse"].min() > 1e-3
    flat = torch.full_like(hr, 0.3)
    assert loss(flat, flat)[1]["mse"].max() < 1e-20
    for arguments in ({"sharpen": -0.1}, {"sharpen_sigma": 0.0}):
        with pytest.raises(ValueError, match="sharpen"):
            ReconstructionLoss(**arguments)


def test_only_the_pixels_of_samples_that_begin_at_frame_0_weigh_four_times():
    sr, hr = _frames()
    loss = ReconstructionLoss(perceptual="fft", perceptual_weight=2)
    plain, parts = loss(sr, hr)
    weighted, _ = loss(sr, hr, torch.tensor([True, False]))
    torch.testing.assert_close(weighted[0], plain[0] + 3 * parts["charbonnier"][0])
    assert weighted[1] == plain[1]


@pytest.mark.parametrize("perceptual", ["none", "fft", "ms_ssim"])
def test_a_toy_network_halves_the_loss_within_100_steps(perceptual):
    torch.manual_seed(0)
    sr, _ = _frames()
    hr = sr.flip(1)
    net = nn.Conv3d(3, 3, 1)
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    loss = ReconstructionLoss(perceptual=perceptual, ms_ssim_betas=BETAS)
    losses = []
    for _ in range(100):
        value = loss(net(sr), hr)[0].mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] / 2


def test_autocast_does_not_lower_the_precision():
    sr, hr = _frames()
    exact, _ = ReconstructionLoss(perceptual="fft")(sr, hr)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = ReconstructionLoss(perceptual="fft")(sr, hr)
    assert torch.equal(mixed, exact)


def test_lpips_without_its_weights_is_refused_and_names_the_others(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(RuntimeError, match=r"LPIPS \(vgg\) cannot be had: no route to host.*'ms_ssim' or 'fft'"):
        ReconstructionLoss(perceptual="lpips")


def test_unknown_names_and_too_small_frames_are_refused():
    with pytest.raises(ValueError, match="charbonnier, mse, got 'l1'"):
        ReconstructionLoss("l1")
    with pytest.raises(ValueError, match="got 'vgg'"):
        ReconstructionLoss(perceptual="vgg")
    with pytest.raises(ValueError, match="160"):
        ReconstructionLoss(perceptual="ms_ssim")(*_frames(128))


def test_features_are_compared_on_some_of_the_frames_with_their_weight():
    sr, hr = _frames()
    seen = []

    def distance(frames, truth):
        seen.append((frames, truth))
        return (frames - truth).square().flatten(1).mean(1)

    plain, _ = ReconstructionLoss()(sr, hr)
    loss, parts = ReconstructionLoss(features=distance, feature_weight=0.5, feature_every=2)(sr.requires_grad_(), hr)
    expected = ((sr - hr) / 2)[:, :, ::2].square().flatten(1).mean(1)
    torch.testing.assert_close(parts["features"], expected.detach())
    torch.testing.assert_close(loss, plain + 0.5 * expected)
    assert seen[0][0].shape == (4, 3, 32, 32) and seen[0][0].min() >= 0 and seen[0][0].max() <= 1
    loss.sum().backward()
    assert sr.grad[:, :, 1].abs().sum() > 0, "the other terms see all frames"


@pytest.mark.parametrize(
    "options",
    [
        {"feature_weight": 0.1},
        {"features": torch.dist},
        {"features": torch.dist, "feature_weight": -1.0},
        {"features": torch.dist, "feature_weight": 1.0, "feature_every": 0},
    ],
)
def test_features_without_a_weight_or_a_weight_without_features_are_refused(options):
    with pytest.raises(ValueError, match="a weight needs features"):
        ReconstructionLoss(**options)
