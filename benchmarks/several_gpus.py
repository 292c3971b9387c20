"""One stream of the full-size model, on one GPU and on several, exact and fast: frames per second, memory, digests.

Every case is a process of its own with random weights from one seed, so that memory is that of a fresh process. Frames
are compared by their digest, over the first ten chunks; those of other modes than exact are only like themselves.

    python benchmarks/several_gpus.py --devices cuda:0 cuda:0,cuda:1 --out several_gpus.json
    python benchmarks/several_gpus.py --devices cuda:0 --sizes 768x1408      # one GPU, with another Triton, say
    python benchmarks/several_gpus.py --devices cuda:0,cuda:1 --edges 0 17 30
    python benchmarks/several_gpus.py --devices cuda:0 --modes exact fast --out fast.json     # fast mode, one GPU
    python benchmarks/several_gpus.py --devices cuda:0 --sizes 768x1408 --modes exact fp8 ratio triton_8bit \
        triton_int8 fast fast_but_attention --out fast_parts.json                             # what each part gives
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch
from fast_errors import MODES, use_mode

from flashvsr import __version__
from flashvsr.bench import bench
from flashvsr.models import FlashVSR, lr_projection_1b, tiny_conditional_decoder_1b, video_dit_1b
from flashvsr.models.loading import CACHE_GIB, choose_devices
from flashvsr.models.parallel import spread

MODES |= {
    "hopper_8bit": {"impl": "hopper_8bit"},
    "fast_hopper_8bit": {**MODES["fast"], "impl": "hopper_8bit"},
}
CHUNKS = {"768x1408": 40, "1152x2048": 24, "2176x3840": 8}
COMPARED = 10


def random_system(devices: list[torch.device], edges: list[int] | None, mode: str) -> FlashVSR:
    """The full-size model in bf16 with random weights, the same ones wherever its parts lie in the end."""
    torch.manual_seed(0)
    torch.cuda.manual_seed_all(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(devices[0]):
        parts = lr_projection_1b(), video_dit_1b(), tiny_conditional_decoder_1b(), torch.randn(1, 512, 4096)
        system = FlashVSR(*parts).requires_grad_(False).eval()
    torch.set_default_dtype(torch.float32)
    system.dit.cache_gib = CACHE_GIB
    use_mode(system, mode)
    return system if len(devices) == 1 else spread(system, devices, edges=edges)


def digest_frames(system: FlashVSR, height: int, width: int, chunks: int) -> str:
    """Digest of the frames of the first chunks of a stream of random video."""
    generator, digest = torch.Generator().manual_seed(1), hashlib.sha256()
    stream = system.stream(height=height // 4, width=width // 4)
    for chunk in range(chunks):
        frames = torch.randint(
            0, 256, (system.geometry.lr_frames(chunk), 3, height // 4, width // 4), generator=generator
        )
        digest.update(stream.push(frames.to(system.device, torch.uint8)).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def wall_rate(system: FlashVSR, height: int, width: int, chunks: int) -> float:
    """Frames per second of steady chunks by the wall clock, filling and emptying the GPUs included."""
    stream, geometry = system.stream(height=height // 4, width=width // 4), system.geometry
    video = torch.randint(0, 256, (geometry.first_frames, 3, height // 4, width // 4), dtype=torch.uint8)
    video = video.to(system.device)
    stream.push(video)
    for _ in range(8):
        out = stream.push(video[: geometry.next_frames])
    out.cpu()
    began = time.perf_counter()
    for _ in range(chunks):
        out = stream.push(video[: geometry.next_frames])
    out.cpu()
    return chunks * geometry.next_frames / (time.perf_counter() - began)


def measure(size: str, device: str, mode: str, edges: list[int] | None, compare: bool) -> dict[str, Any]:
    """One case, in this process."""
    height, width = (int(part) for part in size.split("x"))
    system = random_system(choose_devices(device), edges, mode)
    chunks = CHUNKS.get(size, 12)
    result = bench(system, height=height, width=width, chunks=chunks)
    print(result.table(), flush=True)
    wall = wall_rate(system, height, width, chunks)
    digest = digest_frames(system, height, width, COMPARED) if compare else None
    case = {"size": size, "devices": device, "mode": mode, "wall_frames_per_second": wall, "digest": digest}
    return {**case, **asdict(result)}


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    import triton

    date = datetime.now().isoformat(timespec="minutes")
    return {"date": date, "flashvsr": __version__, "torch": torch.__version__, "triton": triton.__version__}


def main() -> int:
    """Run every case in a process of its own and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(CHUNKS), metavar="HxW")
    parser.add_argument("--devices", nargs="+", default=["cuda:0", "cuda:*"], help="as for flashvsr bench --device")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["exact"], help="ways to run (default: exact)")
    parser.add_argument("--edges", nargs="+", type=int, help="first block of each device, and 30 (default: estimated)")
    parser.add_argument("--no-digest", action="store_true", help="do not compare frames")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--case", nargs=3, metavar=("SIZE", "DEVICE", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        case = measure(*arguments.case, arguments.edges, not arguments.no_digest)
        arguments.out.write_text(json.dumps(case))
        return 0
    cases: list[dict[str, Any]] = []
    failed, part = False, Path(f"{arguments.out or 'several_gpus.json'}.part")
    for size, device, mode in product(arguments.sizes, arguments.devices, arguments.modes):
        command = [sys.executable, __file__, "--case", size, device, mode, "--out", str(part)]
        command += ["--no-digest"] if arguments.no_digest else []
        command += ["--edges", *map(str, arguments.edges)] if arguments.edges and "," in device else []
        if subprocess.run(command, check=False).returncode:
            failed = True
            continue
        cases.append(json.loads(part.read_text()))
        part.unlink()
        if arguments.out:
            arguments.out.write_text(json.dumps({**versions(), "cases": cases}, indent=1) + "\n")
    print("\n| size | devices | mode | frames/s | by the wall clock | peak GiB | frames |")
    print("|---|---|---|---|---|---|---|")
    for case in cases:
        peaks = " and ".join(f"{peak:.2f}" for peak in case["peaks_gib"])
        print(
            f"| {case['size']} | {case['devices']} | {case['mode']} | {case['frames_per_second']:.2f} "
            f"| {case['wall_frames_per_second']:.2f} | {peaks} | {case['digest']} |"
        )
    digests: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        digests[f"{case['size']} ({case['mode']})"].add(case["digest"])
    differing = [what for what, found in digests.items() if len(found) > 1]
    if differing:
        print(f"frames differ at {', '.join(differing)}", file=sys.stderr)
    return int(failed or bool(differing))


if __name__ == "__main__":
    sys.exit(main())
