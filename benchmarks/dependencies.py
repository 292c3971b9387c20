"""What each dependency of flashvsr costs: megabytes on disk, and CPU seconds to import it in a new process.

    python benchmarks/dependencies.py                  # those of the base install
    python benchmarks/dependencies.py --extra curate   # and those of an extra

A package's own dependencies count apart, in the last row. Times include what a package imports, often torch.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions

from packaging.requirements import Requirement


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", default="", help="also what this extra adds")
    extra = parser.parse_args().extra
    modules = {package: name for name, packages in packages_distributions().items() for package in packages}
    modules |= {name: name for name in packages_distributions()}  # its own name comes first
    direct = sorted(_needs("flashvsr", extra), key=lambda name: -_mebibytes(distribution(name)))
    everything = _closure(direct)
    print("| dependency | MiB | CPU s to import |\n|---|---|---|")
    for name in direct:
        seconds = _seconds(modules.get(name) or name)
        print(f"| {name} {distribution(name).version} | {_mebibytes(distribution(name)):.1f} | {seconds} |")
    rest = sum(_mebibytes(distribution(name)) for name in everything - set(direct))
    print(f"| their own dependencies ({len(everything) - len(direct)}) | {rest:.1f} | |")


def _needs(name: str, extra: str = "") -> set[str]:
    """Installed packages that a package asks for, in the spelling of their metadata."""
    needs = set()
    for line in distribution(name).requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            try:
                needs.add(distribution(requirement.name).metadata["Name"])
            except PackageNotFoundError:
                continue
    return needs - {name}


def _closure(names: list[str]) -> set[str]:
    found, queue = set(names), list(names)
    while queue:
        new = _needs(queue.pop()) - found
        found |= new
        queue += new
    return found


def _mebibytes(package: Distribution) -> float:
    return sum(file.size or 0 for file in package.files or []) / 2**20


def _seconds(module: str) -> str:
    """CPU time of a process that imports a module, less that of one that imports nothing."""
    times = []
    for code in ("", f"import {module}"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode:
            return "-"
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return f"{times[1] - times[0]:.2f}"


if __name__ == "__main__":
    main()
