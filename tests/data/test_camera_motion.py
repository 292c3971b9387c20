import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.data.camera_motion import CameraMotion, _warp, animate, camera_path


def photo(height=96, width=128, seed=0):
    small = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(seed))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    return Image.fromarray((large[0].permute(1, 2, 0) * 255).byte().numpy())


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_same_seed_gives_the_same_clip_and_another_seed_another():
    first, again, other = (animate(photo(), 5, (48, 64), rng(seed), CameraMotion(still=0)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (5, 3, 48, 64)
    assert first.dtype == torch.uint8


def test_a_camera_without_strength_cuts_a_still_piece_out_of_the_photograph():
    still = CameraMotion(pan=0, zoom=1, rotation=0, shake=0, shrink=1)
    clip = animate(photo(), 4, (48, 64), rng(), still)
    pixels = torch.from_numpy(np.array(photo())).permute(2, 0, 1)
    assert all(torch.equal(frame, clip[0]) for frame in clip)
    places = [(top, left) for top in range(49) for left in range(65)]
    assert any(torch.equal(pixels[:, top : top + 48, left : left + 64], clip[0]) for top, left in places)


def test_each_kind_of_motion_moves_what_it_says():
    def path(**strength):
        zero = {"pan": 0, "zoom": 1, "rotation": 0, "shake": 0, "still": 0}
        return camera_path(CameraMotion(**zero | strength), 33, rng(3))

    assert [bool(np.ptp(column)) for column in path(pan=4).T] == [True, True, False, False]
    assert [bool(np.ptp(column)) for column in path(shake=1).T] == [True, True, False, False]
    assert [bool(np.ptp(column)) for column in path(zoom=1.2).T] == [False, False, True, False]
    assert [bool(np.ptp(column)) for column in path(rotation=4).T] == [False, False, False, True]


def test_zoom_and_rotation_stay_within_their_limits():
    for seed in range(30):
        path = camera_path(CameraMotion(zoom=1.3, rotation=5), 17, rng(seed))
        assert np.exp(np.ptp(path[:, 2])) <= 1.3 + 1e-9
        assert np.abs(np.degrees(path[:, 3])).max() <= 5 + 1e-9


def test_a_pan_is_smooth_where_shake_is_not():
    calm, shaky = (camera_path(CameraMotion(pan=4, shake=shake, still=0), 65, rng(5))[:, 0] for shake in (0, 2))
    assert np.abs(np.diff(calm, 3)).max() < 0.01
    assert np.abs(np.diff(shaky, 3)).max() > 0.1


def test_motion_smaller_than_a_pixel_is_seen():
    motion = CameraMotion(pan=0.3, zoom=1, rotation=0, shake=0, still=0, shrink=1)
    clip = animate(photo(), 2, (48, 64), rng(1), motion).int()
    difference = (clip[1] - clip[0]).abs()
    assert 0 < difference.float().mean() < 8


def test_the_view_never_leaves_the_photograph():
    """Beyond the border of a white photograph there would be other values; a ramp would be cut flat."""
    ramp = Image.fromarray(np.repeat(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2))
    strong = CameraMotion(pan=20, zoom=1.3, rotation=0, shake=0, still=0, shrink=1)
    for seed in range(10):
        clip = animate(ramp, 9, (48, 64), rng(seed), strong).int()
        assert (clip.diff(dim=3)[..., 2:-2] > 0).float().mean() > 0.95  # rises everywhere


def test_a_photograph_of_the_size_of_the_crop_stands_still():
    clip = animate(photo(48, 64), 5, (48, 64), rng(), CameraMotion(still=0))
    assert torch.equal(clip[0], torch.from_numpy(np.array(photo(48, 64))).permute(2, 0, 1))
    assert torch.equal(clip[0], clip[4])


class Largest:
    """Stands in for a generator of random numbers."""

    def uniform(self, low, high, size=None):
        return high if size is None else np.zeros(size)


def test_fine_detail_is_smoothed_away_when_shrunk_and_does_not_alias():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    motion = CameraMotion(pan=0, zoom=1, rotation=0, shake=0, shrink=2)
    clip = animate(Image.fromarray(stripes), 1, (64, 64), Largest(), motion).float()
    assert clip.std() < 10


def test_a_photograph_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match="expected at least 256x64"):
        animate(photo(), 5, (64, 256), rng(), CameraMotion())


@pytest.mark.parametrize("wrong", [{"pan": -1}, {"zoom": 0.5}, {"still": 2}])
def test_strengths_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        CameraMotion(**wrong)


@pytest.mark.parametrize("shift", [(0.5, 0.5), (0.25, 0.4)])
def test_a_shift_by_part_of_a_pixel_is_as_sharp_as_a_bicubic_one(shift):
    """Both against the ideal shift, in the frequency domain."""
    noise = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, (96, 96), mode="bicubic").clamp(0, 1)[0]
    pixels = (smooth * 200 + 25).byte().permute(1, 2, 0).numpy()
    columns, rows = np.fft.fftfreq(96)[None, :, None] * shift[0], np.fft.fftfreq(96)[:, None, None] * shift[1]
    ideal = np.fft.ifft2(np.fft.fft2(pixels, axes=(0, 1)) * np.exp(2j * np.pi * (columns + rows)), axes=(0, 1)).real
    matrix = np.array([[1.0, 0, 16 + shift[0]], [0, 1, 16 + shift[1]]])
    ours = _warp(Image.fromarray(pixels), matrix[None], (64, 64))[0].permute(1, 2, 0).numpy()
    transform = (Image.Transform.AFFINE, tuple(matrix.ravel()), Image.Resampling.BICUBIC)
    bicubic = np.array(Image.fromarray(pixels).transform((64, 64), *transform))
    errors = [np.square(clip - ideal[16:80, 16:80]).mean() for clip in (ours, bicubic)]
    assert errors[0] < 1.1 * errors[1]
