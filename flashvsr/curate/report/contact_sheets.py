"""Contact sheets: what was kept, and what was rejected for each reason, as pictures inside the page."""

from __future__ import annotations

import base64
from pathlib import Path, PurePosixPath
from typing import Any

from flashvsr.curate.report.markup import Markup, count, join, moment, shorten, tag
from flashvsr.curate.report.run_data import SHOWN, Group, Reason, Run

_PICTURE_BYTES = 64 << 10  # of one thumbnail: a larger one is none
_PAGE_BYTES = 6 << 20  # of all of them, before base64 adds a third
_PAGE_SAMPLES = 1000  # shared among the sheets


class Pictures:
    """Thumbnails as data addresses, until the page is full.

    Args:
        folder: That the names of thumbnails are relative to; nothing outside is read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._left = _PAGE_BYTES

    def address(self, name: str | None) -> str | None:
        """``data:`` address of a JPEG; None if there is none, it is damaged or too large, or the page is full."""
        if name is None:
            return None
        path = (self._folder / name).resolve()
        if not path.is_relative_to(self._folder) or not path.is_file() or path.stat().st_size > _PICTURE_BYTES:
            return None
        data = path.read_bytes()
        if not data.startswith(b"\xff\xd8\xff") or len(data) > self._left:
            return None
        self._left -= len(data)
        return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def contact_sheets(run: Run, pictures: Pictures) -> Markup:
    """The sections of kept and rejected samples."""
    reasons = run.reasons()
    many = min(SHOWN, _PAGE_SAMPLES // (1 + len(reasons)))
    kept = _sheet("Kept", run.kept, many, pictures, level="h2", mark="kept")
    sheets = [
        _sheet(title(reason), group, many, pictures, level="h3", mark=anchor(number), score=reason.score)
        for number, (reason, group) in enumerate(reasons)
    ]
    nothing = tag("p", "Nothing was rejected.", class_="note")
    rejected = tag("section", tag("h2", "Rejected"), *(sheets or [nothing]), id="rejected")
    return join([kept, rejected], "\n")


def title(reason: Reason) -> str:
    """Stage and words of a reason; the stage once where it has the name of its score."""
    return reason.words if reason.score == reason.stage else f"{reason.stage}: {reason.words}"


def anchor(number: int) -> str:
    """Identifier of the sheet of the n-th reason."""
    return f"reason-{number}"


def _sheet(
    heading: str, group: Group, many: int, pictures: Pictures, *, level: str, mark: str, score: str | None = None
) -> Markup:
    shown = group.shown(many, score)
    note = f"showing {count(len(shown))} of {count(group.count)}"
    if score:
        note += f", by {score}"
    elif len(shown) < group.count:
        note += ", a fixed random choice"
    found = [pictures.address(record["thumbnail"]) for record in shown]
    cards = [_card(record, address, any(found)) for record, address in zip(shown, found, strict=True)]
    return tag(
        "section",
        tag(level, heading, " ", tag("small", note)),
        tag("ul", join(cards, "\n"), class_="sheet", role="list") if cards else tag("p", "Nothing.", class_="note"),
        id=mark,
    )


def _card(record: dict[str, Any], address: str | None, placeholder: bool) -> Markup:
    """One sample; without a picture a placeholder, unless its whole sheet has none."""
    source, when = record["source"], _when(record)
    picture = tag("span", "no picture", class_="missing") if placeholder else Markup("")
    if address:
        picture = tag("img", src=address, alt=f"{shorten(source, 80)}, {when}", decoding="async")
    lines = [tag("b", shorten(PurePosixPath(source).name, 44), title=shorten(source, 1000)), tag("span", when)]
    if form := _form(record):
        lines.append(tag("span", form))
    if record["reason"]:
        lines.append(tag("span", shorten(record["reason"], 120), class_="why"))
    scores = " · ".join(f"{name} {value:.4g}" for name, value in sorted(record["scores"].items()) if value is not None)
    return tag("li", picture, tag("div", *lines, class_="caption"), title=scores or None)


def _when(record: dict[str, Any]) -> str:
    if record["kind"] == "photo":
        return "photograph"
    length = f"{moment(record['start'])} to {moment(record['end'])}"
    return length if record["end"] > record["start"] else "video of unknown length"


def _form(record: dict[str, Any]) -> str:
    height, width = record["size"]
    size = [f"{width}x{height}"] if width else []
    rate = [f"{record['fps']:.4g} fps"] if record["fps"] else []
    return " · ".join(size + rate)
