r"""Gates 2 to 4 of nano's diffusion part: are samples spread like the truth, do frames look real?

The transformer samples the middle of each clip whole, so a stream is not needed, and is compared with latents of the
truth and with a control, a decoder alone:

* deviation and kurtosis of the samples and of the truth, over all clips, means over channels;
* energy of decoded luma over the truth's, in the octave below half the Nyquist frequency (1/8 to 1/4 cycles per pixel)
  and in the one above;
* lite-KID x 1000 of all 64x64 patches together, with the standard error over subsets of 500 patches;
* mean PSNR over frames, of bicubic too.

    python benchmarks/nano_gates.py --gate 2 --data footage/val --autoencoder runs/nano/autoencoder \
        --model runs/nano/stage1 --control runs/nano/stage3_control --out gate2.json
    python benchmarks/nano_gates.py --gate 4 --teacher gate2.json ... --model runs/nano/stage3 --out gate4.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashvsr.evaluate import bicubic_lr, clip_seed, encoded_lr, find_clips, luma_bt601, read_clip, resize
from flashvsr.evaluate.features import kernel_distance, lite_features
from flashvsr.models import FlowSchedule
from flashvsr.models.loading import choose_device, find_model
from flashvsr.training.batches import AHEAD, batch_psnr, deviation_and_kurtosis

PATCHES = 5000
"""Fewer make a lite-KID that says little."""
OCTAVES = {"octave": (1 / 8, 1 / 4), "octave_above": (1 / 4, 1 / 2)}
"""Bands in cycles per pixel."""
SUBSETS, SUBSET = 50, 500

Figures = dict[str, float]


class Sampler:
    """A model folder as latents and frames of whole clips; one without a transformer decodes zeros.

    Args:
        folder: The model folder.
        steps: Of its sampler; None for its own.
        placed: Device and dtype.
    """

    def __init__(self, folder: str, steps: int | None, placed: Mapping[str, Any]) -> None:
        found = find_model(folder)

        def built(name: str) -> Any:
            return found.component(name).build(**placed).requires_grad_(False)

        self.decoder = built("decoder")
        self.steps, self.schedule = steps or found.steps, FlowSchedule(found.shift, found.solver)
        self.dit, self.projection = (
            built(name) if name in found.components else None for name in ("dit", "projection")
        )

    def latents(self, lr: Tensor, seed: int) -> Tensor:
        """Of LR frames `[1, 3, T, H, W]`: `[1, C, (T - 1) / 4, H/8, W/8]`."""
        shape = (1, self.decoder.latent_channels, (lr.shape[2] - 1) // 4, lr.shape[3] // 8, lr.shape[4] // 8)
        if self.dit is None:
            return lr.new_zeros(shape)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(lr)
        tokens, _ = self.projection(lr, streaming=False)
        return self.schedule.sample(self.dit, noise, tokens, steps=self.steps)


class Octaves:
    """Energy of luma per octave, added up over clips."""

    def __init__(self) -> None:
        self.sums = dict.fromkeys(OCTAVES, 0.0)

    def add(self, frames: Tensor) -> None:
        """Count frames `[T, 3, H, W]` in [0, 1], faded out towards their borders."""
        luma = luma_bt601(frames.double())
        luma = luma.reshape(len(frames), *frames.shape[2:])
        luma = luma - luma.mean((1, 2), keepdim=True)
        height, width = luma.shape[1:]
        window = [torch.hann_window(side, dtype=luma.dtype, device=luma.device) for side in (height, width)]
        energy = torch.fft.fft2(luma * window[0][:, None] * window[1]).abs().square().sum(0)
        radius = torch.hypot(
            torch.fft.fftfreq(height, dtype=luma.dtype, device=luma.device)[:, None],
            torch.fft.fftfreq(width, dtype=luma.dtype, device=luma.device)[None],
        )
        for name, (low, high) in OCTAVES.items():
            self.sums[name] += float(energy[(radius >= low) & (radius < high)].sum())


class Tally:
    """What is measured of one method over all clips."""

    def __init__(self) -> None:
        self.octaves, self.patches, self.psnr = Octaves(), list[Tensor](), list[float]()

    def add(self, frames: Tensor, truth: Tensor, every: int) -> None:
        """Count frames and their truth, `[1, 3, T, H, W]` in [-1, 1]; patches of every so-many-th frame."""
        pictures = frames[0].transpose(0, 1).float().clamp(-1, 1).add(1).mul(127.5).round().div(255)  # 8 bits
        self.octaves.add(pictures)
        network = lite_features(str(frames.device))
        self.patches += [network.patches(picture[None]).cpu() for picture in pictures[::every]]
        self.psnr.append(float(batch_psnr(pictures.transpose(0, 1)[None] * 2 - 1, truth).mean()))


def kid(ours: Tensor, truth: Tensor) -> tuple[float, float]:
    """Kernel distance x 1000 of features `[n, C]` that belong to each other one by one, and its standard error."""
    random = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(SUBSETS):
        chosen = [torch.randperm(len(x), generator=random)[:SUBSET] for x in (ours, truth)]
        parts.append(float(kernel_distance(ours[chosen[0]], truth[chosen[1]])))
    error = torch.tensor(parts).std() * (min(SUBSET, len(ours)) / len(ours)) ** 0.5
    return 1000 * float(kernel_distance(ours, truth)), 1000 * float(error)


def verdict(gate: int, figures: Mapping[str, float], teacher: Mapping[str, float] | None = None) -> dict[str, bool]:
    """Which demands of a gate are met.

    Args:
        gate: 2, 3 or 4.
        figures: Of the model and the control.
        teacher: Those of gate 2, for gates 3 and 4.

    Returns:
        By demand; one of a figure that is missing is not met.

    Raises:
        ValueError: If the gate needs the teacher's figures and has none.
    """
    if gate == 2:
        return {
            "deviation within 10 % of the truth's": abs(figures["deviation"] - 1) <= 0.1,
            "octave at least 0.7 of the truth's": figures["octave"] >= 0.7,
            "lite-KID 25 % below the control's": figures["kid"] <= 0.75 * figures["control_kid"],
        }
    if teacher is None:
        raise ValueError(f"gate {gate} compares with the figures of gate 2: pass them with --teacher")
    if gate == 3:
        names = ("deviation", "octave", "kid")
        return {
            f"{name} within 10 % of the teacher's": abs(figures[name] - teacher[name]) <= 0.1 * abs(teacher[name])
            for name in names
        }
    gains = [said["control_kid"] - said["kid"] for said in (figures, teacher)]
    return {"80 % of the teacher's gain in lite-KID": gains[1] > 0 and gains[0] >= 0.8 * gains[1]}


@torch.inference_mode()
def measure(options: argparse.Namespace, degrade: Callable[[Tensor, int], Tensor]) -> Figures:
    """Run model and control over all clips."""
    device = choose_device(options.device)
    placed: dict[str, Any] = {"device": device, "dtype": torch.float32}
    model, control = (Sampler(folder, options.steps, placed) for folder in (options.model, options.control))
    encoder: Any = find_model(options.autoencoder).component("encoder").build(**placed)
    names = ("truth", "model", "control", "bicubic")
    tallies, sampled, encoded = {name: Tally() for name in names}, [], []
    for name, file in find_clips(options.data).items():
        clip = read_clip(
            file, name, frames=options.frames, short_side=None, downscale=options.downscale, crop=tuple(options.crop)
        ).frames
        height, width = (side // 128 * 128 for side in clip.shape[2:])
        if len(clip) < options.frames or not height or not width:
            print(f"{name} is left out: {len(clip)} frames of {clip.shape[2]}x{clip.shape[3]}", flush=True)
            continue
        clip = clip[:, :, :height, :width]
        seed = clip_seed(name, options.seed)
        lr = resize(degrade(clip, seed), (height, width))
        hr, lr = (x.to(device).transpose(0, 1)[None].float().div(127.5).sub(1) for x in (clip, lr))
        shown, truth = lr[:, :, :-AHEAD], hr[:, :, :-AHEAD]
        latents = model.latents(lr, seed)
        sampled.append(latents.flatten(2).cpu())
        encoded.append(encoder.encode(truth, shown).flatten(2).cpu())
        zeros = control.latents(lr, seed)
        frames = {
            "truth": truth,
            "model": model.decoder(latents, shown, None)[0],
            "control": control.decoder(zeros, shown, None)[0],
            "bicubic": shown,
        }
        for method, pictures in frames.items():
            tallies[method].add(pictures, truth, options.every)
        print(f"{name}: {height}x{width}, {len(tallies['truth'].patches)} frames of patches", flush=True)
    return summary(tallies, sampled, encoded)


def summary(tallies: Mapping[str, Tally], sampled: list[Tensor], encoded: list[Tensor]) -> Figures:
    """All figures of the clips together."""
    if not sampled:
        raise ValueError("there is no clip that is long and large enough: lower --frames, --downscale or --crop")
    spread, truth = (deviation_and_kurtosis(torch.cat(x, 2)[..., None, None]) for x in (sampled, encoded))
    patches = {name: torch.cat(tally.patches) for name, tally in tallies.items()}
    figures = {
        "clips": float(len(sampled)),
        "patches": float(len(patches["truth"])),
        "deviation": float(spread[0] / truth[0]),
        "kurtosis": float(spread[1]),
        "truth_deviation": float(truth[0]),
        "truth_kurtosis": float(truth[1]),
    }
    for name, tally in tallies.items():
        if name == "truth":
            continue
        prefix = "" if name == "model" else f"{name}_"
        for octave, energy in tally.octaves.sums.items():
            figures[f"{prefix}{octave}"] = energy / tallies["truth"].octaves.sums[octave]
        figures[f"{prefix}kid"], figures[f"{prefix}kid_error"] = kid(patches[name], patches["truth"])
        figures[f"{prefix}psnr"] = sum(tally.psnr) / len(tally.psnr)
    return figures


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--gate", type=int, choices=[2, 3, 4], required=True)
    add("--data", nargs="+", required=True, metavar="PATH", help="clips and folders of them")
    add("--model", required=True, metavar="FOLDER", help="transformer, projection and decoder")
    add("--control", required=True, metavar="FOLDER", help="a decoder alone, trained with the same losses")
    add("--autoencoder", required=True, metavar="FOLDER", help="its encoder makes the latents of the truth")
    add("--teacher", type=Path, metavar="JSON", help="figures of gate 2, for gates 3 and 4")
    add("--steps", type=int, help="of the sampler (default: the model's own)")
    add("--frames", type=int, default=25, help="of each clip, 8n+1; the last 4 are only looked at (default: 25)")
    add("--crop", type=int, nargs=2, default=(384, 384), metavar=("H", "W"), help="of the middle (default: 384 384)")
    add("--downscale", type=float, default=1.5, help="before it is cropped, for footage is compressed (default: 1.5)")
    add("--degrade", choices=["encoded", "bicubic"], default="encoded", help="as in flashvsr evaluate")
    add("--every", type=int, default=2, help="frames whose patches count (default: every second)")
    add("--few", action="store_true", help=f"fewer than {PATCHES} patches are enough, for a trial")
    add("--seed", type=int, default=0)
    add("--device", default="auto")
    add("--out", type=Path, required=True, metavar="JSON")
    options = parser.parse_args()
    if options.frames % 8 != 1:
        parser.error(f"--frames {options.frames}: expected 8n+1, such as 25")
    if options.gate > 2 and options.teacher is None:
        parser.error(f"--gate {options.gate} compares with the figures of gate 2: pass them with --teacher")
    teacher = json.loads(options.teacher.read_text())["figures"] if options.teacher else None
    degrade = encoded_lr if options.degrade == "encoded" else lambda clip, seed: bicubic_lr(clip)
    figures = measure(options, degrade)
    if figures["patches"] < PATCHES and not options.few:
        parser.error(f"{figures['patches']:.0f} patches, expected {PATCHES}: more clips, a larger --crop, or --every 1")
    met = verdict(options.gate, figures, teacher)
    print(*(f"{name:20} {value:.4f}" for name, value in figures.items()), sep="\n")
    print(*(f"{'passed' if passed else 'FAILED'}: {demand}" for demand, passed in met.items()), sep="\n")
    said = {name: value for name, value in vars(options).items() if name not in ("out", "teacher")}
    part = options.out.with_name(f"{options.out.name}.part")
    part.write_text(json.dumps({"figures": figures, "gate": met, "options": said}, indent=1))
    part.replace(options.out)


if __name__ == "__main__":
    main()
