"""One evaluation: every clip, every seed, every method, in one run."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from flashvsr.data.degrade.resize import SCALE
from flashvsr.evaluate.clips import LowClip, ReferenceClip, resize
from flashvsr.evaluate.metrics import GROUND_TRUTH, KID_UNIT, ClipMeter
from flashvsr.evaluate.pooled_distance import PatchPool
from flashvsr.evaluate.scorers import VideoScorer

T = TypeVar("T")

Method = Callable[..., Tensor]
"""``method(lr, seed)``: LR frames `[T, 3, h, w]` to `[T, 3, 4h, 4w]`, both uint8. One whose attribute ``needs_truth``
is true is called as ``method(lr, seed, truth)``, with the frames that it should give; with ``needs_other``, as
``method(lr, seed, other)``, with the LR frames of the next clip (after the last that of the first). One with an
attribute ``compared_with``, the name of another method, is an ablation of it."""

BASELINES: dict[str, Method] = {
    "bicubic": lambda lr, seed: resize(lr, _target(lr), "bicubic"),
    "lanczos": lambda lr, seed: resize(lr, _target(lr), "lanczos"),
}


@dataclass(frozen=True)
class ClipScores:
    """What one method got on one clip, degraded with one seed.

    Attributes:
        clip: Name of the clip.
        seed: As given by the user; see :func:`clip_seed`.
        method: Name of the method.
        figures: By column; a column without a figure for this clip is not in it.
    """

    clip: str
    seed: int
    method: str
    figures: Mapping[str, float]


@dataclass
class ClipOutputs:
    """One clip with all that was made of it; for pictures.

    Attributes:
        clip: The ground truth, or the LR clip that has none.
        seed: As given by the user.
        lr: `[T, 3, h, w]`, uint8.
        outputs: By method, `[T, 3, 4h, 4w]`, uint8.
    """

    clip: ReferenceClip | LowClip
    seed: int
    lr: Tensor
    outputs: dict[str, Tensor]

    @property
    def truth(self) -> Tensor | None:
        """The ground truth `[T, 3, 4h, 4w]`, uint8, if there is one."""
        return self.clip.frames if isinstance(self.clip, ReferenceClip) else None


@dataclass
class Results:
    """What an evaluation found.

    Attributes:
        rows: One for each clip, seed and method, and for the ground truth itself.
        missing: Metrics that cannot be computed at all, and why.
        notes: What to know about figures, in sentences.
        compared_with: By ablation, the method that it is one of.
        skipped: Clips without a figure, by column and reason: ``{"warp_error: a single frame ...": ["a.png"]}``.
    """

    rows: list[ClipScores] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    compared_with: dict[str, str] = field(default_factory=dict)


def evaluate(
    clips: Iterable[ReferenceClip | LowClip | Callable[[], ReferenceClip | LowClip]],
    methods: Mapping[str, Method],
    degrade: Callable[[Tensor, int], Tensor] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    metrics: Sequence[str] = ("psnr", "ssim", "ms_ssim", "vmaf", "warping"),
    device: torch.device | str = "cpu",
    dover: VideoScorer | None = None,
    on_clip: Callable[[ClipOutputs], None] | None = None,
    workers: int = 1,
) -> Results:
    """Degrade every clip, upscale it with every method, and compare with the ground truth.

    Memory holds the frames of one clip, in 8 bits, once for each method, and the clips that are prepared ahead.

    Args:
        clips: Ground truth, or functions that read it, which are then called ahead of use. An LR clip is upscaled as
            it is, and judged by the metrics that need no ground truth.
        methods: What to compare, by name; put :data:`BASELINES` among them.
        degrade: ``degrade(frames, seed)``: `[T, 3, H, W]` to `[T, 3, H/4, W/4]`, both uint8; None for Pillow's
            bicubic.
        seeds: Every clip is degraded once for each; see :func:`clip_seed`.
        metrics: Names, of :data:`~flashvsr.evaluate.columns.COLUMNS`.
        device: Where metrics are computed.
        dover: Computes DOVER.
        on_clip: Called with each clip when it is done, to keep pictures of it.
        workers: Threads that read and degrade clips ahead; the result does not depend on them.

    Returns:
        All figures.

    Raises:
        ValueError: If a method or the degradation returns another size than expected, a metric is unknown, or a method
            needs another clip and there is none.
    """
    known = {name: other for name, method in methods.items() if (other := getattr(method, "compared_with", None))}
    results, pool = Results(compared_with=known), PatchPool(list(methods), GROUND_TRUTH)
    tasks = (partial(_prepared, clip, degrade, seeds) for clip in clips)
    prepared = _ahead(tasks, workers)
    with_others = any(getattr(method, "needs_other", False) for method in methods.values())
    for clip, small, others in _with_next(prepared) if with_others else ((*both, both[1]) for both in prepared):
        for seed, lr, other in zip(seeds, small, others, strict=True):
            outputs = _upscaled(clip, lr, clip_seed(clip.name, seed), methods, other)
            sample = ClipOutputs(clip, seed, lr, outputs)
            meter = ClipMeter(list(methods), [metric for metric in metrics if metric != "change"], device, dover)
            _measure(meter, sample)
            found = meter.result()
            for name in known if "change" in metrics else ():
                found[name]["change"] = _change(outputs[name], outputs[known[name]])
            for name, figures in found.items():
                if name in outputs or sample.truth is not None:
                    results.rows.append(ClipScores(clip.name, seed, name, figures))
            for column, reason in meter.notes.items():
                results.skipped.setdefault(f"{column}: {reason}", []).append(clip.name)
            if "pooled_kid" in metrics:
                pool.add(clip.name, meter.patches())
            if on_clip is not None:
                on_clip(sample)
    if "pooled_kid" in metrics:
        _add_pooled(results, pool)
    return results


def _add_pooled(results: Results, pool: PatchPool) -> None:
    """Put the distances over all clips into the rows."""
    found, notes = pool.result()
    results.notes += notes
    for number, row in enumerate(results.rows):
        if row.clip in found.get(row.method, {}):
            figures = {**row.figures, "pooled_kid": KID_UNIT * found[row.method][row.clip]}
            results.rows[number] = replace(row, figures=figures)


def _change(frames: Tensor, others: Tensor) -> float:
    """Root mean square difference of two clips of 8 bits."""
    squares = [(a.float() - b.float()).square().mean(dtype=torch.float64) for a, b in zip(frames, others, strict=True)]
    return float(torch.stack(squares).mean().sqrt())


def _with_next(
    prepared: Iterable[tuple[ReferenceClip | LowClip, list[Tensor]]],
) -> Iterator[tuple[ReferenceClip | LowClip, list[Tensor], list[Tensor]]]:
    """Each clip with the LR frames of the next, the last with those of the first."""
    first: list[Tensor] = []
    before: tuple[ReferenceClip | LowClip, list[Tensor]] | None = None
    count = 0
    for clip, small in prepared:
        if before is None:
            first = small
        else:
            yield *before, small
        before, count = (clip, small), count + 1
    if count == 1:
        raise ValueError("latents of another clip need at least two clips")
    if before is not None:
        yield *before, first


def _upscaled(
    clip: ReferenceClip | LowClip, lr: Tensor, seed: int, methods: Mapping[str, Method], other: Tensor
) -> dict[str, Tensor]:
    """What every method makes of the LR frames."""
    expected = [len(lr), 3, *_target(lr)]
    outputs = {}
    for name, method in methods.items():
        more = [clip.frames if isinstance(clip, ReferenceClip) else None] * getattr(method, "needs_truth", False)
        more += [other] * getattr(method, "needs_other", False)
        outputs[name] = method(lr, seed, *more)
    for name, output in outputs.items():
        if list(output.shape) != expected:
            raise ValueError(f"{name} gave {list(output.shape)} for {clip.name}, expected {expected}")
    return outputs


def _measure(meter: ClipMeter, sample: ClipOutputs) -> None:
    truth, outputs = sample.truth, sample.outputs
    for t in range(len(sample.lr)):
        meter.add(None if truth is None else truth[t], {name: output[t] for name, output in outputs.items()})
    meter.add_clip(outputs if truth is None else {**outputs, GROUND_TRUTH: truth})


def _prepared(
    clip: ReferenceClip | LowClip | Callable[[], ReferenceClip | LowClip],
    degrade: Callable[[Tensor, int], Tensor] | None,
    seeds: Sequence[int],
) -> tuple[ReferenceClip | LowClip, list[Tensor]]:
    """The clip, and its LR frames for every seed."""
    clip = clip if isinstance(clip, ReferenceClip | LowClip) else clip()
    if isinstance(clip, LowClip):
        return clip, [clip.lr] * len(seeds)
    expected = (len(clip.frames), 3, clip.frames.shape[2] // SCALE, clip.frames.shape[3] // SCALE)
    small = []
    for seed in seeds:
        lr = bicubic_lr(clip.frames) if degrade is None else degrade(clip.frames, clip_seed(clip.name, seed))
        if tuple(lr.shape) != expected:
            raise ValueError(f"the degradation gave {list(lr.shape)} for {clip.name}, expected {list(expected)}")
        small.append(lr)
    return clip, small


def _ahead(tasks: Iterable[Callable[[], T]], workers: int) -> Iterator[T]:
    """Results in order, while that many tasks run ahead."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[T]] = deque()
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def clip_seed(name: str, seed: int) -> int:
    """The seed of one clip, for its degradation and for noise: it does not depend on which other clips there are.

    Args:
        name: Of the clip.
        seed: As given by the user.

    Returns:
        A number of 62 bits.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]) >> 2


def bicubic_lr(frames: Tensor) -> Tensor:
    """`[T, 3, H, W]` to `[T, 3, H/4, W/4]` by Pillow's antialiased bicubic, both uint8."""
    return resize(frames, (frames.shape[2] // SCALE, frames.shape[3] // SCALE))


def _target(lr: Tensor) -> tuple[int, int]:
    return SCALE * lr.shape[2], SCALE * lr.shape[3]
