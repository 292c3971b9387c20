import inspect
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import flashvsr.upscale
from flashvsr.cli import main
from flashvsr.streaming import Geometry, Stream
from flashvsr.upscale import EncodeOptions, LoadOptions
from tests.small_folder import save_small_system
from tests.video.picture.test_crop import put_into_sample_entry, write

# The command with a model that needs no weights, as slow as the first argument says.
WITH_STANDIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, and what it starts, ignores it
sys.path.insert(0, {folder!r})
from tests.cli.test_upscale import Nearest, run_with
import flashvsr.upscale
from flashvsr.cli import main
flashvsr.upscale.upscale_file = run_with(Nearest(float(sys.argv.pop(1))))
sys.exit(main())
"""


class Nearest:
    """Gives back the upsampled frames."""

    geometry = Geometry(multiple=16)

    def __init__(self, seconds_per_step=0.0, error=None):
        self.seconds_per_step, self.error = seconds_per_step, error

    def step(self, lr, noise, state):
        time.sleep(self.seconds_per_step)
        if self.error is not None:
            raise self.error
        frames = lr if state is None else torch.cat((state["ahead"], lr), 2)
        return frames[:, :, :-4], {"ahead": frames[:, :, -4:].clone()}

    def stream(self, **options):
        return Stream(self, **options)


def run_with(model):
    """`upscale_file` with this model, whatever its caller names."""
    upscale_file = flashvsr.upscale.upscale_file
    return lambda *paths, **options: upscale_file(*paths, **options | {"model": model})


@pytest.fixture
def model(monkeypatch):
    """Runs the command with a stand-in for the model."""
    model = Nearest()
    monkeypatch.setattr(flashvsr.upscale, "upscale_file", run_with(model))
    return model


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """40 frames of 32 x 48 pixels at 25 per second, with a tone."""
    path = tmp_path_factory.mktemp("clip") / "in.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream("aac", rate=44100)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        for number in range(40):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 48, 3), number * 5, np.uint8))))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 70000), np.int16), format="s16", layout="mono")
        samples.sample_rate, samples.pts = 44100, 0
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    return path


def _count(path):
    with av.open(str(path)) as container:
        counts = {stream.type: 0 for stream in container.streams}
        for packet in container.demux():
            counts[packet.stream.type] += bool(packet.size)
        return counts


def _child(*arguments, **options):
    code = WITH_STANDIN.format(folder=str(Path(__file__).parents[2]))
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **options)


def test_help_and_version_do_not_import_torch():
    code = "import sys\nfrom flashvsr.cli import main\ntry: main({!r})\nfinally: assert 'torch' not in sys.modules"
    for arguments, shown in ((["--help"], "upscale"), (["--version"], "flashvsr 0."), (["upscale", "-h"], "--resume")):
        done = subprocess.run([sys.executable, "-c", code.format(arguments)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert shown in done.stdout


def test_a_file_goes_in_and_a_file_comes_out(model, clip, tmp_path, capsys):
    assert main(["upscale", str(clip), str(tmp_path / "out.mp4"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert _count(tmp_path / "out.mp4")["video"] == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nowhere.mp4", "{tmp}/out.mp4"], "no such file"),
        (["{text}", "{tmp}/out.mp4"], "not a video"),
        (["{sound}", "{tmp}/out.mp4"], "no video stream"),
        (["{empty}", "{tmp}/out.mp4"], "is empty"),
        (["{tmp}", "{tmp}/out.mp4"], "holds no images"),
        (["{clip}", "{clip}"], "both input and output"),
        (["{clip}", "{tmp}/nowhere/out.mp4"], "nowhere does not exist: create it"),
        (["{clip}", "{text}"], "exists already: choose another output, or replace it with --overwrite"),
        (["{clip}", "{tmp}/out.mp4", "--codec", "h266"], "unknown codec 'h266'"),
        (["{clip}", "{tmp}/out.mp4", "--format", "vhs"], "unknown format 'vhs'"),
        (["{clip}", "-", "--format", "mp4"], "mp4 cannot be written to a pipe"),
        (["{clip}", "-", "--resume"], "cannot be resumed, stdin, stdout and pipes pass only once"),
        (["{clip}", "{tmp}/out.mp4", "--scale", "0.1"], "scale must be"),
        (["{clip}", "{tmp}/out.mp4", "--scale", "nan"], "scale must be"),
        (["{clip}", "{tmp}/out.mp4", "--scale", "1e6"], "is larger than any encoder takes"),
        (["{clip}", "{tmp}/out.mp4", "--crf", "99"], "crf 99 is not possible"),
        (["{clip}", "{tmp}/%d.png", "--format", "mp4"], "stands for images, which --format mp4 does not hold"),
        (["{clip}", "{tmp}/out.mp4", "--segment-seconds", "0"], "must be positive"),
    ],
)
def test_an_error_is_a_line_or_two_and_leaves_nothing(
    model, clip, tmp_path, tmp_path_factory, capfd, arguments, message
):
    inputs = tmp_path_factory.mktemp("inputs")
    (inputs / "text.mp4").write_text("not a film\n" * 100)
    (inputs / "empty.mp4").touch()
    with av.open(str(inputs / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.int16), format="s16", layout="mono")
        samples.sample_rate, samples.pts = 44100, 0
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    places = {name: inputs / f"{name}.mp4" for name in ("text", "empty", "sound")} | {"clip": clip, "tmp": tmp_path}
    assert main(["upscale", *(part.format(**places) for part in arguments)]) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert len(shown.err.strip().splitlines()) <= 2
    assert "Traceback" not in shown.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ending", "plain", "deep"),
    [
        ("ogv", "vp8", "vp8"),
        ("ogg", "vp8", "vp8"),
        ("ivf", "vp9", "av1"),
        ("avi", "h264", "h264"),
        ("wmv", "h264", "h264"),
        ("3gp", "h264", "h264"),
        ("h264", "h264", "h264"),
        ("hevc", "hevc", "hevc"),
        ("mjpeg", "mjpeg", "mjpeg"),
    ],
)
def test_every_container_gets_a_codec_that_it_holds(model, clip, tmp_path, ending, plain, deep):
    deep_clip = tmp_path / "deep.mkv"
    with av.open(str(deep_clip), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p10le"
        for _ in range(40):
            container.mux(video.encode(av.VideoFrame(48, 32, "yuv420p10le")))
        container.mux(video.encode(None))
    for source, codec in ((clip, plain), (deep_clip, deep)):
        made = tmp_path / f"{codec}_{source.stem}.{ending}"
        assert main(["upscale", str(source), str(made), "--quiet"]) == 0
        assert _count(made)["video"] == 40
        with av.open(str(made)) as container:
            assert container.streams.video[0].codec_context.codec.canonical_name == codec


@pytest.mark.parametrize(("profile", "compatibility", "wrong"), [(5, 0, True), (8, 1, False), (7, 6, False)])
def test_dolby_vision_without_a_base_layer_for_others_is_warned_of(
    model, tmp_path, capfd, profile, compatibility, wrong
):
    source = write(tmp_path / "in.mp4")
    setup = bytes([1, 0]) + (profile << 9 | 0b1101).to_bytes(2) + bytes([compatibility << 4]) + bytes(19)
    put_into_sample_entry(source, (8 + len(setup)).to_bytes(4) + b"dvcC" + setup)
    assert main(["upscale", str(source), str(tmp_path / "out.mkv")]) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if "Dolby Vision" in line]
    assert len(said) == wrong


@pytest.mark.parametrize(("ending", "codec"), [("flv", "libx264"), ("wmv", "libx264"), ("asf", "wmv2")])
def test_a_file_cut_short_is_warned_of_where_its_length_is_stated(model, tmp_path, capfd, ending, codec):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    with av.open(str(whole), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(60):
            picture = rng.integers(0, 255, (32, 48, 3), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(video.encode(None))
    with av.open(str(whole)) as container:  # at a packet, which is whole
        cut_at = [packet.pos for packet in container.demux(video=0) if packet.size][30]
    cut.write_bytes(whole.read_bytes()[:cut_at])
    for source, count in ((whole, 0), (cut, 1)):
        assert main(["upscale", str(source), str(tmp_path / f"{source.stem}.mkv")]) == 0
        assert sum("is cut off" in line for line in capfd.readouterr().err.splitlines()) == count


@pytest.mark.parametrize(("clock", "pause"), [(23_040_000, 100), (2_000_000, 1200)])
def test_a_pause_on_a_fine_clock_fits_into_mp4_in_one_pass(model, tmp_path, clock, pause):
    source, made = tmp_path / "in.nut", tmp_path / "out.mp4"
    times = [Fraction(number, 25) for number in range(10)] + [Fraction(pause) + Fraction(n, 25) for n in range(10)]
    with av.open(str(source), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.time_base = Fraction(1, clock)
        for time_shown in times:
            frame = av.VideoFrame(48, 32, "yuv420p")
            frame.pts, frame.time_base = int(time_shown * clock), Fraction(1, clock)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    with av.open(str(source)) as container:
        assert container.streams.video[0].time_base <= Fraction(1, clock)
    assert main(["upscale", str(source), str(made), "--no-resume", "--quiet"]) == 0
    with av.open(str(made)) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    assert shown == pytest.approx([float(time_shown) for time_shown in times], abs=1e-5)


def test_a_folder_that_cannot_be_made_is_named(model, clip, tmp_path, monkeypatch, capfd):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(["upscale", str(clip), str(tmp_path / "out.mp4")]) == 1
    assert "out.mp4.partial: Permission denied: check that the folder" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: a full disk was not tried")
def test_a_full_disk_is_a_line_or_two(clip):
    with Path("/dev/full").open("wb") as full:
        child = _child(0, "upscale", clip, "-", stdout=full, stderr=subprocess.PIPE, text=True)
        _, errors = child.communicate(timeout=120)
    assert child.returncode == 1
    assert "No space left on device" in errors
    assert len(errors.strip().splitlines()) <= 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere: not tried")
def test_an_unwritable_folder_is_named(model, clip, tmp_path, capfd):
    tmp_path.chmod(0o555)
    assert main(["upscale", str(clip), str(tmp_path / "out.mp4")]) == 1
    assert "ermission" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            "out of memory (CUDA out of memory): try --gpu-gib with less than the GPU has, a smaller --scale",
        ),
        (MemoryError(), "out of memory: try a smaller --scale"),
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory"), "out of memory ([enforce] Default"),
        (OSError(28, "No space left on device"), "the disk is full: free some space"),
    ],
)
def test_running_out_of_something_says_what_to_try(model, clip, tmp_path, capfd, error, shown):
    model.error = error
    assert main(["upscale", str(clip), str(tmp_path / "out.mp4")]) == 1
    assert shown in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="triton runs here: its refusal was not seen")
@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="triton is interpreted here: its refusal was not seen")
def test_an_implementation_that_cannot_run_here_is_a_line(clip, tmp_path, capfd):
    save_small_system(tmp_path / "model")
    arguments = ["upscale", str(clip), str(tmp_path / "out.mp4"), "--impl", "triton", "--device", "cpu", "--scale", "1"]
    assert main([*arguments, "--model", str(tmp_path / "model")]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("flashvsr: impl 'triton' cannot run here: ")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("message", ["mat1 and mat2 shapes cannot be multiplied", "impl 'x' cannot run here: no"])
def test_a_defect_is_not_dressed_up_as_a_mistake_of_the_user(model, clip, tmp_path, message):
    model.error = RuntimeError(message)  # a refusal is known by its class, not by its words
    with pytest.raises(RuntimeError, match=re.escape(message)):
        main(["upscale", str(clip), str(tmp_path / "out.mp4")])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["upscale"],
        ["upscale", "a.mp4", "b.mp4", "--fps", "fast"],
        ["upscale", "a.mp4", "b.mp4", "--fps", "1/0"],
        ["upscale", "a.mp4", "b.mp4", "--fps", "-25"],
        ["upscale", "a.mp4", "b.mp4", "--resume", "--no-resume"],
        ["upscale", "a.mp4", "b.mp4", "--colour", "none"],
        ["upsacle", "a.mp4", "b.mp4"],
    ],
)
def test_arguments_that_make_no_sense_give_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: flashvsr" in capsys.readouterr().err


def test_every_option_of_the_command_is_one_of_the_function(monkeypatch):
    seen, parameters = {}, inspect.signature(flashvsr.upscale_file).parameters
    monkeypatch.setattr(flashvsr.upscale, "upscale_file", lambda *paths, **options: seen.update(options))
    assert main(["upscale", "a.mp4", "b.mp4", "--fps", "24000/1001"]) == 0
    assert set(parameters) - set(seen) == {"input", "output", "progress"}
    assert seen.pop("encoding") == EncodeOptions(fps=Fraction(24000, 1001))
    assert all(parameters[name].default == value for name, value in seen.items())


def test_options_of_loading_and_encoding_arrive(monkeypatch):
    seen = {}
    monkeypatch.setattr(flashvsr.upscale, "upscale_file", lambda *paths, **options: seen.update(options))
    loading = ["--impl", "gather", "--cache-gib", "3", "--detail", "0.6"]
    assert main(["upscale", "a.mp4", "b.mp4", *loading, "--crf", "20", "--no-resume"]) == 0
    assert seen["loading"] == LoadOptions(impl="gather", cache_gib=3, detail=0.6)
    assert seen["encoding"] == EncodeOptions(crf=20)
    assert seen["segment_seconds"] is None


@pytest.mark.parametrize("command", ["upscale", "live"])
@pytest.mark.parametrize(
    ("detail", "said"),
    [("0.5", "nano is a decoder alone, without a transformer: leave out detail=0.5"), ("2", "detail goes from 0, the")],
)
def test_a_detail_that_makes_no_sense_ends_the_run_before_it_begins(clip, tmp_path, capsys, command, detail, said):
    output = tmp_path / "out.mp4"
    assert main([command, str(clip), str(output), "--device", "cpu", "--detail", detail]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.glob("out*")) == []


def test_it_pipes(clip, tmp_path):
    with clip.open("rb") as source, (tmp_path / "out.mkv").open("wb") as target:
        child = _child(0, "upscale", "-", "-", stdin=source, stdout=target, stderr=subprocess.PIPE)
        _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert b"warning" not in errors
    counts = _count(tmp_path / "out.mkv")
    assert counts == _count(clip)


def test_a_reader_that_goes_away_is_a_line(clip):
    child = _child(0, "upscale", clip, "-", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 1
    assert b"Traceback" not in errors
    assert b"pipe" in errors


@pytest.mark.slow  # a process that imports torch and has to live for a while
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on_and_then_goes_on(model, clip, tmp_path, sent):
    command = ("upscale", str(clip), str(tmp_path / "out.mkv"), "--segment-seconds", "0.5")
    child = _child(0.7, *command, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "out.mkv.partial" / "journal.json"
    while not (journal.exists() and "segment-" in journal.read_text()):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(sent)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 130
    lines = [line for line in errors.splitlines() if not line.startswith("snapshot")]
    assert lines[0] == "flashvsr: interrupted"
    assert "--resume goes on from there" in lines[1]
    assert len(lines) == 2
    assert main([*command, "--resume", "--quiet"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]
    assert _count(tmp_path / "out.mkv")["video"] == 40


@pytest.mark.slow  # waits until the process is up, and then as long as it gives a thread that hangs
def test_interrupted_while_nobody_feeds_the_pipe_it_ends(tmp_path):
    child = _child(0, "upscale", "-", tmp_path / "out.mkv", stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(6)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == 130
    assert not list(tmp_path.iterdir())
