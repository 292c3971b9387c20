"""Import every module of flashvsr in an environment that holds its base dependencies only.

A module may need an extra only while it works: importing it has to succeed without. Ends with status 1 and the list of
the modules that do not.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import flashvsr


def main() -> int:
    """Import all, print what failed, and return the exit status."""
    names = [module.name for module in pkgutil.walk_packages(flashvsr.__path__, "flashvsr.")]
    failed = {}
    for name in names:
        if name.endswith(".__main__"):
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            failed[name] = error
    for name, error in failed.items():
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"{len(names) - len(failed)} of {len(names)} modules import with the base dependencies")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
