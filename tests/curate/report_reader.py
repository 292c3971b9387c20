"""Reads the report page as a browser would, without one."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from flashvsr.curate.report.page import write_report


class Page(HTMLParser):
    """What a browser would make of the page: elements, attributes, texts, tables by their captions."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.texts, self.tables, self.sheets = [], [], [], {}, {}
        self._cell = self._rows = self._section = None
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append(name)
        self.attributes += attributes
        if name == "section":
            self._section = dict(attributes)["id"]
        elif name == "li":
            self.sheets[self._section] = self.sheets.get(self._section, 0) + 1
        elif name == "tr":
            self._rows.append([])
        elif name in ("td", "th", "caption"):
            self._cell = ""

    def handle_endtag(self, name):
        if name == "caption":
            self._rows = self.tables.setdefault(self._cell, [])
        elif name in ("td", "th"):
            self._rows[-1].append(self._cell)
        if name in ("td", "th", "caption"):
            self._cell = None

    def handle_data(self, text):
        self.texts.append(text)
        if self._cell is not None:
            self._cell += text


def read(folder: Path) -> Page:
    """Write the report of a run and read it."""
    return Page(write_report(folder).read_text(encoding="utf-8"))
