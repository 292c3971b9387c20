"""What a stream keeps of one scene in the next, whether starting anew at cuts helps, and what shows at chunk borders.

Clips are shrunk to 160 rows, which is the truth, and these to a quarter, which is upscaled. Pairs of clips are joined.
Each is upscaled as one stream, and with a stream that starts anew at the cuts that are found. For the first frames
after the cut: PSNR, the warping error along the motion of the truth (1e-4), and ghosting, the share a of the last frame
before the cut in a frame (1 - a) truth + a before, by least squares. Whole clips tell false cuts, and the warping error
between the last frame of a chunk and the first of the next against that inside of chunks.

    python benchmarks/cuts.py --data FOLDER --out FILE

Random weights of full size show whether the chunks alone make borders: nothing in them learned to hide one.

    python benchmarks/cuts.py --data FOLDER --model random --joins 0 --skip-cuts --borders 4 --frames 40
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from flashvsr import load
from flashvsr.evaluate.warping import PairWarp
from flashvsr.models import FlashVSR, lr_projection_1b, tiny_conditional_decoder_1b, video_dit_1b
from flashvsr.streaming import resize_bicubic
from flashvsr.upscale.scenes import Scenes
from flashvsr.video import VideoFrame, VideoReader, mark_cuts

ROWS = 160
FIRST, BEFORE = 8, 8  # frames after a cut that are judged, and before it
LONGEST = 240  # frames of a clip that are looked at
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)


def read_truth(path: Path, start: int, count: int) -> Tensor:
    """Frames `[T, 3, 160, W]`, uint8, with W a multiple of 16."""
    frames = []
    with VideoReader(path, skip=start) as reader:
        for frame in reader:
            frames.append(frame.pixels)
            if len(frames) == count:
                break
    pixels = torch.stack(frames)
    pixels = (pixels * 255).round().to(torch.uint8) if pixels.is_floating_point() else pixels
    width = max(16, round(pixels.shape[3] * ROWS / pixels.shape[2] / 16) * 16)
    return resize_bicubic(pixels, (ROWS, min(width, 2 * ROWS)))


def upscale(system, lr: Tensor, *, look: bool) -> tuple[Tensor, list[int]]:
    """The frames upscaled, and where a cut was found."""
    height, width = lr.shape[2:]
    scenes = Scenes(lambda state: system.stream(height=height, width=width, state=state), look=look)
    out, cuts, held = [], [], 0
    for number, marked in enumerate(scenes.mark(VideoFrame(pixels, number) for number, pixels in enumerate(lr))):
        if marked.is_cut:
            out.append(scenes.end_scene())
            cuts.append(number)
            held = 0
        held += 1
        scenes.remember(marked, held)
        out.append(scenes.stream.push(marked.frame.pixels[None]))
        held -= len(out[-1])
    return torch.cat([*out, scenes.stream.finish()]), cuts


def judge(result: Tensor, truth: Tensor, cut: int) -> dict[str, float]:
    """Means over the first frames after a cut."""
    result, truth = result.float() / 255, truth.float() / 255
    shown = range(cut, cut + FIRST)
    errors = (result - truth).square().mean((1, 2, 3))
    ghosts = []
    for number in shown:
        apart = truth[cut - 1] - truth[number]
        ghosts.append(((result[number] - truth[number]) * apart).sum().item() / apart.square().sum().item())
    return {
        "psnr": mean(-10 * errors[number].log10().item() for number in shown),
        "psnr_first": -10 * errors[cut].log10().item(),
        "warp": mean(warp_errors(result, truth, [(number, number + 1) for number in shown[:-1]])),
        "ghost": mean(ghosts),
        "ghost_first": ghosts[0],
    }


def warp_errors(result: Tensor, truth: Tensor, pairs: list[tuple[int, int]]) -> list[float]:
    """Warping error of pairs of frames, in 1e-4; pairs without common motion are left out."""
    luma = (truth * LUMA).sum(1, keepdim=True)
    found = [
        1e4 * PairWarp(luma[a : a + 1], luma[b : b + 1]).error(result[a : a + 1], result[b : b + 1]).item()
        for a, b in pairs
    ]
    return [error for error in found if error == error]


def judge_joins(system, clips: list[Path], joins: int, seed: int) -> list[dict]:
    """Join pairs of clips of different scenes and compare one stream with one that starts anew."""
    chosen = random.Random(seed).sample(clips, 2 * joins)
    rows = []
    for first, second in zip(chosen[::2], chosen[1::2], strict=True):
        before, after = read_truth(first, 0, BEFORE), read_truth(second, 0, FIRST)
        truth = torch.cat([before, resize_bicubic(after, tuple(before.shape[2:]))])
        cut = len(before)
        lr = resize_bicubic(truth, (truth.shape[2] // 4, truth.shape[3] // 4))
        row = {"before": first.name, "after": second.name}
        for name, look in (("one", False), ("anew", True)):
            result, found = upscale(system, lr, look=look)
            row[name] = judge(result, truth, cut)
            if look:
                row["found"] = found == [cut]
        rows.append(row)
        print(f"{first.name[:30]:<30} {second.name[:30]:<30} {row['found']} {row['one']} {row['anew']}", flush=True)
    return rows


def judge_borders(system, clips: list[Path], frames: int) -> dict[str, list[float]]:
    """Warping errors across chunk borders and inside, of clips upscaled as one stream."""
    geometry = system.geometry
    found: dict[str, list[float]] = {"border": [], "inside": [], "truth_border": [], "truth_inside": []}
    for path in clips:
        truth = read_truth(path, 0, frames)
        lr = resize_bicubic(truth, (truth.shape[2] // 4, truth.shape[3] // 4))
        result, truth = upscale(system, lr, look=False)[0].float() / 255, truth.float() / 255
        ends, chunk = set(), 0
        while not ends or max(ends) < len(truth):
            ends.add((max(ends) if ends else 0) + geometry.output_frames(chunk))
            chunk += 1
        pairs = [(number, number + 1) for number in range(len(truth) - 1)]
        for kind, chosen in (
            ("border", [pair for pair in pairs if pair[1] in ends]),
            ("inside", [pair for pair in pairs if pair[1] not in ends]),
        ):
            found[kind] += warp_errors(result, truth, chosen)
            found[f"truth_{kind}"] += warp_errors(truth, truth, chosen)
        print(path.name, {kind: round(mean(errors), 3) for kind, errors in found.items() if errors}, flush=True)
    return found


def random_system() -> FlashVSR:
    """The full-size model in bf16 with random weights."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    parts = lr_projection_1b(), video_dit_1b(), tiny_conditional_decoder_1b(), torch.randn(1, 512, 4096)
    torch.set_default_dtype(torch.float32)
    return FlashVSR(*parts).requires_grad_(False).eval()


def find_cuts(path: Path) -> list[int]:
    """Where cuts are found in a clip."""
    with VideoReader(path) as reader:
        frames = (frame for frame, _ in zip(reader, range(LONGEST), strict=False))
        return [number for number, marked in enumerate(mark_cuts(frames)) if marked.is_cut]


def _told(values: list[float]) -> dict[str, float]:
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": round(mean(values), 4), "standard_error": round(error, 4), "count": len(values)}


def main() -> None:
    """Look for cuts in all clips, judge joined ones, and chunk borders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with video/ in it or below")
    parser.add_argument("--model", default="nano", help="as of `flashvsr upscale`, or random: of full size")
    parser.add_argument("--joins", type=int, default=20)
    parser.add_argument("--borders", type=int, default=12, help="clips for chunk borders")
    parser.add_argument("--frames", type=int, default=24, help="of each of these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-cuts", action="store_true", help="do not look for cuts in whole clips")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    clips = sorted(options.data.glob("**/video/*"))
    result: dict = {"model": str(options.model), "rows": ROWS, "frames_after_a_cut": FIRST, "seed": options.seed}
    if not options.skip_cuts:
        result["cuts_in_clips"] = {path.name: found for path in clips if (found := find_cuts(path))}
        result["clips"] = len(clips)
        print(result["cuts_in_clips"], flush=True)
    calm = [path for path in clips if path.name not in result.get("cuts_in_clips", {})]
    system = random_system() if options.model == "random" else load(options.model)
    rows = judge_joins(system, calm, options.joins, options.seed)
    result["joins_found"] = sum(row["found"] for row in rows)
    for measure in rows[0]["one"] if rows else ():
        result[measure] = {name: _told([row[name][measure] for row in rows]) for name in ("one", "anew")}
        result[measure]["anew_minus_one"] = _told([row["anew"][measure] - row["one"][measure] for row in rows])
    borders = judge_borders(system, random.Random(options.seed + 1).sample(calm, options.borders), options.frames)
    result["chunk_borders"] = {kind: _told(errors) for kind, errors in borders.items()}
    text = json.dumps(result, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
