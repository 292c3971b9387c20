"""A part of a video: exact frames, and sound, subtitles and chapters cut with them."""

from fractions import Fraction

import av
import pytest
import torch

from flashvsr.video import Trim, VideoError, VideoInfo, VideoReader, VideoWriter

INFO = VideoInfo(64, 48, Fraction(25), Fraction(1, 90000))


def _read(source, *, skip=0, **trim):
    with VideoReader(source, trim=Trim(**{name: Fraction(value) for name, value in trim.items()}), skip=skip) as reader:
        frames = list(reader)
        return torch.stack([frame.pixels for frame in frames]), [frame.time for frame in frames], reader


@pytest.mark.parametrize(("start", "end", "first", "stop"), [("0.2", "0.6", 5, 15), ("0.21", "0.61", 6, 16)])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "264"])
def test_the_frames_are_those_shown_from_the_start_on_and_before_the_end(
    tmp_path, write_clip, start, end, first, stop, ending
):
    clip = write_clip(tmp_path / f"in.{ending}", [Fraction(n, 25) for n in range(25)])
    whole, times, _ = _read(clip)
    part, shown, reader = _read(clip, start=start, end=end)
    assert torch.equal(part, whole[first:stop])
    assert shown == [time - times[first] for time in times[first:stop]]
    assert reader.last_duration == Fraction(1, 25)
    assert torch.equal(_read(clip, start=start, end=end, skip=3)[0], whole[first + 3 : stop])


def test_a_part_that_is_the_whole_is_no_different(tmp_path, write_av):
    clip = write_av(tmp_path / "in.mkv")
    whole, times, _ = _read(clip)
    part, shown, _ = _read(clip, start=0, end=100)
    assert torch.equal(part, whole)
    assert shown == times


@pytest.mark.parametrize("source", ["folder", "pattern", "example"])
def test_images_and_the_example_are_cut_by_number(tmp_path, picture, source):
    with VideoWriter(tmp_path / "frames", width=64, height=48, info=INFO) as writer:
        for number in range(10):
            writer.write(picture(number), Fraction(number, 25))
    name = {"folder": tmp_path / "frames", "pattern": tmp_path / "frames/%05d.png", "example": "example:"}[source]
    whole, times, _ = _read(name)
    part, shown, reader = _read(name, start="0.1", end="0.25")
    first, stop = (3, 6) if source == "example" else (3, 7)  # which has 24 frames a second
    assert torch.equal(part, whole[first:stop])
    assert shown == times[: stop - first]
    assert reader.info.frames == stop - first


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("video_start", [0, Fraction(3, 2)])
def test_sound_is_cut_with_the_picture_to_a_packet(tmp_path, write_av, segments, video_start):
    from flashvsr.upscale import ClipOptions, upscale_file
    from tests.upscale.standin import StandIn

    clip = write_av(tmp_path / "in.mkv", frames=75, audio="pcm_s16le", video_start=video_start, audio_start=video_start)
    part = ClipOptions(start=Fraction(1), end=Fraction(2))
    seconds = 0.4 if segments else None
    upscale_file(clip, tmp_path / "out.mkv", model=StandIn(), scale=1, clip=part, segment_seconds=seconds, quiet=True)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 25
    with av.open(str(tmp_path / "out.mkv")) as container:
        sound = [packet for packet in container.demux(audio=0) if packet.size]
    with av.open(str(clip)) as container:
        source = [packet for packet in container.demux(audio=0) if packet.size]
    wanted = [packet for packet in source if 1 <= packet.pts * packet.time_base - video_start < 2]
    assert [bytes(packet) for packet in sound] == [bytes(packet) for packet in wanted]
    assert sound[0].pts * sound[0].time_base < Fraction(1, 20)


def test_chapters_are_cut_and_those_outside_left_out(tmp_path, write_clip):
    clip = write_clip(tmp_path / "plain.mkv", [Fraction(n, 25) for n in range(75)])
    with av.open(str(clip)) as source, av.open(str(tmp_path / "in.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        times = [(0, 900), (900, 1500), (1500, 2500), (2500, 3000)]
        target.set_chapters(
            [
                {"id": n, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": str(n)}}
                for n, (a, b) in enumerate(times)
            ]
        )
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    trim = Trim(Fraction(1), Fraction(2))
    with (
        VideoReader(tmp_path / "in.mkv", trim=trim) as reader,
        VideoWriter(tmp_path / "out.mkv", width=64, height=48, info=reader.info, copy_tracks_from=reader) as writer,
    ):
        for frame in reader:
            writer.write(frame.pixels, frame.time)
    with av.open(str(tmp_path / "out.mkv")) as container:
        chapters = container.chapters()
    ends = [tuple(chapter[end] * chapter["time_base"] for end in ("start", "end")) for chapter in chapters]
    assert ends == [(0, Fraction(1, 2)), (Fraction(1, 2), 1)]
    assert [chapter["metadata"]["title"] for chapter in chapters] == ["1", "2"]


def test_a_part_that_is_empty_is_refused_with_the_length(tmp_path, write_clip):
    clip = write_clip(tmp_path / "in.mp4", [Fraction(n, 25) for n in range(5)])
    with pytest.raises(VideoError, match=r"in.mp4 ends at 0.16 s\nlet the start, 5 s, be before that"):
        _read(clip, start=5)
    for wrong, message in (({"start": 2, "end": 1}, "let the end be later"), ({"start": -1}, "expected 0 or more")):
        with pytest.raises(VideoError, match=message):
            _read(clip, **wrong)
