"""Transparency is read and written wherever a file holds it, and what nobody sees does not colour the edges."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.video import VideoInfo, VideoReader, VideoWriter, fill_transparent, join_segments, segment_suffix

SIZE = (48, 64)


def ramp() -> np.ndarray:
    """From transparent on the left to opaque on the right, `[h, w]` uint8."""
    return np.repeat(np.linspace(0, 255, SIZE[1]).astype(np.uint8)[None], SIZE[0], 0)


def picture(number: int = 0) -> np.ndarray:
    rgba = np.full((*SIZE, 4), (200 - number, 90, 60, 0), np.uint8)
    rgba[..., 3] = ramp()
    return rgba


def write(path: Path, codec: str, layout: str, frames: int = 5) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"auto-alt-ref": "0"} if codec == "libvpx" else {})
        stream.height, stream.width = SIZE
        stream.pix_fmt = layout
        if codec.startswith("libvpx"):
            stream.metadata["alpha_mode"] = "1"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgba").reformat(format=layout)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def alphas(path: Path) -> list[torch.Tensor | None]:
    with VideoReader(path) as reader:
        found = [frame.alpha for frame in reader]
        assert reader.info.has_alpha == (found[0] is not None)
    return found


HOLD = [
    ("mov", "prores_ks", "yuva444p10le"),
    ("mov", "qtrle", "argb"),
    ("mov", "png", "rgba64be"),
    ("mkv", "ffv1", "yuva420p"),
    ("mkv", "ffv1", "yuva444p10le"),
    ("mkv", "ffv1", "bgra"),
    ("mkv", "rawvideo", "rgba"),
    ("nut", "rawvideo", "rgba64le"),
    ("webm", "libvpx-vp9", "yuva420p"),
    ("webm", "libvpx", "yuva420p"),
    ("apng", "apng", "rgba"),
]


@pytest.mark.parametrize(("ending", "codec", "layout"), HOLD)
def test_opacity_is_read_from_every_codec_that_holds_it(tmp_path, ending, codec, layout):
    found = alphas(write(tmp_path / f"a.{ending}", codec, layout))
    assert len(found) == 5
    expected = torch.from_numpy(ramp()).float() / 255
    assert all((alpha - expected).abs().max() < (0.04 if "vpx" in codec else 0.01) for alpha in found)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("ending", ["png", "webp"])
def test_opacity_is_read_from_pictures(tmp_path, ending, kind):
    mask = np.where(ramp() > 127, 255, 0).astype(np.uint8)
    rgba = picture()
    rgba[..., 3] = mask
    image = Image.fromarray(rgba)
    if kind == "P":
        image = image.quantize(8)
    elif kind == "LA":
        image = image.convert("LA")
    image.save(tmp_path / f"a.{ending}", **({"lossless": True} if ending == "webp" else {}))
    (alpha,) = alphas(tmp_path / f"a.{ending}")
    assert torch.equal(alpha, torch.from_numpy(mask).float() / 255)


def test_opacity_is_read_from_an_animated_gif(tmp_path):
    pictures = []
    for number in range(3):
        rgba = np.full((48, 64, 4), (200, 90, 60, 255), np.uint8)
        rgba[:, : 20 + 10 * number, 3] = 0
        pictures.append(Image.fromarray(rgba))
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=40, disposal=2)
    assert [int((1 - alpha).sum()) for alpha in alphas(tmp_path / "a.gif")] == [48 * 20, 48 * 30, 48 * 40]


def test_an_opaque_alpha_channel_is_none(tmp_path):
    Image.new("RGBA", (64, 48), (1, 2, 3, 255)).save(tmp_path / "a.png")
    assert alphas(tmp_path / "a.png") == [None]


WRITTEN = [
    ("a.mov", "auto", "prores_ks"),
    ("a.webm", "auto", "libvpx-vp9"),
    ("a.mkv", "auto", "libvpx-vp9"),
    ("a.nut", "auto", "ffv1"),
    ("a.mkv", "ffv1", "ffv1"),
    ("a.mov", "qtrle", "qtrle"),
    ("a.mkv", "rawvideo", "rawvideo"),
    ("a.webm", "libvpx", "libvpx"),
    ("a.apng", "auto", "apng"),
    ("%03d.png", "auto", "png"),
]


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("rows", [48, 45])
@pytest.mark.parametrize(("name", "codec", "encoder"), WRITTEN)
def test_opacity_is_written_where_the_file_holds_it(tmp_path, name, codec, encoder, rows, depth):
    info = VideoInfo(64, rows, Fraction(25), time_base=Fraction(1, 25), bit_depth=depth, has_alpha=True)
    alpha = torch.linspace(0, 1, 64).expand(rows, 64)
    with VideoWriter(tmp_path / name, width=64, height=rows, info=info, codec=codec) as writer:
        for number in range(3):
            writer.write(torch.full((3, rows, 64), 0.5), Fraction(number, 25), alpha)
    assert (writer.alpha, writer.codec) == (True, encoder)
    found = alphas(tmp_path / name)
    assert len(found) == 3
    assert all((one - alpha).abs().max() < (0.04 if "vpx" in encoder else 0.01) for one in found)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "auto"), ("a.mkv", "libx265"), ("a.y4m", "auto"), ("a.mkv", "libx264")]
)
def test_opacity_that_a_file_does_not_hold_is_said_before_the_first_frame(tmp_path, name, codec):
    info = VideoInfo(64, 48, Fraction(25), has_alpha=True)
    with VideoWriter(tmp_path / name, width=64, height=48, info=info, codec=codec) as writer:
        assert not writer.alpha
        assert "holds no transparency" in writer.warnings[0]
        writer.write(torch.zeros(3, 48, 64), Fraction(0), torch.zeros(48, 64))


@pytest.mark.parametrize(("codec", "ending"), [("libvpx-vp9", "webm"), ("prores_ks", "mov"), ("ffv1", "mkv")])
def test_opacity_outlives_the_joining_of_segments(tmp_path, codec, ending):
    info = VideoInfo(64, 48, Fraction(25), time_base=Fraction(1, 25), has_alpha=True)
    segments = []
    for start in (0, 3):
        path = tmp_path / f"{start}{segment_suffix(codec, alpha=True)}"
        with VideoWriter(path, width=64, height=48, info=info, codec=codec) as writer:
            for number in range(start, start + 3):
                writer.write(torch.zeros(3, 48, 64), Fraction(number, 25), torch.full((48, 64), number / 6))
        segments.append(path)
    assert join_segments(segments, tmp_path / f"out.{ending}") == []
    found = alphas(tmp_path / f"out.{ending}")
    assert [round(float(alpha.mean()) * 6) for alpha in found] == list(range(6))


def test_what_is_seen_keeps_its_colours_and_what_is_not_takes_those_around():
    pixels = torch.zeros(3, 33, 47, dtype=torch.uint8)
    alpha = torch.zeros(33, 47)
    alpha[10:20, 10:20] = 0.5
    alpha[12:18, 12:18] = 1
    pixels[:, alpha > 0] = torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None]
    filled = fill_transparent(pixels, alpha)
    assert torch.equal(filled, torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None, None].expand(3, 33, 47))
    assert torch.equal(fill_transparent(pixels, torch.ones(33, 47)), pixels)
    assert torch.equal(fill_transparent(pixels, torch.zeros(33, 47)), pixels)
    noise = torch.rand(3, 33, 47)
    assert torch.equal(fill_transparent(noise, alpha)[:, alpha > 0], noise[:, alpha > 0])
