"""Streams of a network: read, upscaled and sent on, over the loopback device."""

from __future__ import annotations

import io
import signal
import socket
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import av
import numpy as np
import pytest
import torch

from flashvsr.cli import main
from flashvsr.upscale import LiveOptions, upscale_live
from flashvsr.upscale.pipeline import Channel
from flashvsr.video import LiveSource, VideoError, VideoInfo, VideoWriter, is_address, is_device
from tests.upscale.standin import StandIn, audio_packets, read_frames, write_clip

SIZE = (48, 64)
IMPATIENT = LiveOptions(patience=1.0, report_every=0.2)


def send(container, frames: range, *, pace: float = 0.0, stop: threading.Event | None = None) -> None:
    """A picture whose gray is its number, at 25 frames per second."""
    stream = container.add_stream("mpeg2video", rate=25)
    stream.height, stream.width = SIZE
    stream.pix_fmt = "yuv420p"
    stream.codec_context.gop_size, stream.codec_context.max_b_frames = 5, 0
    with container:
        for number in frames:
            if stop is not None and stop.is_set():
                break
            picture = np.full((*SIZE, 3), 16 + 2 * (number % 100), np.uint8)
            picture[::2, number % SIZE[1]] = 255
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
            time.sleep(pace)
        container.mux(stream.encode(None))


def transport_stream(frames: range) -> bytes:
    content = io.BytesIO()
    container = av.open(content, "w", format="mpegts")
    send(container, frames)
    return content.getvalue()


@pytest.fixture
def serve() -> Iterator:
    """Answers each request with the next piece, and closes the connection; 404 when there are no more."""
    servers = []

    def start(*pieces: bytes) -> str:
        rest = list(pieces)

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                if not rest:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t")
                self.end_headers()
                self.wfile.write(rest.pop(0))

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/live.ts"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def camera(port) -> Iterator[str]:
    """Sends pictures to an address until the test ends."""
    stop = threading.Event()
    container = av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts")
    sender = threading.Thread(target=send, args=(container, range(10_000)), kwargs={"pace": 0.02, "stop": stop})
    sender.start()
    yield f"udp://127.0.0.1:{port}"
    stop.set()
    sender.join()


def test_names_that_are_streams():
    assert all(map(is_address, ["udp://127.0.0.1:5", "rtsp://a/b", "http://x/y.mp4", "srt://h:1?mode=caller"]))
    assert not any(map(is_address, ["a.mp4", "C:\\a.mp4", "a:b.mp4", "example:", "-", "dir/a.mp4"]))
    assert all(map(is_device, ["v4l2:/dev/video0", "lavfi:testsrc2=size=64x48"]))
    assert not any(map(is_device, ["a.mp4", "v4l2:", "a:b.mp4", "example:", "C:\\a.mp4"]))


def test_every_frame_of_a_stream_over_http_comes_through_with_its_time(serve, tmp_path):
    result = upscale_live(
        serve(transport_stream(range(60))), tmp_path / "out.mkv", model=StandIn(), scale=2, live=IMPATIENT, quiet=True
    )
    frames, times = read_frames(tmp_path / "out.mkv")
    assert (result.frames, result.dropped, len(frames), frames.shape[2:]) == (60, 0, 60, (96, 128))
    assert times == [Fraction(n, 25) for n in range(60)]


def test_a_stream_that_breaks_off_is_connected_to_again(serve, tmp_path, capsys):
    address = serve(transport_stream(range(10, 40)), transport_stream(range(40, 70)))
    result = upscale_live(address, tmp_path / "out.mkv", model=StandIn(), scale=1, live=IMPATIENT)
    assert result.connections > 2
    _, times = read_frames(tmp_path / "out.mkv")
    assert times == [Fraction(n, 25) for n in range(60)]
    assert "broke off (" in capsys.readouterr().err


def test_a_clock_that_starts_anew_goes_on_where_the_stream_broke_off(serve, tmp_path):
    address = serve(transport_stream(range(30)), transport_stream(range(30)))
    upscale_live(address, tmp_path / "out.mkv", model=StandIn(), scale=1, live=IMPATIENT, quiet=True)
    _, times = read_frames(tmp_path / "out.mkv")
    assert times == [Fraction(n, 25) for n in range(60)]


def test_frames_leave_over_udp_while_the_stream_goes_on(camera, tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen: list[av.VideoFrame] = []
    stop = threading.Event()

    def watch() -> None:
        with av.open(f"udp://127.0.0.1:{port}", timeout=(20, 20)) as container:
            for frame in container.decode(video=0):
                seen.append(frame)
                if len(seen) == 30:
                    stop.set()  # the input would go on for minutes
                    return

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = upscale_live(
        camera, f"udp://127.0.0.1:{port}", model=StandIn(), scale=2, live=IMPATIENT, stop=stop, quiet=True
    )
    watcher.join()
    assert result.frames >= 30
    assert (seen[0].width, seen[0].height) == (128, 96)
    assert 0 < result.latency < 60


def test_a_model_that_is_too_slow_drops_whole_chunks_and_says_so(camera, tmp_path, capsys):
    stop = threading.Event()
    live = LiveOptions(realtime=True, patience=5, report_every=0.2)
    model = StandIn(seconds_per_step=0.7)
    threading.Timer(2.5, stop.set).start()
    result = upscale_live(camera, tmp_path / "out.ts", model=model, scale=1, live=live, stop=stop)
    assert result.dropped > 0
    assert result.dropped % 8 == 0
    printed = capsys.readouterr().err
    assert "slower than real time" in printed
    assert "latency" in printed
    frames, times = read_frames(tmp_path / "out.ts")
    assert len(frames) == result.frames
    gaps = {round((b - a) * 25) for a, b in pairwise(times)}
    assert max(gaps) > 8


def test_the_oldest_chunk_makes_room_where_the_receiver_is_slow():
    dropped: list[int] = []
    channel: Channel[int] = Channel(6, dropping=3, on_drop=dropped.append)
    for number in range(10):
        channel.put(number)
    channel.end()
    assert list(channel) == [6, 7, 8, 9]
    assert dropped == [3, 3]


def test_ctrl_c_ends_the_output_properly(camera, tmp_path, monkeypatch):
    output = tmp_path / "out.mp4"
    monkeypatch.setattr("flashvsr.models.loading.load", lambda *args, **options: StandIn())
    threading.Timer(2, signal.raise_signal, [signal.SIGINT]).start()
    assert main(["live", camera, str(output), "--scale", "1", "--patience", "5", "--quiet"]) == 0
    frames, times = read_frames(output)  # an MP4 that was cut off cannot be read
    assert len(frames) > 20
    assert times == sorted(times)


@pytest.mark.parametrize("protocol", ["tcp", "http"])
def test_frames_and_sound_reach_a_listener(tmp_path, monkeypatch, port, protocol):
    monkeypatch.chdir(tmp_path)
    source = write_clip(tmp_path / "in.mp4")
    address = f"{protocol}://127.0.0.1:{port}/live"
    kinds: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        ready.set()
        with av.open(address, options={"listen": "1"}, timeout=(20, 20)) as container:
            kinds.extend(packet.stream.type for packet in container.demux() if packet.size)

    listener = threading.Thread(target=listen)
    listener.start()
    ready.wait()
    for attempt in range(50):
        try:
            upscale_live(str(source), address, model=StandIn(), scale=1, live=IMPATIENT, quiet=True)
            break
        except VideoError as error:  # the listener is not there yet
            if "refused" not in str(error) or attempt == 49:
                raise
            time.sleep(0.1)
    listener.join()
    assert kinds.count("video") == 60
    assert kinds.count("audio") == len(audio_packets(source))
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4"}


def test_sound_goes_along_and_a_file_can_be_the_input(tmp_path):
    source = write_clip(tmp_path / "in.mp4")
    upscale_live(str(source), tmp_path / "out.mkv", model=StandIn(), scale=1, live=IMPATIENT, quiet=True)
    assert len(read_frames(tmp_path / "out.mkv")[0]) == 60
    assert audio_packets(tmp_path / "out.mkv") == audio_packets(source)


def test_a_device_can_be_the_input_and_a_playlist_the_output(tmp_path):
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    result = upscale_live(
        "lavfi:testsrc2=size=64x48:rate=25",
        tmp_path / "out.m3u8",
        model=StandIn(),
        scale=1,
        live=IMPATIENT,
        stop=stop,
        quiet=True,
    )
    assert result.frames > 0
    playlist = (tmp_path / "out.m3u8").read_text()
    assert "#EXT-X-ENDLIST" in playlist
    assert any((tmp_path / name).exists() for name in playlist.splitlines() if name.endswith(".ts"))


@pytest.mark.parametrize(
    ("input", "output", "message"),
    [
        ("http://127.0.0.1:1/a.ts", "out.ts", "Connection refused"),
        ("srt://127.0.0.1:1", "out.ts", "has no srt\nuse udp"),
        ("v4l2:/dev/nothing", "out.ts", "has no v4l2|No such file"),
        ("lavfi:testsrc2=size=64x48", "srt://127.0.0.1:1", "has no srt\nuse udp"),
        ("lavfi:testsrc2=size=64x48", "gopher://127.0.0.1:1", "no container is usual for gopher"),
    ],
)
def test_what_cannot_be_reached_is_said_with_a_way_out(tmp_path, monkeypatch, input, output, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match=message):
        upscale_live(input, output, model=StandIn(), live=IMPATIENT, quiet=True)


def test_an_existing_file_and_images_are_refused(tmp_path):
    (tmp_path / "out.ts").write_bytes(b"old")
    with pytest.raises(FileExistsError, match="--overwrite"):
        upscale_live("lavfi:testsrc2", tmp_path / "out.ts", model=StandIn())
    with pytest.raises(ValueError, match="stands for images"):
        upscale_live("lavfi:testsrc2", tmp_path / "out", model=StandIn())
    with pytest.raises(ValueError, match="expected positive seconds"):
        upscale_live("lavfi:testsrc2", tmp_path / "b.ts", model=StandIn(), live=LiveOptions(patience=0))


def test_a_live_encoder_keeps_no_frame_back(tmp_path):
    info = VideoInfo(64, 48, Fraction(25))
    with VideoWriter(tmp_path / "a.ts", width=64, height=48, info=info, live=True) as writer:
        for number in range(3):
            writer.write(torch.zeros(3, 48, 64), Fraction(number, 25))
        assert writer._sink._began is not None  # a packet is there before the end, after one frame more


def test_upscale_refuses_streams_and_names_the_command(capsys, tmp_path):
    assert main(["upscale", "udp://127.0.0.1:5", str(tmp_path / "a.mp4")]) == 1
    assert "use flashvsr live" in capsys.readouterr().err


def test_a_stream_states_no_length(serve):
    source = LiveSource(serve(transport_stream(range(60))), patience=1.0)
    assert source.info.frames is None
    source.close()
