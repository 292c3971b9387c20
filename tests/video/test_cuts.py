"""Where scenes begin: at cuts, and nowhere else."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from flashvsr.video import REMEMBERED, VideoFrame, VideoReader, mark_cuts


def _scene(seed: int, frames: int = 10, *, pan: int = 1, noise: float = 2.0) -> list[Tensor]:
    """A smooth picture that a camera pans over, with grain."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(1, 3, 5, 9, generator=generator) * 255
    wide = torch.nn.functional.interpolate(base, (72, 128 + pan * frames), mode="bicubic")[0]
    crops = [wide[:, :, pan * number : pan * number + 128] for number in range(frames)]
    grain = [noise * torch.randn(3, 72, 128, generator=generator) for _ in crops]
    return [(crop + more).clamp(0, 255).to(torch.uint8) for crop, more in zip(crops, grain, strict=True)]


def _cuts(pixels: list[Tensor], before: tuple[Tensor, ...] = ()) -> list[int]:
    frames = [VideoFrame(picture, Fraction(number, 25)) for number, picture in enumerate(pixels)]
    marked = list(mark_cuts(iter(frames), before))
    assert [one.frame for one in marked] == frames
    return [number for number, one in enumerate(marked) if one.is_cut]


@pytest.mark.parametrize("pan", [0, 1, 8])
def test_a_cut_is_found_at_its_frame_and_a_pan_is_none(pan):
    assert _cuts(_scene(1, pan=pan) + _scene(2, pan=pan) + _scene(3, pan=pan)) == [10, 20]
    assert _cuts(_scene(1, 30, pan=pan)) == []


def test_a_cut_is_found_between_frames_in_floating_point_and_in_the_last_frame():
    assert _cuts([picture.float() / 255 for picture in _scene(1) + _scene(2)]) == [10]
    assert _cuts(_scene(1) + _scene(2, 1)) == [10]


def test_a_flash_and_its_end_are_no_cuts():
    pixels = _scene(4, 20)
    pixels[9] = pixels[9] // 3 + 170
    assert _cuts(pixels) == []


def test_a_fade_and_a_crossfade_are_no_cuts():
    one, other = _scene(5, 24), _scene(6, 24)
    weights = torch.linspace(0, 1, 24)
    black = [(picture * (1 - weight)).to(torch.uint8) for picture, weight in zip(one, weights, strict=True)]
    mixed = [(a * (1 - w) + b * w).to(torch.uint8) for a, b, w in zip(one, other, weights, strict=True)]
    assert _cuts(black) == []
    assert _cuts(mixed) == []


def test_a_run_that_goes_on_finds_the_same_cuts_wherever_it_goes_on():
    pixels = _scene(1) + _scene(2) + _scene(3, 5)
    frames = [VideoFrame(picture, Fraction(0)) for picture in pixels]
    thumbnails = [one.thumbnail for one in mark_cuts(frames)]
    for start in range(1, 25):
        found = _cuts(pixels[start:], tuple(thumbnails[max(0, start - REMEMBERED) : start]))
        assert [start + number for number in found] == [cut for cut in (10, 20) if cut >= start]


def test_frames_are_passed_on_one_late_and_never_held_back_longer():
    taken = []

    def frames():
        for number, picture in enumerate(_scene(1)):
            taken.append(number)
            yield VideoFrame(picture, Fraction(number))

    assert [(len(taken), int(one.frame.time)) for one in mark_cuts(frames())] == [
        (min(number + 2, 10), number) for number in range(10)
    ]


def test_the_example_has_no_cut():
    with VideoReader("example:") as reader:
        assert not any(one.is_cut for one in mark_cuts(reader))


KNOWN = {  # looked at: these clips hold a cut
    "spice__720p_003.ts": [6],
    "ax_roof__sample_with_increasing_timestamps_360p.mp4": [18, 45],
}


@pytest.mark.slow  # decodes 87 clips
def test_no_real_clip_without_a_cut_has_one_found(real_clips):
    for path in sorted(real_clips.glob("*/video/*")):
        with VideoReader(path) as reader:
            pixels = [frame.pixels[:, ::4, ::4] for frame, _ in zip(reader, range(180), strict=False)]
        assert _cuts(pixels) == KNOWN.get(path.name, []), path.name
