"""The stream on a stand-in system whose output shows every misplaced frame, pixel, chunk of noise and state."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.streaming import Geometry, Stream, chunk_noise, resize_bicubic, upscale


class TailState:
    """What StandIn carries from chunk to chunk; like a real state it can be used once."""

    def __init__(self, tail, total):
        self.tail, self.total, self.used = tail, total, False

    def state_dict(self):
        return {"tail": self.tail, "total": self.total}


class StandIn:
    """Returns its LR frames, `lookahead` frames late, plus `gain` times its noise and a sum over all frames so far."""

    def __init__(self, gain=0.0, multiple=128):
        self.geometry = Geometry(multiple=multiple)
        self.gain = gain
        self.calls = []

    def step(self, lr, noise, state):
        assert state is None or not state.used, "state used twice"
        g = self.geometry
        self.calls.append((tuple(lr.shape), tuple(noise.shape)))
        total = torch.zeros(()) if state is None else state.total
        seen = lr if state is None else torch.cat([state.tail, lr], 2)
        frames = seen[:, :, : seen.shape[2] - g.lookahead].clone()
        if state is not None:
            state.used = True
        if self.gain:
            first = 0 if state is not None else 1  # latent 0 makes one frame, the others four
            index = [(t + 3 * first) // 4 for t in range(frames.shape[2])]
            cells = noise[:, :3, index].repeat_interleave(8, 3).repeat_interleave(8, 4)
            total = total + lr.mean()
            frames = frames + self.gain * (cells + total)
        return frames, TailState(seen[:, :, -g.lookahead :].clone(), total)

    def load_state(self, saved):
        return TailState(saved["tail"], saved["total"])


class PlainStandIn(StandIn):
    """The same with a state of plain containers and no `load_state`."""

    load_state = None

    def step(self, lr, noise, state):
        frames, state = super().step(lr, noise, None if state is None else TailState(*state["kept"]))
        return frames, {"kept": (state.tail, state.total)}


def clip(frames, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


def run(system, video, piece, **options):
    stream = Stream(system, height=video.shape[2], width=video.shape[3], **options)
    return torch.cat([*(stream.push(part) for part in video.split(piece)), stream.finish()])


def pillow(frames, size):
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames]
    resized = [np.array(image.resize((size[1], size[0]), Image.Resampling.BICUBIC)) for image in images]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


def assert_levels_equal(a, b, tolerated=1e-3):
    difference = (a.int() - b.int()).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < tolerated


# Size and number of frames


@pytest.mark.parametrize(("size", "counts"), [((17, 33), range(1, 61)), ((100, 180), (1, 22)), ((180, 320), (2,))])
def test_every_frame_and_pixel_comes_out_as_the_bicubic_upsample(size, counts):
    video = clip(max(counts), *size)
    expected = resize_bicubic(video, (4 * size[0], 4 * size[1]))
    for count in counts:
        assert torch.equal(run(StandIn(), video[:count], 60), expected[:count]), count


@pytest.mark.slow  # 60 clips of up to 60 frames at each of three sizes; at scale 1, or it would take ten times as long
@pytest.mark.parametrize("size", [(100, 180), (180, 320), (270, 480)])
def test_every_frame_count_comes_out_whole_at_larger_sizes(size):
    video = clip(60, *size)
    expected = run(StandIn(), video, 60, scale=1)
    for count in range(1, 61):
        assert torch.equal(run(StandIn(), video[:count], 60, scale=1), expected[:count]), count


@pytest.mark.parametrize("scale", [1, 1.5, 2, 3, 4, 5.3])
def test_other_scales_give_the_rounded_size_by_resizing_around_the_4x_core(scale):
    video = clip(3, 37, 50)
    size = (round(37 * scale), round(50 * scale))
    out = run(StandIn(), video, 2, scale=scale)
    assert tuple(out.shape) == (3, 3, *size)
    core = pillow(video, (round(37 * scale / 4), round(50 * scale / 4)))
    assert_levels_equal(out, pillow(core, size), tolerated=5e-3)


@pytest.mark.parametrize("size", [(16, 16), (17, 90), (48, 64)])
def test_the_target_is_padded_by_mirroring_at_the_bottom_and_the_right(size):
    seen = []

    class Watching(StandIn):
        def step(self, lr, noise, state):
            seen.append(lr)
            return super().step(lr, noise, state)

    video = clip(1, *size)
    run(Watching(), video, 1)
    height, width = 4 * size[0], 4 * size[1]
    padded = np.pad(
        resize_bicubic(video, (height, width))[0], [(0, 0), (0, -height % 128), (0, -width % 128)], mode="reflect"
    )
    assert torch.equal(seen[0][0, :, 0], torch.from_numpy(padded).float() / 255 * 2 - 1)


def test_chunks_have_the_documented_shapes_and_run_as_soon_as_their_frames_are_there():
    system = StandIn()
    stream = Stream(system, height=20, width=40)
    returned = [len(stream.push(frame[None])) for frame in clip(41, 20, 40)]
    assert [(n, count) for n, count in enumerate(returned, 1) if count] == [(25, 21), (33, 8), (41, 8)]
    assert len(stream.finish()) == 4
    assert system.calls[0] == ((1, 3, 25, 128, 256), (1, 16, 6, 16, 32))
    assert set(system.calls[1:]) == {((1, 3, 8, 128, 256), (1, 16, 2, 16, 32))}


@pytest.mark.parametrize(("count", "chunks"), [(1, 1), (21, 1), (22, 2), (25, 2), (29, 2), (30, 3), (37, 3), (38, 4)])
def test_finish_runs_no_more_chunks_than_the_frames_need(count, chunks):
    system = StandIn()
    run(system, clip(count, 16, 16), 5)
    assert len(system.calls) == chunks


def test_a_stream_without_frames_ends_empty():
    stream = Stream(StandIn(), height=20, width=30)
    assert stream.push(clip(0, 20, 30)).shape == (0, 3, 80, 120)
    end = stream.finish()
    assert end.shape == (0, 3, 80, 120)
    assert end.dtype == torch.uint8


def test_upscale_of_a_clip_equals_the_stream():
    video = clip(30, 18, 20)
    assert torch.equal(upscale(StandIn(0.1), video, seed=3), run(StandIn(0.1), video, 4, seed=3))
    assert upscale(StandIn(), video[:0], scale=2).shape == (0, 3, 36, 40)


def test_padding_is_made_known_to_a_step_that_asks_for_the_content():
    class Asking(StandIn):
        def step(self, lr, noise, state, content):
            assert content == (68, 132)
            return super().step(lr, noise, state)

    assert len(run(Asking(), clip(2, 17, 33), 1)) == 2


def test_frames_are_shown_as_they_come_and_returned_together():
    class InParts(StandIn):
        def step(self, lr, noise, state, on_frames=None):
            frames, state = super().step(lr, noise, state)
            for part in frames.split([1, *[4] * 5] if frames.shape[2] == 21 else [4, 4], 2) if on_frames else ():
                on_frames(part)
            return frames, state

    video = clip(33, 18, 20)
    expected = run(StandIn(0.1), video, 33, seed=3)
    for system, lengths in ((InParts(0.1), [1, 4, 4, 4, 4, 4, 4, 4]), (StandIn(0.1), [21, 8])):
        shown = []
        stream = Stream(system, height=18, width=20, seed=3)
        returned = stream.push(video, on_frames=shown.append)
        assert [len(part) for part in shown] == lengths
        assert torch.equal(torch.cat(shown), returned)
        assert torch.equal(torch.cat([returned, stream.finish()]), expected)


# Values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_frames_keep_dtype_and_range_and_are_not_rounded(dtype):
    video = (clip(2, 20, 24).to(torch.float32) / 255).to(dtype)
    out = run(StandIn(), video, 1)
    assert out.dtype == dtype
    assert out.min() >= 0
    assert out.max() <= 1
    expected = resize_bicubic(video.float(), (80, 96)).clamp(0, 1)
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(dtype, 1e-6)
    torch.testing.assert_close(out.float(), expected, atol=tolerance, rtol=0)
    if dtype == torch.float32:
        assert (out * 255 - (out * 255).round()).abs().max() > 0.4


def test_bfloat16_systems_still_return_every_uint8_level():
    class Half(StandIn):
        dtype = torch.bfloat16

    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    video = ramp.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(run(Half(), video, 1), resize_bicubic(video, (128, 128)))


def test_returned_frames_are_ordinary_tensors():
    out = run(StandIn(), clip(2, 16, 16), 1)
    out.add_(1)
    assert not out.is_inference()


# Pieces, noise, saving


@pytest.mark.parametrize("piece", [3, 7, 8, 50])
def test_piece_sizes_do_not_change_a_bit(piece):
    video = clip(47, 17, 33)
    assert torch.equal(run(StandIn(0.1), video, piece), run(StandIn(0.1), video, 1))


def test_seeds_change_the_output_and_repeat_it():
    video = clip(30, 16, 16)
    assert torch.equal(run(StandIn(0.1), video, 7, seed=5), run(StandIn(0.1), video, 7, seed=5))
    assert not torch.equal(run(StandIn(0.1), video, 7, seed=5), run(StandIn(0.1), video, 7, seed=6))


def test_injected_noise_of_the_seed_equals_the_seed():
    geometry = Geometry()
    noise = torch.cat([chunk_noise(geometry, 9, chunk, (128, 128)) for chunk in range(3)], 2)
    video = clip(35, 17, 20)
    assert torch.equal(run(StandIn(0.1), video, 6, noise=noise), run(StandIn(0.1), video, 6, seed=9))


@pytest.mark.parametrize("system_class", [StandIn, PlainStandIn])
def test_saved_and_resumed_at_every_push_equals_uninterrupted(system_class):
    video = clip(45, 16, 19)
    whole = run(system_class(0.1), video, 5, seed=2, scale=3)
    stream = Stream(system_class(0.1), height=16, width=19, seed=2, scale=3)
    done = []
    for piece in video.split(5):
        file = io.BytesIO()
        torch.save(stream.state_dict(), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        stream = Stream(system_class(0.1), height=16, width=19, seed=2, scale=3, state=saved)
        done.append(stream.push(piece))
    last = Stream(system_class(0.1), height=16, width=19, seed=2, scale=3, state=stream.state_dict())
    done.append(last.finish())
    assert torch.equal(torch.cat(done), whole)
    assert (last.frames_in, last.frames_out) == (45, 45)


def test_a_snapshot_outlives_the_streams_it_starts():
    video = clip(60, 16, 16)
    stream = Stream(StandIn(0.1), height=16, width=16)
    stream.push(video[:30])
    saved = stream.state_dict()
    rest = torch.cat([stream.push(video[30:]), stream.finish()])
    for _ in range(2):
        again = Stream(StandIn(0.1), height=16, width=16, state=saved)
        assert torch.equal(torch.cat([again.push(video[30:]), again.finish()]), rest)


def test_two_streams_of_one_system_do_not_touch_each_other():
    system, videos = StandIn(0.1), [clip(40, 16, 16, seed) for seed in range(2)]
    alone = [run(StandIn(0.1), video, 40) for video in videos]
    streams = [Stream(system, height=16, width=16) for _ in videos]
    parts = [[], []]
    for t in range(0, 40, 4):
        for stream, video, part in zip(streams, videos, parts, strict=True):
            part.append(stream.push(video[t : t + 4]))
    for stream, part, expected in zip(streams, parts, alone, strict=True):
        assert torch.equal(torch.cat([*part, stream.finish()]), expected)


def test_waiting_frames_do_not_follow_the_callers_buffer():
    video = clip(10, 16, 16)
    buffer, stream = torch.empty_like(video[:1]), Stream(StandIn(), height=16, width=16)
    for frame in video:
        buffer.copy_(frame)
        stream.push(buffer)
    assert torch.equal(stream.finish(), resize_bicubic(video, (64, 64)))


# VmHWM counts from the start of the program; ru_maxrss would begin with what the parent had.
MEMORY_SCRIPT = """
import re, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_stream import Stream, StandIn, clip
stream, piece = Stream(StandIn(0.1, multiple=16), height=32, width=48), clip(10, 32, 48)
for _ in range(int(sys.argv[2]) // 10):
    stream.push(piece)
stream.finish()
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow  # two fresh processes, each of which imports torch
def test_memory_of_3000_frames_is_that_of_300(request):
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc: that it does not grow was not checked")
    folder = str(request.path.parent)
    peaks = [
        int(subprocess.run([sys.executable, "-c", MEMORY_SCRIPT, folder, n], check=True, capture_output=True).stdout)
        for n in ("300", "3000")
    ]
    assert peaks[1] < 1.05 * peaks[0]


# Errors


@pytest.mark.parametrize("size", [(15, 64), (64, 15)])
def test_frames_under_16_pixels_are_refused(size):
    with pytest.raises(ValueError, match=f"at least 16 x 16 pixels, got {size[0]} x {size[1]}"):
        Stream(StandIn(), height=size[0], width=size[1])


@pytest.mark.parametrize("scale", [0, 0.5, -4, float("nan"), float("inf")])
def test_scales_below_one_are_refused(scale):
    with pytest.raises(ValueError, match="scale must be a finite number of at least 1"):
        Stream(StandIn(), height=20, width=20, scale=scale)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (clip(1, 20, 21), r"frames must be \[T, 3, 20, 20\] in this stream, got \[1, 3, 20, 21\]"),
        (clip(1, 20, 20)[0], r"frames must be \[T, 3, 20, 20\]"),
        (clip(1, 20, 20).permute(0, 2, 3, 1), r"got \[1, 20, 20, 3\]"),
        (clip(1, 20, 20).int(), "uint8, or floating point"),
        (clip(1, 20, 20).float() / 255, "began with torch.uint8 frames, got torch.float32"),
    ],
)
def test_frames_unlike_those_before_are_refused(frames, message):
    stream = Stream(StandIn(), height=20, width=20)
    stream.push(clip(1, 20, 20))
    with pytest.raises(ValueError, match=message):
        stream.push(frames)


@pytest.mark.parametrize(
    "frames",
    [
        clip(1, 20, 20).float(),
        clip(1, 20, 20).float() / 127.5 - 1,
        torch.full((1, 3, 20, 20), 0.5).index_fill(3, torch.tensor(7), torch.nan),
        torch.full((1, 3, 20, 20), 0.5).index_fill(3, torch.tensor(7), torch.inf),
    ],
)
def test_floating_point_frames_in_another_range_are_refused(frames):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got"):
        Stream(StandIn(), height=20, width=20).push(frames)


def test_a_finished_stream_takes_nothing_more():
    stream = Stream(StandIn(), height=20, width=20)
    stream.push(clip(1, 20, 20))
    stream.finish()
    with pytest.raises(RuntimeError, match="finished"):
        stream.push(clip(1, 20, 20))
    with pytest.raises(RuntimeError, match="finished"):
        stream.finish()


@pytest.mark.parametrize("shape", [(1, 16, 6, 16, 15), (1, 3, 6, 16, 16), (2, 16, 6, 16, 16), (16, 6, 16, 16)])
def test_injected_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"noise must be \[1, 16, latents, 16, 16\]"):
        Stream(StandIn(), height=20, width=20, noise=torch.zeros(shape))


def test_injected_noise_that_is_too_short_is_refused_when_it_runs_out():
    stream = Stream(StandIn(), height=20, width=20, noise=torch.zeros(1, 16, 7, 16, 16))
    stream.push(clip(25, 20, 20))
    with pytest.raises(ValueError, match="holds 7 latent frames, but the stream has reached chunk 1, which needs 8"):
        stream.push(clip(8, 20, 20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed = 0, this one 1"),
        ({"scale": 2}, "scale = 4.0, this one 2.0"),
        ({"height": 24}, "height = 20, this one 24"),
        ({"noise": torch.zeros(1, 16, 6, 16, 16)}, "noise = from the seed, this one given"),
    ],
)
def test_resuming_with_other_settings_names_both_values(change, message):
    saved = Stream(StandIn(), height=20, width=20).state_dict()
    with pytest.raises(ValueError, match=message):
        Stream(StandIn(), **{"height": 20, "width": 20, **change}, state=saved)


def test_a_state_that_cannot_be_saved_is_named():
    class Odd(StandIn):
        def step(self, lr, noise, state):
            return super().step(lr, noise, None)[0], {"handle": object()}

    stream = Stream(Odd(), height=16, width=16)
    stream.push(clip(25, 16, 16))
    with pytest.raises(TypeError, match=r"a object in the system's state cannot be saved: give it a state_dict\(\)"):
        stream.state_dict()


def test_a_step_that_returns_too_few_frames_is_named():
    class Short(StandIn):
        def step(self, lr, noise, state):
            frames, state = super().step(lr, noise, state)
            return frames[:, :, 1:], state

    with pytest.raises(ValueError, match=r"\[1, 3, 20, 128, 128\], expected \[1, 3, 21, 128, 128\]"):
        run(Short(), clip(1, 16, 16), 1)


def test_a_system_that_wants_it_gives_frames_in_parts_always_and_none_may_be_missing():
    class InParts(StandIn):
        in_parts = True
        missing = 0

        def step(self, lr, noise, state, on_frames):
            frames, state = super().step(lr, noise, state)
            for part in frames[:, :, self.missing :].split(4, 2):
                on_frames(part)
            return frames[:, :, :0], state

    system, video = InParts(0.1), clip(33, 18, 20)
    assert torch.equal(run(system, video, 33), run(StandIn(0.1), video, 33))
    system.missing = 1
    with pytest.raises(ValueError, match="step gave on_frames 20 frames, expected 21"):
        run(system, video, 33)
