"""What ``flashvsr evaluate`` writes: a folder that appears when it is complete, pictures, and side-by-side videos."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from flashvsr.evaluate import Box, ClipOutputs, liveliest, side_by_side, strip
from flashvsr.video import VideoInfo, VideoWriter

RESULTS = "results.json"
WRITTEN = (RESULTS, "results.md", "results.csv", "suite.csv")


@contextmanager
def results_folder(out: Path | None, overwrite: bool) -> Iterator[Path | None]:
    """A folder whose files come into `out` when all went well, and are gone otherwise; other files in `out` stay.

    Raises:
        FileExistsError: If `out` exists, unless it may be overwritten and holds results.
    """
    if out is None:
        yield None
        return
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another folder, or pass --overwrite")
    if out.exists() and not (out / RESULTS).is_file():
        raise FileExistsError(f"{out} exists and holds no results of an evaluation: --overwrite does not replace it")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out if out.exists() else out.parent))
    try:
        new = work / "new"
        new.mkdir(mode=0o755)
        yield new
        if out.exists():
            _replace_results(out, new)
        else:
            new.rename(out)
    finally:
        shutil.rmtree(work)


def _replace_results(out: Path, new: Path) -> None:
    """Replace earlier results; pictures that only the earlier ones have stay."""
    for name in WRITTEN:
        (out / name).unlink(missing_ok=True)
    for file in [path for path in sorted(new.rglob("*")) if path.is_file()]:
        target = out / file.relative_to(new)
        target.parent.mkdir(exist_ok=True)
        file.replace(target)


def chosen_parts(said: list[str], clips: Iterable[str]) -> dict[str, dict[int, list[Box]]]:
    """Parts to show, by clip and frame.

    Raises:
        ValueError: If one is not understood, or names no clip.
    """
    known, parts = list(clips), dict[str, dict[int, list[Box]]]()
    for text in said:
        name, *rest = text.rsplit(":", 2)
        if len(rest) != 2 or not rest[0].isdecimal():
            raise ValueError(f"--part is CLIP:FRAME:TOP,LEFT,SIZE, got {text!r}")
        if name not in known:
            raise ValueError(f"--part {text}: there is no clip {name!r}; there are {', '.join(known)}")
        parts.setdefault(name, {}).setdefault(int(rest[0]), []).append(Box.parse(rest[1]))
    return parts


def write_pictures(folder: Path, sample: ClipOutputs, parts: Mapping[int, list[Box]], args: argparse.Namespace) -> None:
    """Write what can be seen of one clip: LR, methods and, where there is one, the ground truth."""
    shown = {name: frames for name, frames in sample.outputs.items() if name != "lanczos"}
    truth = {} if sample.truth is None else {"HR": sample.truth}
    columns = {"LR": sample.lr, **shown, **truth}
    judge = next(reversed(columns.values()))
    name = sample.clip.name if len(args.seeds) == 1 else f"{sample.clip.name}_seed{sample.seed}"

    def save(kind: str, name: str, frame: int, boxes: list[Box], **options: Any) -> None:
        if frame >= len(judge):
            raise ValueError(f"{sample.clip.name} has {len(judge)} frames, there is no frame {frame} to show")
        (folder / kind).mkdir(exist_ok=True)
        still = {label: frames[frame] for label, frames in columns.items()}
        strip(still, boxes, zoom=args.zoom, **options).save(folder / kind / f"{name}.png")

    middle = len(judge) // 2
    save("pictures", name, middle, liveliest(judge[middle], 128, 3), overview=True)
    for frame, boxes in parts.items():
        save("strips", f"{name}_{frame}", frame, boxes)
    if args.video and sample.clip.info is not None:
        named = {"LR, bicubic" if label == "bicubic" else label: frames for label, frames in shown.items()}
        _write_video(folder / "videos", name, sample.clip.info, {**named, **truth})


def _write_video(folder: Path, name: str, source: VideoInfo, columns: Mapping[str, Tensor]) -> None:
    frames, rate = side_by_side(columns), source.frame_rate or Fraction(25)
    height, width = frames.shape[-2:]
    info = replace(source, width=width, height=height, time_base=1 / rate)
    folder.mkdir(exist_ok=True)
    with VideoWriter(folder / f"{name}.mp4", width=width, height=height, info=info) as writer:
        for number, frame in enumerate(frames):
            writer.write(frame, number / rate)
