"""The example of a video transformer runs, and streams what it computes at once."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[1] / "examples" / "toy_video_transformer.py"


def test_the_toy_video_transformer_streams_what_it_computes_at_once(capsys):
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert "12 frames in 3 chunks" in printed
    assert float(printed.rsplit(" ", 1)[1]) < 1e-4


@torch.no_grad()
def test_the_toy_video_transformer_sees_the_past_of_its_stream():
    model = runpy.run_path(str(EXAMPLE))["ToyVideoTransformer"]()
    clip = torch.randn(1, 8, 9, 10, 64)
    other = torch.cat((torch.randn(1, 6, 9, 10, 64), clip[:, 6:]), 1)
    last = []
    for frames in (clip, other):
        cache = model.new_cache(1, 9, 10)
        last.append([model(chunk, cache) for chunk in frames.split([6, 2], 1)][-1])
    assert (last[0] - last[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="the cache holds"):
        model(torch.randn(1, 2, 20, 10, 64), cache)
