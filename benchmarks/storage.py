r"""Samples and bytes per second that storage gives to the readers of a training, against what its GPUs take.

Readers are processes that read whole samples in random order, as workers of the data loader do, and decode nothing.

    python benchmarks/storage.py 'https://example.org/shards/train-{00000..00999}.tar' --readers 64 \
        --gpus 32 --seconds-per-step 7.1 --samples-per-step 2

Run it on every node at once: what counts is what all of them get together.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from flashvsr.data.settings import RemoteOptions
from flashvsr.data.shards import ShardIndex


class Samples(Dataset):
    """The sizes of samples, each of which is read."""

    def __init__(self, index: ShardIndex) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index.entries)

    def __getitem__(self, number: int) -> int:
        return len(self.index.read(self.index.entries[number]))


def measure(index: ShardIndex, readers: int, samples: int) -> tuple[float, float]:
    """Samples per second, and bytes per sample; the first sample of each reader is not counted."""
    random = torch.Generator().manual_seed(0)
    draws = torch.randint(len(index.entries), (samples + readers,), generator=random).tolist()
    loader = DataLoader(Samples(index), batch_size=None, sampler=draws, num_workers=readers)
    sizes, start = [], 0.0
    for number, size in enumerate(loader):
        if number == readers:
            start = time.perf_counter()
        if number >= readers:
            sizes.append(size)
    return (len(sizes) - 1) / (time.perf_counter() - start), sum(sizes) / len(sizes)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="+", help="as in data.train")
    parser.add_argument("--index", help="as data.loader.remote.index")
    parser.add_argument("--cache-dir", type=Path, help="as data.loader.remote.cache_dir")
    parser.add_argument("--readers", type=int, default=8, help="processes: GPUs of this node x loader.workers")
    parser.add_argument("--samples", type=int, default=256, help="to read")
    parser.add_argument("--gpus", type=int, default=32, help="of the training, on all nodes")
    parser.add_argument("--seconds-per-step", type=float, help="of the training")
    parser.add_argument("--samples-per-step", type=float, default=1, help="new clips and images per GPU")
    options = parser.parse_args()
    folder = None if options.cache_dir is None else str(options.cache_dir)
    index = ShardIndex(options.shards, RemoteOptions(index=options.index, cache_dir=folder))
    rate, size = measure(index, options.readers, options.samples)
    mib = size / 2**20
    print(f"{options.readers} readers: {rate:.3g} samples/s of {mib:.3g} MiB, {rate * mib:.3g} MiB/s")
    if options.seconds_per_step:
        needed = options.gpus * options.samples_per_step / options.seconds_per_step
        print(f"{options.gpus} GPUs take {needed:.3g} samples/s, {needed * mib:.3g} MiB/s")


if __name__ == "__main__":
    main()
