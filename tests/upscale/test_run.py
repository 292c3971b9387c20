import os
import subprocess
from fractions import Fraction

import pytest
import torch

from flashvsr import upscale_file
from flashvsr.upscale import EncodeOptions, LoadOptions, ResumeError, explain
from flashvsr.video import VideoError, VideoReader
from tests.upscale.standin import StandIn, audio_packets, read_frames, same_video, write_clip


@pytest.fixture(scope="module")
def whole(clip, tmp_path_factory):
    """The clip upscaled without interruption, cut every half second."""
    output = tmp_path_factory.mktemp("whole") / "out.mp4"
    upscale_file(clip, output, model=StandIn(), segment_seconds=0.5, quiet=True)
    return output


def _interrupt(clip, output, steps=4, error=KeyboardInterrupt, segment_seconds=0.5):
    with pytest.raises(error):
        model = StandIn(error=error("stop"), steps=steps)
        upscale_file(clip, output, model=model, segment_seconds=segment_seconds, quiet=True)


def test_frames_and_times_and_sound_come_through(clip, tmp_path):
    result = upscale_file(clip, tmp_path / "out.mp4", model=StandIn(), quiet=True)
    frames, times = read_frames(tmp_path / "out.mp4")
    assert (result.frames, len(frames), frames.shape[2:]) == (60, 60, (128, 192))
    assert times == read_frames(clip)[1]
    assert audio_packets(tmp_path / "out.mp4") == audio_packets(clip)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_where_segments_are_cut_does_not_show_in_lossless_frames(clip, tmp_path):
    for name, seconds in (("cut", 0.3), ("whole", 60)):
        upscale_file(clip, tmp_path / name, model=StandIn(), segment_seconds=seconds, quiet=True)
    assert same_video(tmp_path / "cut", tmp_path / "whole")


def test_a_ten_bit_source_stays_ten_bit_and_keeps_uneven_times(tmp_path):
    source = write_clip(tmp_path / "in.mkv", 40, pixels="yuv420p10le", codec="ffv1", jitter=300)
    upscale_file(source, tmp_path / "out.mp4", model=StandIn(), segment_seconds=0.5, quiet=True)
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert reader.info.bit_depth == 10
        assert [frame.time for frame in reader] == read_frames(source)[1]


@pytest.mark.parametrize("output", ["V", "V/", "link", ".", "../V/sub/..", "V/%05d.png"])
@pytest.mark.parametrize("snapshots", [True, False])
def test_a_folder_as_output_keeps_all_that_the_run_does_not_write(tmp_path, monkeypatch, output, snapshots):
    folder = tmp_path / "V"
    (folder / "sub").mkdir(parents=True)
    source = write_clip(folder / "in.mp4", 3)
    (folder / "sub" / "notes.txt").write_text("kept")
    (folder / "00001.png").write_text("old")
    (tmp_path / "link").symlink_to(folder)
    before = source.read_bytes()
    monkeypatch.chdir(folder if output[0] == "." else tmp_path)
    upscale_file(source, output, model=StandIn(), overwrite=True, segment_seconds=60 if snapshots else None, quiet=True)
    images = ["00001.png", "00002.png", "00003.png"]
    assert sorted(path.name for path in folder.iterdir()) == [*images, "in.mp4", "sub"]
    assert source.read_bytes() == before and (folder / "sub" / "notes.txt").read_text() == "kept"
    assert (folder / "00001.png").read_bytes()[1:4] == b"PNG"
    assert {path.name for path in tmp_path.iterdir()} == {"V", "link"}


@pytest.mark.parametrize("frames", [1, 2, 21, 25, 26])
def test_short_clips_come_out_whole(tmp_path, frames):
    source = write_clip(tmp_path / "in.mp4", frames, audio=False)
    assert (
        upscale_file(source, tmp_path / "out.mkv", model=StandIn(), segment_seconds=0.01, quiet=True).frames == frames
    )
    assert len(read_frames(tmp_path / "out.mkv")[0]) == frames


@pytest.mark.parametrize("scale", [1.5, 2])
def test_other_scales_give_the_rounded_size(clip, tmp_path, scale):
    upscale_file(clip, tmp_path / "out.mp4", model=StandIn(), scale=scale, quiet=True)
    assert read_frames(tmp_path / "out.mp4")[0].shape[2:] == (round(32 * scale), round(48 * scale))


@pytest.mark.parametrize("steps", [2, 3, 4, 5])
def test_an_interrupted_run_goes_on_to_the_same_file(clip, whole, tmp_path, steps):
    output = tmp_path / "out.mp4"
    _interrupt(clip, output, steps)
    upscale_file(clip, output, model=StandIn(), segment_seconds=0.5, resume=True, quiet=True)
    assert same_video(output, whole)
    assert audio_packets(output) == audio_packets(clip)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_gpu_that_runs_out_of_memory_leaves_a_run_that_goes_on_with_less(clip, whole, tmp_path):
    output = tmp_path / "out.mp4"
    model = StandIn(error=torch.OutOfMemoryError("CUDA out of memory"), steps=4)
    with pytest.raises(torch.OutOfMemoryError) as info:
        upscale_file(clip, output, model=model, segment_seconds=0.5, quiet=True)
    assert "--gpu-gib" in explain(info.value)
    assert any("--resume goes on from there" in note for note in info.value.__notes__)
    less = LoadOptions(gpu_gib=6)
    upscale_file(clip, output, model=StandIn(), segment_seconds=0.5, resume=True, quiet=True, loading=less)
    assert same_video(output, whole)


@pytest.mark.parametrize("name", ["out", "out/a%03d.png"])
def test_images_go_on_with_the_right_numbers(clip, tmp_path, name):
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    upscale_file(clip, tmp_path / "once" / name, model=StandIn(), segment_seconds=0.5, quiet=True)
    _interrupt(clip, tmp_path / "twice" / name)
    assert not (tmp_path / "twice" / "out").exists()
    upscale_file(clip, tmp_path / "twice" / name, model=StandIn(), segment_seconds=0.5, resume=True, quiet=True)
    images = sorted((tmp_path / "once" / "out").iterdir())
    again = sorted((tmp_path / "twice" / "out").iterdir())
    assert [image.name for image in images] == [image.name for image in again]
    assert len(images) == 60
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(images, again, strict=True))


def test_resuming_where_nothing_was_left_starts_from_the_beginning(clip, whole, tmp_path):
    upscale_file(clip, tmp_path / "out.mp4", model=StandIn(), segment_seconds=0.5, resume=True, quiet=True)
    assert same_video(tmp_path / "out.mp4", whole)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, r"another seed \(then 0, now 1\)"),
        ({"loading": LoadOptions(impl="gather")}, r"another impl \(then auto, now gather\)"),
        ({"loading": LoadOptions(detail=0.6)}, r"another detail \(then None, now 0.6\)"),
        ({"scale": 2}, r"another scale \(then 4.0, now 2.0\)"),
        ({"segment_seconds": 1.0}, r"another length of a segment"),
        ({"model": torch.nn.Identity()}, "another model"),
    ],
)
def test_resuming_with_something_else_is_refused_and_changes_nothing(clip, tmp_path, options, named):
    output = tmp_path / "out.mp4"
    _interrupt(clip, output)
    before = sorted(path.name for path in (tmp_path / "out.mp4.partial").iterdir())
    options = {"model": StandIn(), "segment_seconds": 0.5, **options}
    with pytest.raises(ResumeError, match=named):
        upscale_file(clip, output, resume=True, quiet=True, **options)
    assert sorted(path.name for path in (tmp_path / "out.mp4.partial").iterdir()) == before


def test_resuming_another_input_is_refused(clip, tmp_path):
    _interrupt(clip, tmp_path / "out.mp4")
    (tmp_path / "other").mkdir()
    other = write_clip(tmp_path / "other" / clip.name, 70)
    with pytest.raises(ResumeError, match="another input"):
        upscale_file(other, tmp_path / "out.mp4", model=StandIn(), segment_seconds=0.5, resume=True, quiet=True)


def test_what_an_earlier_run_left_is_neither_used_nor_dropped_unasked(clip, whole, tmp_path):
    output = tmp_path / "out.mp4"
    _interrupt(clip, output)
    with pytest.raises(
        ResumeError, match=r"left by an earlier run: go on with --resume, or start over with --overwrite"
    ):
        upscale_file(clip, output, model=StandIn(), quiet=True)
    upscale_file(clip, output, model=StandIn(), segment_seconds=0.5, overwrite=True, quiet=True)
    assert same_video(output, whole)


def test_without_snapshots_nothing_is_left_behind(clip, tmp_path):
    _interrupt(clip, tmp_path / "out.mp4", segment_seconds=None)
    assert not list(tmp_path.iterdir())
    upscale_file(clip, tmp_path / "out.mp4", model=StandIn(), segment_seconds=None, quiet=True)
    assert audio_packets(tmp_path / "out.mp4") == audio_packets(clip)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(("source", "output"), [("-", "out.mp4"), ("in.mp4", "-")])
def test_pipes_cannot_be_resumed(tmp_path, source, output):
    with pytest.raises(ResumeError, match="cannot be resumed, stdin, stdout and pipes pass only once"):
        upscale_file(source, output if output == "-" else tmp_path / output, model=StandIn(), resume=True)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, torch.OutOfMemoryError])
def test_a_model_that_fails_early_leaves_nothing(clip, tmp_path, error):
    _interrupt(clip, tmp_path / "out.mp4", steps=0, error=error)
    assert not list(tmp_path.iterdir())


def test_a_model_that_loses_frames_is_caught(clip, tmp_path):
    class Forgetful(StandIn):
        def stream(self, **options):
            stream = super().stream(**options)
            stream.finish = lambda: torch.empty(0, 3, 128, 192, dtype=torch.uint8)
            return stream

    with pytest.raises(RuntimeError, match="took 60 frames and gave 53"):
        upscale_file(clip, tmp_path / "out.mp4", model=Forgetful(), quiet=True)


def test_a_truncated_file_is_an_error_and_leaves_no_output(clip, tmp_path):
    source = tmp_path / "cut.mkv"
    write_clip(source, 60)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"cut off|damaged|ends early"):
        upscale_file(source, tmp_path / "out.mp4", model=StandIn(), quiet=True)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": EncodeOptions("h266")}, "unknown codec"),
        ({"encoding": EncodeOptions("libx264"), "name": "out.webm"}, "webm"),
        ({"name": "o.xyz"}, "xyz"),
    ],
)
def test_what_cannot_be_encoded_fails_before_the_first_step(clip, tmp_path, options, message):
    output = tmp_path / options.pop("name", "out.mp4")
    model = StandIn(error=AssertionError("the model was run"))
    with pytest.raises(VideoError, match=message):
        upscale_file(clip, output, model=model, quiet=True, **options)
    assert not list(tmp_path.iterdir())


def test_frames_that_are_too_small_are_refused(tmp_path):
    source = write_clip(tmp_path / "in.mkv", 5, size=(14, 32), audio=False)
    with pytest.raises(ValueError, match="at least 16 x 16 pixels"):
        upscale_file(source, tmp_path / "out.mp4", model=StandIn(), quiet=True)


def test_progress_is_told_and_ends_at_the_number_of_frames(clip, tmp_path):
    told = []
    upscale_file(clip, tmp_path / "out.mp4", model=StandIn(), quiet=True, progress=lambda *now: told.append(now))
    assert told[0] == (21, 60)
    assert told[-1] == (60, 60)


def test_a_log_names_every_snapshot_and_the_result_and_quiet_names_nothing(clip, tmp_path, capsys):
    upscale_file(clip, tmp_path / "out.mp4", model=StandIn(), segment_seconds=0.5)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 4
    boundaries = [int(line.split(" after ")[1].split(" frames;")[0]) for line in lines[:3]]
    assert boundaries == [21, 37, 53]
    assert all(line.startswith("snapshot of 1.2 MB in") for line in lines[:3])
    assert "out.mp4: 60 frames in" in lines[3]
    upscale_file(clip, tmp_path / "out.mp4", model=StandIn(), overwrite=True, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_track_that_does_not_fit_is_a_warning_of_one_line(clip, tmp_path, capsys):
    result = upscale_file(clip, tmp_path / "out.webm", model=StandIn())
    assert result.warnings == ["audio track 1 (aac) is not copied: webm does not take it without re-encoding"]
    assert f"warning: {result.warnings[0]}\n" in capsys.readouterr().err


def test_frames_without_times_take_the_rate_asked_for(clip, tmp_path):
    upscale_file(clip, tmp_path / "frames", model=StandIn(), scale=1, quiet=True)
    upscale_file(
        tmp_path / "frames",
        tmp_path / "out.mp4",
        model=StandIn(),
        encoding=EncodeOptions(fps=Fraction(24000, 1001)),
        quiet=True,
    )
    assert read_frames(tmp_path / "out.mp4")[1] == read_frames(clip)[1]


@pytest.mark.parametrize(("ending", "codec"), [("mov", "prores_ks"), ("mkv", "rawvideo"), ("avi", "utvideo")])
def test_a_codec_of_editors_gives_the_same_file_with_segments_and_without(tmp_path, ending, codec):
    clip, output, whole = write_clip(tmp_path / "in.mp4", 25), tmp_path / f"out.{ending}", tmp_path / f"whole.{ending}"
    upscale_file(clip, output, model=StandIn(), encoding=EncodeOptions(codec), segment_seconds=0.3, quiet=True)
    upscale_file(clip, whole, model=StandIn(), encoding=EncodeOptions(codec), segment_seconds=None, quiet=True)
    assert len(read_frames(output)[1]) == 25
    assert same_video(output, whole)


def test_what_cannot_be_joined_fails_before_the_first_frame(tmp_path, clip):
    model = StandIn(error=AssertionError("the model was used"))
    with pytest.raises(VideoError, match=r"segments cannot be joined.*\n.*--no-resume"):
        upscale_file(clip, tmp_path / "out.mxf", model=model, encoding=EncodeOptions("libx264"), quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", ["fifo", "process substitution"])
def test_an_input_that_passes_once_is_read_once(tmp_path, clip, way):
    source = write_clip(tmp_path / "in.mkv", 30)
    if way == "fifo":
        os.mkfifo(tmp_path / "fifo")
        feeder = subprocess.Popen(["sh", "-c", f"cat '{source}' > '{tmp_path}/fifo'"])
        name = str(tmp_path / "fifo")
    else:
        feeder = subprocess.Popen(["cat", str(source)], stdout=subprocess.PIPE)
        name = f"/dev/fd/{feeder.stdout.fileno()}"
    try:
        result = upscale_file(name, tmp_path / "out.mkv", model=StandIn(), segment_seconds=0.3, quiet=True)
        assert feeder.wait(20) == 0
    finally:
        feeder.kill()
    assert result.frames == 30
    assert audio_packets(tmp_path / "out.mkv") == audio_packets(source)
    with pytest.raises(ResumeError, match="pass only once"):
        upscale_file("/dev/null", tmp_path / "out2.mkv", model=StandIn(), resume=True, quiet=True)
