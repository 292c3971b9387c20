"""HTML that cannot hold unescaped text, and how the report writes numbers."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_VOID = ("br", "img", "link", "meta")


class Markup(str):
    """Text that is HTML already; every other string is escaped when it becomes part of a page."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: object) -> Markup:
    """An element.

    Args:
        name: Such as ``p`` or ``svg``.
        children: Markup as it is, other strings escaped.
        attributes: Their values are escaped; None leaves one out. A trailing underscore of a name is dropped and
            others become hyphens (``class_``, ``aria_label``).
    """
    pairs = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None]
    opening = name + "".join(f' {key}="{escape(value)}"' for key, value in pairs)
    if name in _VOID:
        return Markup(f"<{opening}>")
    return Markup(f"<{opening}>{join(children)}</{name}>")


def join(parts: Iterable[str], between: str = "") -> Markup:
    """Parts one after the other: markup as it is, other strings escaped."""
    return Markup(between.join(part if isinstance(part, Markup) else escape(part) for part in parts))


def escape(text: object) -> Markup:
    r"""Text for a page or an attribute. What cannot be seen, or turns text around, becomes ``\uXXXX``.

    File names are input of strangers: control characters, direction overrides and the lone surrogates that stand for
    undecodable bytes would hide what a name is, or break the encoding of the page.
    """
    visible = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in str(text))
    return Markup(html.escape(visible, quote=True))


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the middle left out."""
    if len(text) <= length:
        return text
    tail = length * 2 // 3
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    caption: str,
    numbers: Sequence[int] = (),
    wide: int | None = None,
) -> Markup:
    """A table whose first column names the rows.

    Args:
        head: Of the columns.
        rows: As many cells each.
        caption: Read by screen readers, unseen.
        numbers: Columns set flush right.
        wide: Column of bars, which takes the room that is left.
    """
    styles = dict.fromkeys(numbers, "number") | ({} if wide is None else {wide: "bars"})

    def cells(values: Sequence[str], *, top: bool) -> Markup:
        made = []
        for column, value in enumerate(values):
            scope = "col" if top else "row" if not column else None
            made.append(tag("th" if scope else "td", value, scope=scope, class_=styles.get(column)))
        return join(made)

    lines = [tag("tr", cells(row, top=False)) for row in rows]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", cells(head, top=True))),
            tag("tbody", join(lines, "\n")),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def count(number: int) -> str:
    """With a comma at every thousand."""
    return f"{number:,}"


def plural(number: int, word: str) -> str:
    """``1 clip``, ``2,000 clips``."""
    return f"{count(number)} {word}{'' if number == 1 else 's'}"


def share(part: float, whole: float) -> str:
    """In percent; a dash for nothing. A share that is rounded never reads 0 % or 100 %."""
    if whole <= 0:
        return "-"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def duration(seconds: float) -> str:
    """``h:mm:ss``; of less than a minute, tenths of a second too."""
    tenths = round(seconds * 10)
    if 0 < tenths < 600:
        return f"0:00:{tenths // 10:02d}.{tenths % 10}"
    whole = round(seconds)
    return f"{whole // 3600:,}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def moment(seconds: float) -> str:
    """A place in a video: ``m:ss.t``."""
    tenths = round(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


def size(number: int) -> str:
    """Bytes in the largest fitting unit."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**power:
            return f"{number / 1024**power:.1f} {unit}"
    return f"{number} B"


def figure(value: float) -> str:
    """A score: three significant digits, no exponent between a thousandth and a million."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.1e}"
