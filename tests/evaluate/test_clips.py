"""Ground truth from files."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.evaluate import find_clips, read_clip, resize
from flashvsr.streaming.frames import resize_bicubic
from flashvsr.video import VideoError, VideoInfo, VideoWriter


@pytest.fixture
def folder(tmp_path):
    grain = np.random.default_rng(0).integers(0, 255, (150, 201, 3), dtype=np.uint8)
    Image.fromarray(grain).save(tmp_path / "photo.png")
    (tmp_path / "deep").mkdir()
    info = VideoInfo(160, 120, Fraction(25))
    with VideoWriter(tmp_path / "deep" / "clip.mp4", width=160, height=120, info=info) as writer:
        for t in range(5):
            writer.write(torch.full((3, 120, 160), 40 * t, dtype=torch.uint8), Fraction(t, 25))
    (tmp_path / "notes.txt").write_text("not a clip")
    return tmp_path


def test_folders_are_searched_and_sorted(folder):
    assert list(find_clips([folder])) == ["deep__clip.mp4", "photo.png"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_clips([folder / "nowhere"])
    with pytest.raises(ValueError, match=r"both be called photo\.png"):
        find_clips([folder, folder / "photo.png"])


def test_a_clip_is_cut_to_length_and_to_multiples_of_4(folder):
    clip = read_clip(folder / "deep/clip.mp4", "clip", frames=3, short_side=None, downscale=1)
    assert clip.frames.shape == (3, 3, 120, 160) and clip.frames.dtype == torch.uint8
    assert clip.info.frame_rate == 25 and clip.info.width == 160
    photo = read_clip(folder / "photo.png", "photo", short_side=None, downscale=1)
    assert photo.frames.shape == (1, 3, 148, 200) and photo.info is None


def test_footage_is_shrunk_by_the_larger_of_both_factors(folder):
    photo = folder / "photo.png"
    assert read_clip(photo, "p", short_side=120, downscale=1).frames.shape[2:] == (120, 160)
    assert read_clip(photo, "p", short_side=120, downscale=1.5).frames.shape[2:] == (100, 132)
    assert read_clip(photo, "p", short_side=1000, downscale=1).frames.shape[2:] == (148, 200), "never enlarged"


def test_a_crop_is_cut_from_the_middle(folder):
    whole = read_clip(folder / "photo.png", "p", short_side=None, downscale=1, crop=(4000, 4000)).frames
    part = read_clip(folder / "photo.png", "p", short_side=None, downscale=1, crop=(66, 101)).frames
    assert whole.shape[2:] == (148, 200) and part.shape[2:] == (64, 100)
    pixels = torch.from_numpy(np.array(Image.open(folder / "photo.png"))).permute(2, 0, 1)
    assert torch.equal(part[0], pixels[:, 43 : 43 + 64, 50 : 50 + 100])


def test_what_cannot_serve_is_refused(folder):
    with pytest.raises(VideoError, match="at least 64"):
        read_clip(folder / "photo.png", "p", short_side=50)
    (folder / "broken.png").write_text("no picture")
    with pytest.raises(VideoError, match=r"broken\.png"):
        read_clip(folder / "broken.png", "p")
    with pytest.raises(ValueError, match="at least 1"):
        read_clip(folder / "photo.png", "p", downscale=0.5)


def test_bicubic_is_what_a_stream_feeds_its_model():
    frames = torch.randint(0, 256, (2, 3, 24, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours, theirs = resize(frames, (96, 120)), resize_bicubic(frames, (96, 120))
    apart = (ours.int() - theirs.int()).abs()
    assert apart.max() <= 2 and (apart > 0).float().mean() < 1e-2
    assert (resize(frames, (96, 120), "lanczos").int() - ours.int()).abs().max() > 2
