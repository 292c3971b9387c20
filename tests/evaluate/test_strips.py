"""Pictures side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flashvsr.evaluate import Box, liveliest, side_by_side, strip
from flashvsr.evaluate.strips import GAP, LABEL


def _frames() -> dict[str, torch.Tensor]:
    hr = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {"LR": hr[:, ::4, ::4].contiguous(), "ours": hr // 2, "HR": hr}


def test_a_strip_shows_the_very_pixels_of_each_column_enlarged():
    frames, box = _frames(), Box(8, 16, 32, 32)
    sheet = np.array(strip(frames, [box, Box(0, 0, 16, 32)], zoom=2))
    assert sheet.shape == (LABEL + 64 + GAP + 32 + GAP, 3 * (64 + GAP) + GAP, 3)
    for index, (name, repeat) in enumerate({"LR": 8, "ours": 2, "HR": 2}.items()):
        left = GAP + index * (64 + GAP)
        shown = torch.from_numpy(sheet[LABEL : LABEL + 64, left : left + 64]).permute(2, 0, 1)
        whole = frames[name].repeat_interleave(repeat, 1).repeat_interleave(repeat, 2)
        assert torch.equal(shown, whole[:, 16:80, 32:96]), name
    assert (sheet[:LABEL] < 128).any(), "labels are written"


def test_an_overview_outlines_the_parts():
    frames = {name: torch.zeros_like(frame) for name, frame in _frames().items()}
    sheet = np.array(strip(frames, [Box(16, 16, 32, 32)], zoom=3, overview=True))
    assert sheet.shape[0] == LABEL + 64 + GAP + 96 + GAP
    assert (sheet[LABEL : LABEL + 64] == (255, 210, 0)).all(2).any()


def test_a_part_outside_is_refused():
    with pytest.raises(ValueError, match="outside of a picture of 64x96"):
        strip(_frames(), [Box(40, 0, 32, 32)])
    with pytest.raises(ValueError, match="overview"):
        strip(_frames(), [])


def test_parts_are_read_from_text():
    assert Box.parse("1,2,30") == Box(1, 2, 30, 30) and Box.parse("1,2,30,40") == Box(1, 2, 30, 40)
    for text in ("1,2", "a,b,c", "0,0,0", "-1,0,5"):
        with pytest.raises(ValueError, match="top,left,size"):
            Box.parse(text)


def test_the_liveliest_part_is_where_the_detail_is():
    frame = torch.zeros(3, 64, 96, dtype=torch.uint8)
    frame[:, 32:64, 64:96] = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    assert liveliest(frame, 32, 1) == [Box(32, 64, 32, 32)]
    assert liveliest(frame, 500, 3) == [Box(0, 0, 64, 64)]


def test_clips_beside_each_other_have_even_sides():
    clips = {name: frame[None].expand(3, -1, -1, -1) for name, frame in _frames().items()}
    both = side_by_side(clips)
    assert both.shape == (3, 3, LABEL + 64, 3 * 96)
    assert torch.equal(both[1, :, LABEL:, 192:], clips["HR"][1])
