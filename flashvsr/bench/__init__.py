"""Speed and memory of each part of a system, and how far each is from what the hardware allows."""

from flashvsr.bench.measure import BenchResult, PartResult, bench
from flashvsr.bench.operations import PARTS

__all__ = ["PARTS", "BenchResult", "PartResult", "bench"]
