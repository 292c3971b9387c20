"""A script for test_decoders_lit.py: train each stage for two steps, as one of WORLD_SIZE processes."""

import sys
from functools import partial

from tests.decoders.toy_decoders import make_batch, make_stage
from tests.processes import save_changes


def batches(name: str, world: int, rank: int) -> list[dict]:
    share = 2 // world
    starts = (2 * step + rank * share for step in range(2))
    return [make_batch(range(start, start + share), images=True) for start in starts]


if __name__ == "__main__":
    stages = {name: partial(make_stage, name) for name in ("autoencoder", "conditional", "control")}
    save_changes(sys.argv[1], stages, batches)
