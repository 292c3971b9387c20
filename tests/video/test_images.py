from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from flashvsr.video import VideoError, VideoInfo, VideoReader, VideoWriter, is_image_target, numbered_images
from flashvsr.video.images import ImageSink

INFO = VideoInfo(64, 48, Fraction(25))


def write_images(target, pictures, info=INFO, **options):
    with VideoWriter(target, width=pictures[0].shape[2], height=pictures[0].shape[1], info=info, **options) as writer:
        for number, pixels in enumerate(pictures):
            writer.write(pixels, Fraction(number, 25))


@pytest.mark.parametrize("name", ["frames", "frames/%03d.png", "frames/shot-%d_x.png"])
def test_png_images_come_back_bit_for_bit(tmp_path, picture, name):
    pictures = [picture(number) for number in range(12)]
    write_images(tmp_path / name, pictures)
    with VideoReader(tmp_path / name, fps=Fraction(30000, 1001)) as reader:
        frames = list(reader)
    assert reader.info.frame_rate == Fraction(30000, 1001)
    assert reader.info.frames == 12
    assert [frame.time for frame in frames] == [number * Fraction(1001, 30000) for number in range(12)]
    assert all(torch.equal(frame.pixels, pixels) for frame, pixels in zip(frames, pictures, strict=True))


def test_deep_images_keep_sixteen_bits(tmp_path):
    ramp = torch.linspace(0, 1, 4096).view(1, 16, 256).expand(3, 16, 256)
    write_images(tmp_path / "deep", [ramp], VideoInfo(256, 16, None, bit_depth=10))
    with VideoReader(tmp_path / "deep") as reader:
        (frame,) = reader
    assert reader.info.bit_depth == 10
    assert (frame.pixels - ramp).abs().max() <= 1 / 65535


def test_a_folder_is_read_in_natural_order(tmp_path, picture):
    write_images(tmp_path / "%d.png", [picture(number) for number in range(11)])  # 1.png .. 11.png
    (tmp_path / "notes.txt").write_text("not an image")
    with VideoReader(tmp_path) as reader:
        frames = list(reader)
    assert all(torch.equal(frame.pixels, picture(number)) for number, frame in enumerate(frames))
    assert "25 per second" in reader.warnings[0]


def test_skipped_images_keep_the_times_of_the_rest(tmp_path, picture):
    write_images(tmp_path / "frames", [picture(number) for number in range(6)])
    with VideoReader(tmp_path / "frames", skip=4) as reader:
        frames = list(reader)
    assert [frame.time for frame in frames] == [Fraction(4, 25), Fraction(5, 25)]
    assert torch.equal(frames[0].pixels, picture(4))


def test_a_resumed_series_goes_on_counting(tmp_path, picture):
    write_images(tmp_path / "frames", [picture(0)])
    write_images(tmp_path / "frames", [picture(1)], first_number=2)
    assert sorted(path.name for path in (tmp_path / "frames").iterdir()) == ["00001.png", "00002.png"]


@pytest.mark.parametrize(("ending", "tolerance"), [("jpg", 12), ("bmp", 0), ("tiff", 0)])
def test_other_image_formats_read_in_true_colours(tmp_path, ending, tolerance):
    from PIL import Image

    pixels = torch.tensor([200, 60, 30], dtype=torch.uint8).expand(48, 64, 3)
    Image.fromarray(pixels.numpy()).save(tmp_path / f"a.{ending}")
    with VideoReader(tmp_path, fps=Fraction(25)) as reader:
        (frame,) = reader
    assert (frame.pixels.permute(1, 2, 0).int() - pixels.int()).abs().max() <= tolerance


def test_gray_images_are_full_range(tmp_path):
    from PIL import Image

    Image.new("L", (64, 48), 250).save(tmp_path / "a.png")
    with VideoReader(tmp_path, fps=Fraction(25)) as reader:
        (frame,) = reader
    assert (frame.pixels == 250).all()


def test_an_image_of_another_size_is_named(tmp_path, picture):
    write_images(tmp_path, [picture(0)])
    write_images(tmp_path, [picture(1, 50, 64)], first_number=2)
    with VideoReader(tmp_path) as reader, pytest.raises(VideoError, match=r"00002.png is 64x50.* are 64x48"):
        list(reader)


def test_what_is_missing_is_said(tmp_path, picture):
    with pytest.raises(VideoError, match="holds no images"):
        VideoReader(tmp_path)
    with pytest.raises(VideoError, match="no file has such a name"):
        VideoReader(tmp_path / "%03d.png")
    with pytest.raises(VideoError, match="there is no folder"):
        VideoReader(tmp_path / "nowhere" / "%03d.png")
    write_images(tmp_path / "%03d.png", [picture(0)])
    write_images(tmp_path / "%03d.png", [picture(0)], first_number=3)
    with pytest.raises(VideoError, match=r"002.png is missing"):
        VideoReader(tmp_path / "%03d.png")
    (tmp_path / "002.png").write_bytes(b"no image at all")
    with VideoReader(tmp_path / "%03d.png") as reader, pytest.raises(VideoError, match=r"cannot read .*002.png"):
        list(reader)


def test_only_png_and_jpeg_are_written(tmp_path):
    with pytest.raises(VideoError, match=r"end in \.png"):
        VideoWriter(tmp_path / "%d.tif", width=8, height=8, info=INFO)
    with pytest.raises(VideoError, match="not libx264"):
        VideoWriter(tmp_path / "frames", width=8, height=8, info=INFO, codec="libx264")


def test_abort_deletes_the_images_written(tmp_path, picture):
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "out", width=64, height=48, info=INFO) as writer:
        writer.write(picture(0), Fraction(0))
        raise ZeroDivisionError
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VideoError, match="cannot write to"):
        ImageSink(tmp_path / "file" / "%d.png", deep=False)


def test_image_targets_are_told_by_their_name(tmp_path):
    assert is_image_target(tmp_path)
    assert is_image_target("frames")
    assert is_image_target("a/%05d.png")
    assert not is_image_target("clip.mp4")
    assert not is_image_target("-")


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    from PIL import Image

    image = Image.new("RGB", (64, 48), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 64, 8))  # the stored top
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: the stored top is on the right
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    with VideoReader(tmp_path, fps=Fraction(25)) as reader:
        (frame,) = reader
    assert frame.pixels.shape == (3, 64, 48)
    assert (frame.pixels[:, :, 42:] > 200).all()
    assert (frame.pixels[:, :, :36] < 50).all()


def test_a_number_padded_otherwise_belongs_to_another_series(tmp_path):
    for name in ("f0003.png", "f0001.png", "f7.png", "f00002.png", "g0002.png"):
        (tmp_path / name).touch()
    assert numbered_images(tmp_path / "f%04d.png") == [(1, tmp_path / "f0001.png"), (3, tmp_path / "f0003.png")]
    assert numbered_images(tmp_path / "nowhere" / "f%04d.png") == []


def test_companions_that_macos_leaves_are_no_images(tmp_path, picture):
    write_images(tmp_path, [picture(0), picture(1)])
    (tmp_path / "._00001.png").write_bytes(b"no image")
    with VideoReader(tmp_path, fps=Fraction(25)) as reader:
        assert len(list(reader)) == 2


def test_one_picture_as_output_is_told_from_a_video(tmp_path):
    with pytest.raises(VideoError, match=r"is one picture, not a video\nname a folder, or .* a_%05d.png"):
        VideoWriter(tmp_path / "a.png", width=8, height=8, info=INFO)
