"""Objects from class paths and arguments, as recipes and model folders write them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

BUILDERS = "flashvsr.models.builders"
OURS = "flashvsr."
NETWORKS = ("flashvsr.attention.", "flashvsr.decoders.", "flashvsr.models.")


def build(class_path: str, init_args: Mapping[str, Any] | None = None, *, trust_code: bool = False) -> Any:
    """Build an object from the path of its class, or of a builder function, and its arguments.

    An argument ``{"class_path": ..., "init_args": {...}}`` is built first; when its own required arguments are not all
    given, it is passed as a factory that takes the rest. An attention layer, for instance, lacks (dim, heads).

    Args:
        class_path: Such as ``flashvsr.models.LRProjection``.
        init_args: Arguments by name.
        trust_code: Allow any callable of any installed module. Otherwise only modules (`torch.nn`) of this library and
            its builders: a stranger's file must not run code.

    Returns:
        The object.

    Raises:
        ValueError: If the path is refused or does not exist, or an argument is unknown or missing.
    """
    made = _resolve(class_path, init_args or {}, trust_code)
    if isinstance(made, partial):
        missing = ", ".join(_missing(made.func, made.keywords))
        raise ValueError(f"{class_path} needs {missing} among its init_args")
    return made


def is_reference(value: Any) -> bool:
    """Whether a value of a model file stands for an object."""
    return isinstance(value, Mapping) and "class_path" in value and value.keys() <= {"class_path", "init_args"}


def merge_arguments(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with others on top of them, down into the parts they describe.

    Args:
        base: Arguments by name.
        changes: Arguments that replace them. A part ``{"class_path": ..., "init_args": ...}`` of the same class, or
            without its class path, keeps the arguments that are not named; one of another class replaces the whole. The
            arguments of a part may stand without the word ``init_args``.

    Returns:
        All of them.
    """
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(base.get(key), value)
    return merged


def _merge(old: Any, new: Any) -> Any:
    if not is_reference(old):
        return merge_arguments(old, new) if isinstance(old, Mapping) and isinstance(new, Mapping) else new
    if isinstance(new, str):
        new = {"class_path": new}
    if not isinstance(new, Mapping):
        return new
    if new.get("class_path", old["class_path"]) != old["class_path"]:
        return new
    init_args = {key: value for key, value in new.items() if key not in ("class_path", "init_args")}
    init_args.update(new.get("init_args") or {})
    return {"class_path": old["class_path"], "init_args": merge_arguments(old.get("init_args") or {}, init_args)}


def foreign_classes(class_path: str, init_args: Mapping[str, Any] | None = None) -> list[str]:
    """Class paths outside this library that an object is made of, its own and those of its arguments."""
    found = [] if class_path.startswith(OURS) else [class_path]
    for value in (init_args or {}).values():
        if is_reference(value):
            found += foreign_classes(value["class_path"], value.get("init_args"))
    return found


def check_allowed(class_path: str, init_args: Mapping[str, Any] | None = None, *, trust_code: bool = False) -> None:
    """Check whether :func:`build` may use a class and those of its arguments, building nothing.

    Raises:
        ValueError: If one is refused or does not exist.
    """
    _find(class_path, trust_code)
    for value in (init_args or {}).values():
        if is_reference(value):
            check_allowed(value["class_path"], value.get("init_args"), trust_code=trust_code)


def _resolve(class_path: str, init_args: Mapping[str, Any], trust_code: bool) -> Any:
    target = _find(class_path, trust_code)
    known = inspect.signature(target).parameters
    for key in init_args:
        if key not in known:
            raise ValueError(f"{class_path} takes no {key!r}; it takes {', '.join(known) or 'no arguments'}")
    arguments = {}
    for key, value in init_args.items():
        if isinstance(value, Mapping) and set(value) == {"init_args"}:
            raise ValueError(f"{class_path}: {key} has init_args and no class_path, and there is none that it changes")
        nested = is_reference(value)
        arguments[key] = _resolve(value["class_path"], value.get("init_args") or {}, trust_code) if nested else value
    return partial(target, **arguments) if _missing(target, arguments) else target(**arguments)


def _missing(target: Callable[..., Any], arguments: Mapping[str, Any]) -> list[str]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(target).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    return [name for name in required if name not in arguments]


def _find(class_path: str, trust_code: bool) -> Callable[..., Any]:
    module_path, _, name = class_path.rpartition(".")
    if not trust_code and not class_path.startswith(OURS):
        raise ValueError(
            f"{class_path} is not part of flashvsr and could run any code; if you trust where it comes from, pass "
            "--trust-code (trust_code=True in Python)"
        )
    refusal = f"{class_path} is neither a network of flashvsr nor one of its builders"
    if not trust_code and not class_path.startswith(NETWORKS):
        raise ValueError(refusal)  # before the import, which may do things by itself
    try:
        found = getattr(import_module(module_path), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no {class_path}: {error}") from error
    if not trust_code and not _is_network(found):
        raise ValueError(refusal)
    return found


def _is_network(found: Any) -> bool:
    origin = getattr(found, "__module__", "")
    if inspect.isclass(found):
        return issubclass(found, nn.Module) and origin.startswith(OURS)
    return inspect.isfunction(found) and origin == BUILDERS
