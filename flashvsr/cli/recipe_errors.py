"""Short errors for wrong recipes: jsonargparse writes up to sixty lines, these are two or three."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from importlib import import_module

KEY = re.compile(r'Parser key "([^"]+)":')
CLASS = re.compile(r"Problem with given class_path '([^']+)':")
UNKNOWN = re.compile(r"Option '([^']+)' is not accepted|Key '([^']+)' is not expected")
GIVEN_CLASS = re.compile(r"Got value: Namespace\(class_path='([^']+)'")
MISSPELLED = re.compile(
    r"^(?:unrecognized arguments: --([^\s=]+)|Group '([^']+)' does not accept option '([^']+)'"
    r"|Key '([^']+)' is not expected)"
)
NOISE = re.compile(
    r"Does not validate against any of the Union subtypes|Subtypes:|Errors:|Given value type:|Given value:"
    r"|Expected a <class 'NoneType'>|Not a valid subclass of|Subclass types expect|a class path \(str\)|a dict with"
    r"|Expected a path but .* either not accessible or invalid"
)
INTERPOLATED = re.compile(r"raised while resolving interpolation: (.+)\n\s*full_key: (\S+)")
GIVEN = re.compile(r"Given value: (.{1,80}?)(\. Got value: .*)?$")
LONGEST = 300
"""Characters of one line of an error."""


def shorten(message: str) -> str:
    """Cut an error of jsonargparse to the key, the class, what is wrong with the value, and the choices.

    Args:
        message: With its nested alternatives, of which the one that got furthest is kept.

    Returns:
        One to three lines; a message of another form as it is.
    """
    if found := INTERPOLATED.search(message):
        return f"{found[2]} takes its value from another key. {found[1]}: leave that as it is, or change both"
    if not any(form.search(message) for form in (KEY, CLASS, NOISE, UNKNOWN)):
        return message
    path: list[tuple[int, str]] = []
    best: tuple[int, list[str], str | None, str] = (-1, [], None, message.strip().splitlines()[0])
    class_path: list[tuple[int, str]] = []
    given: str | None = None
    for line in filter(str.strip, message.splitlines()):
        indent = len(line) - len(line.lstrip(" -"))
        text = line.lstrip(" -").strip()
        path = [(depth, key) for depth, key in path if depth < indent]
        class_path = [(depth, name) for depth, name in class_path if depth < indent]
        if found := KEY.search(text):
            path.append((indent, found[1]))
            text = text[found.end() :].strip()
        elif found := CLASS.search(text):
            class_path.append((indent, found[1]))
            text = text[found.end() :].strip()
        if text and not NOISE.match(text) and indent > best[0]:
            best = (indent, [key for _, key in path], class_path[-1][1] if class_path else None, text)
            given = None
        elif given is None and (value := GIVEN.match(text)):
            given = value[1]
    _, keys, where, what = best
    said = what if len(what) <= LONGEST else f"{what[:LONGEST]} ..."
    if given_class := GIVEN_CLASS.search(what):  # of a factory: only the value names its class
        where, said = given_class[1], said.partition(" Got value: Namespace(")[0].rstrip(".")
    if where is not None and (unknown := UNKNOWN.search(what)):
        name = (unknown[1] or unknown[2]).partition(".")[0]
        said = f"{where} takes no {name!r}{_choices(where, name)}"
    else:
        said = said if given is None or "Got value" in said or "Import path" in said else f"{said}. Got value: {given}"
        said = said if where is None else f"{where}: {said}"
    return f"{'.'.join(keys)}: {said}" if keys else said


def nearest_key(message: str, keys: Iterable[str]) -> str:
    """What to add to an error of a key that is not there.

    Args:
        message: Of jsonargparse.
        keys: Those that there are, such as ``trainer.max_steps``.

    Returns:
        A question for the nearest of them; empty for another error, or when none is near.
    """
    found = MISSPELLED.search(message)
    if found is None:
        return ""
    near = difflib.get_close_matches(".".join(filter(None, found.groups())), list(keys), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _choices(class_path: str, given: str) -> str:
    """The arguments of a class, the nearest name first, as the end of an error."""
    module, _, name = class_path.rpartition(".")
    known = [key for key in inspect.signature(getattr(import_module(module), name)).parameters if key != "self"]
    near = difflib.get_close_matches(given, known, 1)
    return (f"; did you mean {near[0]!r}?" if near else "") + f"\nIt takes {', '.join(known) or 'no arguments'}"
