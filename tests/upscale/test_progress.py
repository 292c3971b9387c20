"""What stays on a terminal of the bar."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flashvsr.upscale import progress
from flashvsr.upscale.progress import Bar, frame_count

CLEAR_LINE, UP = "\x1b[2K", "\x1b[1A"


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 80 columns receives."""
    received = io.StringIO()

    def console(**options):
        return Console(file=received, force_terminal=True, width=80, highlight=False)

    monkeypatch.setattr(progress, "Console", console)
    return received


def rows_left(received: str) -> list[str]:
    """The rows of the screen, for text that clears whole rows only."""
    rows, at = [""], 0
    for piece in received.replace(UP, f"\0{UP}\0").replace(CLEAR_LINE, f"\0{CLEAR_LINE}\0").split("\0"):
        if piece == UP:
            at -= 1
        elif piece == CLEAR_LINE:
            rows[at] = ""
        else:
            first, *more = piece.split("\n")
            rows[at] += first
            for row in more:
                at += 1
                rows[at:] = [row, *rows[at + 1 :]]
    return rows


def test_a_bar_that_counted_nothing_leaves_no_row(terminal):
    with Bar() as bar:
        bar.line("[2/4] broken.mov")
    left = rows_left(terminal.getvalue())
    assert any("broken.mov" in row for row in left)
    assert not any("frames" in row for row in left)


def test_a_bar_that_counted_stays(terminal):
    with Bar() as bar:
        bar.start(0, 24)
        bar.update(24)
    assert any("24/24" in row for row in rows_left(terminal.getvalue()))


def test_one_frame_is_no_plural():
    assert (frame_count(0), frame_count(1), frame_count(24)) == ("0 frames", "1 frame", "24 frames")
