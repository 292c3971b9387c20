"""Runs of one video in several segments."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from flashvsr import load, upscale_file
from flashvsr.cli import main
from flashvsr.upscale import ClipOptions, EncodeOptions, ResumeError, SegmentError, parts
from flashvsr.upscale.journal import Journal
from flashvsr.upscale.parts import find_seams, read_plan, write_plan
from flashvsr.upscale.processes import devices_for, listen
from flashvsr.upscale.record import Record
from flashvsr.video import VideoReader
from tests.upscale.standin import StandIn, audio_packets, same_video

SCENES = (20, 9, 25, 14, 18, 16)  # frames


def even(number: int) -> int:
    """Ticks of 25 frames per second."""
    return 40 * number


def write_scenes(path: Path, *, scenes=SCENES, times=even, gop: int = 20) -> Path:
    """A video with sound of scenes that differ, with B-frames, and key frames that come where they do."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        video.codec_context.time_base, video.codec_context.gop_size = Fraction(1, 1000), gop
        sound = container.add_stream("aac", rate=44100)
        count = 0
        for scene, frames in enumerate(scenes):
            for number in range(frames):
                picture = np.full((32, 48, 3), (70 * scene % 256, 200 - 60 * (scene % 3), 90 * (scene % 2)), np.uint8)
                picture[8:12, number % 48] = 255
                picture[20:24, :, 1] += np.uint8(number)
                frame = av.VideoFrame.from_ndarray(picture)
                frame.pts, frame.time_base = times(count), Fraction(1, 1000)
                count += 1
                container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = np.sin(np.arange(44100 * count // 25) * 0.05) * 8000
        samples = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        samples.sample_rate, samples.pts = 44100, 0
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    return path


def uneven(number: int) -> int:
    """Ticks of a clock that stretches."""
    return 40 * number + 7 * (number % 3) + (500 if number > 60 else 0)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("film") / "in.mp4")


OPTIONS = {"scale": 2, "segment_seconds": 0.5, "quiet": True, "encoding": EncodeOptions(codec="ffv1")}
MP4 = {**OPTIONS, "encoding": EncodeOptions()}


def packets(path: Path) -> list[tuple]:
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux() if packet.size]
    return [(packet.stream_index, packet.pts, packet.dts, packet.duration) for packet in found]


def mortal(error: BaseException, steps: int) -> StandIn:
    """A stand-in that fails once, after so many steps."""
    model, left = StandIn(), iter(range(steps))

    def step(lr, noise, state):
        nonlocal left
        if next(left, None) is None:
            left = iter(range(1000))
            raise error
        return StandIn.step(model, lr, noise, state)

    model.step = step
    return model


@pytest.mark.parametrize(
    ("name", "times", "clip"),
    [
        ("in.mp4", even, ClipOptions()),
        ("in.mkv", uneven, ClipOptions()),
        ("in.mp4", uneven, ClipOptions(start=Fraction(7, 20), end=Fraction(36, 10))),
        ("in.ts", even, ClipOptions()),
    ],
)
def test_segments_give_the_frames_times_and_sound_of_one_run(tmp_path, name, times, clip):
    source, one, out = write_scenes(tmp_path / name, times=times), tmp_path / "one.mkv", tmp_path / "out.mkv"
    upscale_file(source, one, model=StandIn(), clip=clip, **OPTIONS)
    result = upscale_file(source, out, model=StandIn(), clip=clip, segments=3, **OPTIONS)
    assert same_video(one, out)
    assert audio_packets(one) == audio_packets(out) != []
    assert packets(one) == packets(out)
    assert result.frames == sum(SCENES) if clip == ClipOptions() else result.frames < sum(SCENES)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "one.mkv", "out.mkv"])


def test_segments_begin_at_the_cuts_nearest_to_equal_lengths(film):
    def open_at(begin):
        return VideoReader(film, begin=begin)

    cuts = [Fraction(sum(SCENES[:number]), 25) for number in (1, 2, 3, 4, 5)]
    assert [seam.time for seam in find_seams(open_at, 2)] == [cuts[2]]  # after 54 of 102 frames
    assert [seam.time for seam in find_seams(open_at, 3)] == [cuts[1], cuts[3]]  # 29, 68
    assert [seam.time for seam in find_seams(open_at, 6)] == cuts  # 20, 29, 54, 68, 86
    # 12.75 is nearer to none, 25.5 to 29, 51 to 54, 63.75 to 68, and 89.25 to 86
    assert [seam.time for seam in find_seams(open_at, 8)] == cuts[1:]


def test_only_the_surroundings_of_a_place_are_looked_at_when_there_is_a_cut(film, monkeypatch):
    monkeypatch.setattr(parts, "NEAR", Fraction(1, 4))
    with VideoReader(film) as reader:
        times = [frame.time for frame in reader]
    read, frames = [], VideoReader.__iter__
    monkeypatch.setattr(VideoReader, "__iter__", lambda self: (read.append(one.time) or one for one in frames(self)))

    def open_at(begin):
        return VideoReader(film, begin=begin)

    seams = find_seams(open_at, 2)
    assert [seam.time for seam in seams] == [Fraction(54, 25)] and len(read) < 25
    assert read == [time for time in times if read[0] <= time <= read[-1]]


def test_a_segment_a_machine_joined_by_a_last_call_gives_the_same_bytes(film, tmp_path):
    upscale_file(film, tmp_path / "one.mp4", model=StandIn(), segments=3, **MP4)
    out = tmp_path / "out.mp4"
    frames = [upscale_file(film, out, model=StandIn(), segments=f"{number}/3", **MP4).frames for number in (2, 1, 3)]
    assert sum(frames) == sum(SCENES) and not out.exists()
    with pytest.raises(ResumeError, match="go on with --resume"):
        upscale_file(film, out, model=StandIn(), segments=3, **MP4)
    never = StandIn(error=AssertionError("nothing is left to upscale"))
    assert upscale_file(film, out, model=never, segments=3, resume=True, **MP4).frames == sum(SCENES)
    assert out.read_bytes() == (tmp_path / "one.mp4").read_bytes()
    assert not (tmp_path / "out.mp4.partial").exists()


def test_machines_that_begin_at_once_share_a_folder(film, tmp_path):
    out = tmp_path / "out.mp4"
    with ThreadPoolExecutor(3) as machines:
        asked = [f"{number}/3" for number in (1, 2, 3)]
        list(machines.map(lambda one: upscale_file(film, out, model=StandIn(), segments=one, **MP4), asked))
    never = StandIn(error=AssertionError("nothing is left to upscale"))
    assert upscale_file(film, out, model=never, segments=3, resume=True, **MP4).frames == sum(SCENES)


def test_a_segment_that_fails_is_named_and_the_others_are_kept(film, tmp_path, capsys):
    upscale_file(film, tmp_path / "one.mp4", model=StandIn(), segments=3, **MP4)
    out = tmp_path / "out.mp4"
    with pytest.raises(SegmentError, match="segment 2 of 3 failed: broken") as caught:
        upscale_file(film, out, model=mortal(ValueError("broken"), 3), segments=3, **{**MP4, "quiet": False})
    assert "segment 2 of 3 failed: broken" in capsys.readouterr().err
    assert "frames are kept in" in caught.value.__notes__[0]
    stages = [Record.read(tmp_path / "out.mp4.partial" / "parts" / str(number)).stage for number in (1, 2, 3)]
    assert stages == ["written", "running", "written"]
    upscale_file(film, out, model=StandIn(error=AssertionError("done before"), steps=3), segments=3, resume=True, **MP4)
    assert out.read_bytes() == (tmp_path / "one.mp4").read_bytes()


@pytest.mark.parametrize("steps", [0, 2, 5])
def test_an_interrupted_run_goes_on_to_the_same_frames(film, tmp_path, steps):
    upscale_file(film, tmp_path / "one.mp4", model=StandIn(), segments=3, **MP4)
    out = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        upscale_file(film, out, model=mortal(KeyboardInterrupt(), steps), segments=3, **MP4)
    assert (tmp_path / "out.mp4.partial").exists() == (steps > 0)
    upscale_file(film, out, model=StandIn(), segments=3, resume=True, **MP4)
    assert out.read_bytes() == (tmp_path / "one.mp4").read_bytes()


def test_too_few_cuts_make_fewer_segments_which_is_said(tmp_path, capsys):
    source, out = write_scenes(tmp_path / "in.mp4", scenes=(30, 30)), tmp_path / "out.mkv"
    options = {**OPTIONS, "quiet": False}
    upscale_file(source, out, model=StandIn(), segments="3/4", **options)
    assert "there are 2 segments: nothing to do for segment 3" in capsys.readouterr().err
    assert upscale_file(source, out, model=StandIn(), segments=4, resume=True, **options).frames == 60
    upscale_file(source, tmp_path / "other.mkv", model=StandIn(), segments=4, **options)
    assert "has scene cuts for 2 segments only, not for 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": "-"}, "- is not a video file, which --segments splits"),
        ({"source": "example:"}, "example: is not a video file"),
        ({"source": "missing.mp4"}, "missing.mp4 does not exist"),
        ({"output": "-"}, "- is not a video file, which --segments writes"),
        ({"output": "images"}, "images is not a video file, which --segments writes"),
        ({"clip": ClipOptions(cuts="off")}, "leave out --cuts off, or --segments"),
        ({"segment_seconds": None}, "leave out --no-resume, or --segments"),
        ({"segments": "2/3", "segment_seconds": 0}, "the length of a segment must be positive, got 0 s"),
        ({"segments": "2/3", "overwrite": True}, "to start over, delete out.mkv.partial"),
        ({"segments": 1}, "a number from 2 on, such as 4, or one of so many, such as 2/4; got 1"),
        ({"segments": "4/3"}, "got 4/3"),
        ({"segments": "/3"}, "got /3"),
        ({"segments": "a"}, "got a"),
    ],
)
def test_what_cannot_be_split_is_refused_before_anything_is_written(film, tmp_path, monkeypatch, changes, reason):
    monkeypatch.chdir(tmp_path)
    options = {"source": film, "output": "out.mkv", "segments": 3, **OPTIONS, **changes}
    source, output = options.pop("source"), options.pop("output")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        upscale_file(source, output, model=StandIn(), **options)
    assert reason in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_list_is_not_split(film, tmp_path, capsys):
    assert main(["upscale", str(film), str(film), str(tmp_path / "out"), "--segments", "2"]) == 1
    assert "--segments is for one video" in capsys.readouterr().err


def test_a_file_that_is_not_entered_in_its_middle_is_named(tmp_path, capsys):
    source = write_scenes(tmp_path / "in.ts", scenes=(12, 12))
    upscale_file(source, tmp_path / "out.mkv", model=StandIn(), segments="1/2", **{**OPTIONS, "quiet": False})
    assert "in.ts is read from its beginning for each segment" in capsys.readouterr().err


def test_segments_of_another_run_are_not_mixed(film, tmp_path):
    out = tmp_path / "out.mkv"
    upscale_file(film, out, model=StandIn(), segments="1/3", **OPTIONS)
    with pytest.raises(ResumeError, match=r"number of segments \(then 3, now 2\)"):
        upscale_file(film, out, model=StandIn(), segments="2/2", **OPTIONS)
    with pytest.raises(ResumeError, match=r"seed \(then 0, now 1\)"):
        upscale_file(film, out, model=StandIn(), segments="2/3", seed=1, **OPTIONS)
    with pytest.raises(ResumeError, match=r"number of segments \(then 3, now None\)"):
        upscale_file(film, out, model=StandIn(), resume=True, **OPTIONS)


def test_a_segment_at_work_on_another_machine_is_left_alone(film, tmp_path):
    out, partial = tmp_path / "out.mkv", tmp_path / "out.mkv.partial"
    upscale_file(film, out, model=StandIn(), segments="1/3", **OPTIONS)
    (partial / "parts" / "2").mkdir()
    with Journal.create(partial / "parts" / "2", {}):
        with pytest.raises(SegmentError, match=r"segment 2 of 3 failed: .* is in use by another run"):
            upscale_file(film, out, model=StandIn(), segments=3, resume=True, **OPTIONS)
        with pytest.raises(ResumeError, match="in use by another run"):
            upscale_file(film, out, model=StandIn(), segments=3, overwrite=True, **OPTIONS)
        assert (partial / "parts" / "2" / "journal.json").exists()
    upscale_file(film, out, model=StandIn(), segments=3, resume=True, **OPTIONS)
    assert same_frames_count(out) == sum(SCENES)


def same_frames_count(path: Path) -> int:
    with VideoReader(path) as reader:
        return sum(1 for _ in reader)


@pytest.mark.parametrize("number", [1, 2])
def test_a_frame_that_is_not_the_one_of_the_plan_is_refused(film, tmp_path, number):
    out, partial = tmp_path / "out.mkv", tmp_path / "out.mkv.partial"
    upscale_file(film, out, model=StandIn(), segments="3/3", **OPTIONS)
    first, second = read_plan(partial)
    write_plan(partial, [first._replace(digest="0" * 16), second])
    with pytest.raises(Exception, match=r"does not give the same frame at 1\.160 s"):
        upscale_file(film, out, model=StandIn(), segments=f"{number}/3", **OPTIONS)


def test_segments_take_devices_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_for("auto", 3) == devices_for("cuda:*", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices_for("cuda:1", 2) == ["cuda:1", "cuda:1"]
    assert devices_for("cuda:1, cpu", 2) == ["cuda:1", "cpu"]
    with pytest.raises(ValueError, match="there is no device 'cuda:2'"):
        devices_for("cuda:2,cuda:0", 2)


def test_a_process_that_dies_is_a_failure_with_a_reason():
    told = []
    ours, theirs = multiprocessing.Pipe(duplex=False)
    theirs.send(("frames", 8))
    theirs.close()
    dead = SimpleNamespace(join=lambda: None, exitcode=-signal.SIGKILL)
    listen({ours: (2, dead)}, lambda *said: told.append(said))
    assert told == [(2, "frames", 8), (2, "failure", "its process ended with signal 9, as when memory is short")]


@pytest.mark.slow  # two runs of three processes each
@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc: no child was killed")
@pytest.mark.parametrize("kill_all", [False, True])
def test_killed_or_interrupted_a_run_of_processes_ends_and_goes_on(tmp_path, kill_all):
    source = write_scenes(tmp_path / "in.mp4", scenes=(100, 50))
    out, partial = tmp_path / "out.mp4", tmp_path / "out.mp4.partial"
    command = [sys.executable, "-m", "flashvsr", "upscale", str(source), str(out), "--segments", "2", "--device", "cpu"]
    command += ["--segment-seconds", "0.4", "--scale", "2"]
    parent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    records = [partial / "parts" / number / "journal.json" for number in ("1", "2")]
    while not records[0].exists() or not json.loads(records[0].read_text())["segments"]:
        assert parent.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    segments = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(parent.pid if kill_all else int(segments[0]), signal.SIGINT if kill_all else signal.SIGKILL)
    errors = parent.communicate()[1]
    assert parent.returncode == (130 if kill_all else 1)
    assert "goes on from there" in errors
    assert kill_all or "segment 1 of 2 failed: its process ended with signal 9" in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in segments)
    assert json.loads(records[0].read_text())["stage"] == "running"
    assert kill_all or json.loads(records[1].read_text())["stage"] == "written"
    subprocess.run([*command, "--resume"], check=True)
    options = {"segments": 2, "segment_seconds": 0.4, "scale": 2, "quiet": True}
    upscale_file(source, tmp_path / "whole.mp4", model=load("nano", device="cpu"), **options)
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not partial.exists()


def test_two_processes_give_the_frames_of_one_run(tmp_path, capsys):
    source = write_scenes(tmp_path / "in.mp4", scenes=(12, 12))
    command = ["upscale", str(source), "--device", "cpu", "--scale", "2", "--codec", "ffv1", "--json"]
    assert main([*command, str(tmp_path / "one.mkv")]) == 0
    capsys.readouterr()
    assert main([*command, str(tmp_path / "out.mkv"), "--segments", "2"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events if event["event"] != "progress"] == ["start", "done", "end"]
    frames = [event["frame"] for event in events if event["event"] == "progress"]
    assert frames == sorted(frames) and max(frames) <= 24
    assert same_video(tmp_path / "one.mkv", tmp_path / "out.mkv")
