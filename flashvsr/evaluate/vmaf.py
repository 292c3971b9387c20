"""VMAF through torchmetrics and vmaf-torch, in windows of frames.

It is not libvmaf's own figure: the luma is full-range BT.601 in floating point and the model runs in PyTorch. Scores of
frames, which reach 110, are cut to 0..100 before they are averaged.
"""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 8


class Vmaf:
    """Mean VMAF of a clip, fed frame by frame: at most ten frames are held.

    The motion feature of a frame looks at its neighbours, so that windows overlap by one frame at either side and the
    result is that of the whole clip at once.
    """

    def __init__(self) -> None:
        self._truth: list[Tensor] = []
        self._ours: list[Tensor] = []
        self._lead = 0  # frames held that are scored already
        self._scores: list[Tensor] = []

    def add(self, truth: Tensor, ours: Tensor) -> None:
        """Take the next frame.

        Args:
            truth: The ground truth `[3, H, W]`, uint8.
            ours: The frame to judge, of the same shape.
        """
        self._truth.append(truth)
        self._ours.append(ours)
        if len(self._truth) == self._lead + WINDOW + 1:
            self._scores.append(self._score()[self._lead : -1])
            self._truth, self._ours, self._lead = self._truth[-2:], self._ours[-2:], 1

    def result(self) -> Tensor:
        """Mean over the frames so far, a 0-d tensor in float64; NaN without a frame."""
        scores = [*self._scores, self._score()[self._lead :]] if self._truth else [torch.empty(0)]
        return torch.cat(scores).double().mean()

    def _score(self) -> Tensor:
        """`[T]` of the frames held."""
        from torchmetrics.functional.video import video_multi_method_assessment_fusion

        ours, theirs = (torch.stack(frames, 1)[None].float() / 255 for frames in (self._ours, self._truth))
        scores = video_multi_method_assessment_fusion(ours, theirs)
        assert isinstance(scores, Tensor)
        return scores[0].clamp(0, 100)
