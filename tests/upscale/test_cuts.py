"""A stream that starts anew at scene cuts."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from flashvsr import upscale_file
from flashvsr.streaming import Geometry
from flashvsr.upscale import ClipOptions
from tests.upscale.standin import StandIn, read_frames

AUTO = ClipOptions(cuts="auto")
SCENES = (30, 12, 40, 3)  # frames


class FrameByFrame(StandIn):
    """A stand-in that works as a decoder without a transformer: one frame first, then four."""

    geometry = Geometry(
        first_frames=1, next_frames=4, first_latents=1, next_latents=1, multiple=8, lookahead=0, latent_channels=0
    )

    def step(self, lr, noise, state):
        self.steps -= 1
        if self.error is not None and self.steps < 0:
            raise self.error
        mean = torch.zeros(3) if state is None else state
        mean = 0.5 * mean + 0.5 * lr.mean((0, 2, 3, 4))
        return lr + 0.2 * mean[:, None, None, None], mean


def _write(path: Path, *scenes: int) -> Path:
    """A lossless video of scenes, by their place in SCENES."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=25)
        video.height, video.width, video.pix_fmt = 32, 48, "bgr0"
        for scene in scenes:
            for number in range(SCENES[scene]):
                picture = np.full((32, 48, 3), (60 * scene + number, 200 - 60 * scene, 70 * (scene % 2)), np.uint8)
                picture[8:12, number % 48] = 255
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(video.encode(None))
    return path


@pytest.fixture(scope="module")
def joined(tmp_path_factory) -> Path:
    return _write(tmp_path_factory.mktemp("joined") / "in.mkv", *range(len(SCENES)))


@pytest.mark.parametrize("model", [StandIn, FrameByFrame])
def test_every_scene_comes_out_as_it_would_alone(tmp_path, joined, model):
    result = upscale_file(joined, tmp_path / "all", model=model(), scale=2, clip=AUTO, segment_seconds=0.3, quiet=True)
    alone = []
    for scene in range(len(SCENES)):
        source = _write(tmp_path / f"{scene}.mkv", scene)
        upscale_file(source, tmp_path / str(scene), model=model(), scale=2, quiet=True)
        alone.append(read_frames(tmp_path / str(scene))[0])
    frames = read_frames(tmp_path / "all")[0]
    assert result.frames == sum(SCENES)
    assert torch.equal(frames, torch.cat(alone))
    upscale_file(joined, tmp_path / "off", model=model(), scale=2, clip=ClipOptions(cuts="off"), quiet=True)
    assert not torch.equal(read_frames(tmp_path / "off")[0], frames)


@pytest.mark.parametrize(
    ("model", "steps"), [*((StandIn, steps) for steps in (2, 3, 5, 6, 8)), (FrameByFrame, 6), (FrameByFrame, 10)]
)
def test_a_run_that_is_interrupted_near_a_cut_goes_on_to_the_same_frames(tmp_path, joined, model, steps):
    options = {"scale": 2, "clip": AUTO, "segment_seconds": 0.25, "quiet": True}
    upscale_file(joined, tmp_path / "whole.mkv", model=model(), **options)
    with pytest.raises(KeyboardInterrupt) as caught:
        upscale_file(joined, tmp_path / "out.mkv", model=model(error=KeyboardInterrupt(), steps=steps), **options)
    assert steps < 3 or "frames are kept" in caught.value.__notes__[0]
    upscale_file(joined, tmp_path / "out.mkv", model=model(), resume=True, **options)
    frames, times = read_frames(tmp_path / "out.mkv")
    assert torch.equal(frames, read_frames(tmp_path / "whole.mkv")[0])
    assert times == [Fraction(number, 25) for number in range(sum(SCENES))]


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="cuts must be 'auto' or 'off', got 'on'"):
        ClipOptions(cuts="on")
