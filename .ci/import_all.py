"""Import every module of flashvsr in an environment that holds its base dependencies only.

Modules named in EXTRAS may miss the packages of their extra, and nothing else. Ends with status 1 and the list of the
modules that do not import.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import flashvsr

EXTRAS = {
    "flashvsr.app.": {"fastapi", "gradio", "starlette"},
    "flashvsr.curate.": {"cv2", "imagehash", "ray", "scenedetect"},
}
"""Packages that an application may need to be imported, by the start of the names of its modules."""


def main() -> int:
    """Import all, print what failed, and return the exit status."""
    names = [module.name for module in pkgutil.walk_packages(flashvsr.__path__, "flashvsr.")]
    failed: dict[str, ImportError] = {}
    extras: list[str] = []
    for name in names:
        if name.endswith(".__main__"):
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            extra = next((packages for start, packages in EXTRAS.items() if name.startswith(start)), set())
            if error.name not in extra:
                failed[name] = error
            else:
                extras.append(name)
    for name, error in failed.items():
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    good = len(names) - len(failed) - len(extras)
    print(f"{good} of {len(names)} modules import with the base dependencies, {len(extras)} wait for their extra")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
