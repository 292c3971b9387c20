"""Write a folder of random weights in the files of the published FlashVSR, at full size or small.

Full size, for speed and memory on a GPU machine (about 7 GB, or 4 GB with ``--dtype bf16``)::

    python tests/official_folder.py FOLDER [--dtype bf16] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

MANIFEST = Path(__file__).parent / "golden" / "manifest_full.json"
FILES = {
    "dit": ("diffusion_pytorch_model_streaming_dmd.safetensors", torch.float32),
    "lq_proj": ("LQ_proj_in.ckpt", torch.bfloat16),
    "tcdecoder": ("TCDecoder.ckpt", torch.float32),
    "wan_vae": ("Wan2.1_VAE.pth", torch.float32),
}
POOL = (1 << 24) + 43  # an odd length, so that rows of repeated values do not line up


@lru_cache(maxsize=1)
def _normal_pool(seed: int) -> Tensor:
    return torch.randn(POOL, generator=torch.Generator().manual_seed(seed))


class RandomWeights:
    """Weights that keep activations of order one, cut from one pool of normal numbers: gigabytes in seconds."""

    def __init__(self, seed: int) -> None:
        self.pool = _normal_pool(seed)
        self.used = 0

    def make(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor whose scale fits its name: layer, bias, norm or modulation."""
        mean, deviation = 0.0, 1 / math.sqrt(math.prod(shape[1:]) or 1)
        if name.endswith(("gamma", "norm_q.weight", "norm_k.weight", "norm3.weight")):
            mean, deviation = 1.0, 0.1
        elif name.endswith("bias"):
            deviation = 0.02
        elif name.endswith("modulation"):
            deviation = 0.2
        values = self._take(math.prod(shape))
        return values.mul_(deviation).add_(mean).to(dtype).reshape(tuple(shape))

    def _take(self, count: int) -> Tensor:
        start = self.used % POOL
        self.used += count
        pieces, left = [self.pool[start : start + count]], count - (POOL - start)
        while left > 0:
            pieces.append(self.pool[:left])
            left -= POOL
        return torch.cat(pieces)


def write_official_folder(
    folder: Path,
    shapes: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    *,
    prompt_shape: Sequence[int] = (1, 512, 4096),
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> None:
    """Write the five files.

    Args:
        folder: Made if need be; files in it are replaced.
        shapes: Tensor shapes of ``dit``, ``lq_proj``, ``tcdecoder`` and ``wan_vae`` by name; None is the full size.
        prompt_shape: Of the prompt embedding.
        dtype: Of all files; None is as published: fp32, and bf16 for the LR projection and the prompt.
        seed: Of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes = json.loads(MANIFEST.read_text()) if shapes is None else shapes
    weights = RandomWeights(seed)
    for part, (file, published) in FILES.items():
        tensors = {name: weights.make(name, shape, dtype or published) for name, shape in shapes[part].items()}
        if file.endswith(".safetensors"):
            save_file(tensors, folder / file)
        else:
            torch.save(tensors, folder / file)
    prompt = weights.make("prompt", (math.prod(prompt_shape),), torch.bfloat16)  # deviation 1
    torch.save(prompt.reshape(tuple(prompt_shape)), folder / "posi_prompt.pth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", choices=["published", "fp32", "bf16"], default="published")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dtypes = {"published": None, "fp32": torch.float32, "bf16": torch.bfloat16}
    write_official_folder(arguments.folder, dtype=dtypes[arguments.dtype], seed=arguments.seed)


if __name__ == "__main__":
    main()
