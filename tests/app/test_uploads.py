"""What a page accepts from strangers."""

import pytest
from PIL import Image

from flashvsr.app import check_upload
from flashvsr.app.uploads import plain_name
from flashvsr.video import VideoError
from tests.upscale.standin import write_clip

MOST = 1_000_000


def test_a_video_and_a_picture_are_told_apart(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    picture = check_upload(tmp_path / "a.png", "a.png", most_bytes=MOST)
    video = check_upload(write_clip(tmp_path / "b.mp4", 48), "b.mp4", most_bytes=MOST)
    assert (picture.is_picture, picture.width, picture.height, picture.frames) == (True, 40, 30, 1)
    assert (video.is_picture, video.width, video.height, video.frames) == (False, 48, 32, 48)
    assert video.seconds == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_a_playlist_cannot_name_other_files(tmp_path, name):
    write_clip(tmp_path / "secret.ts")
    (tmp_path / name).write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.5,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(VideoError, match="is no video and no picture"):
        check_upload(tmp_path / name, name, most_bytes=MOST)


def test_a_list_of_files_to_join_cannot_name_other_files(tmp_path):
    write_clip(tmp_path / "secret.mp4")
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(VideoError, match="is no video and no picture"):
        check_upload(tmp_path / "list.ffconcat", "list.ffconcat", most_bytes=MOST)


def test_what_is_too_large_too_small_or_no_video_is_refused_by_its_own_name(tmp_path):
    Image.new("RGB", (12, 300)).save(tmp_path / "input.png")
    (tmp_path / "input.mp4").write_text("hello")
    for stored, most, words in (
        ("input.png", MOST, "mine is 12x300: expected at least 16 pixels"),
        ("input.png", 10, "mine has .* GB, the page takes"),
        ("input.mp4", MOST, "mine is no video"),
    ):
        with pytest.raises(VideoError, match=words):
            check_upload(tmp_path / stored, "mine", most_bytes=most)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("holiday.mp4", "holiday.mp4"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a b.MOV", "a b.MOV"),
        ("frame%05d.png", "frame_05d.png"),
        ("über \U0001f41d.mkv", "über \U0001f41d.mkv"),
        ("a\x00b\n.mp4", "ab.mp4"),
        ("..mp4", "video.mp4"),
        ("", "video"),
        ("x" * 300 + ".mp4", "x" * 80 + ".mp4"),
    ],
)
def test_names_are_made_plain(name, kept):
    assert plain_name(name) == kept
