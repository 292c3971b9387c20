"""Speed and memory of each part of a system, and how far each is from what the hardware allows."""

from flashvsr.bench.measure import BenchResult, PartResult, bench, warm
from flashvsr.bench.operations import PARTS

__all__ = ["PARTS", "BenchResult", "PartResult", "bench", "warm"]
