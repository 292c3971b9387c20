"""What a recipe on top of another changes, one line a value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

MISSING = object()


def changes(base: Any, changed: Any, key: str = "") -> Iterator[str]:
    """Compare two parsed recipes.

    Args:
        base: Values of the first file, as plain mappings and lists.
        changed: Of all files and arguments.
        key: Where in the recipe they stand.

    Yields:
        ``key: old -> new`` in the order of the recipe. Of a part that gets another class, the new one's arguments.
    """
    if isinstance(base, Mapping) and isinstance(changed, Mapping):
        other_class = base.get("class_path") != changed.get("class_path")
        if other_class:
            yield _line(key, base.get("class_path", MISSING), changed.get("class_path", MISSING))
        names = [name for name in {**base, **changed} if name != "class_path"]
        for name in names:
            if other_class and name == "init_args":
                for argument, value in (changed.get(name) or {}).items():
                    yield from changes((base.get(name) or {}).get(argument, MISSING), value, f"{key}.{argument}")
                continue
            inner = key if name == "init_args" else f"{key}.{name}".lstrip(".")
            yield from changes(base.get(name, MISSING), changed.get(name, MISSING), inner)
    elif isinstance(base, list) and isinstance(changed, list) and len(base) == len(changed):
        if base != changed and not any(isinstance(item, Mapping) for item in (*base, *changed)):
            yield _line(key, base, changed)
            return
        for index, (old, new) in enumerate(zip(base, changed, strict=True)):
            yield from changes(old, new, f"{key}.{index}")
    elif base != changed:
        yield _line(key, base, changed)


def _line(key: str, old: Any, new: Any) -> str:
    return f"{key}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    if value is MISSING:
        return "(not there)"
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"])
    return value if isinstance(value, str) else json.dumps(value, default=str)
