"""The list of files: strangers' names cannot become HTML, and a state shows in words."""

from pathlib import Path

from flashvsr.app.listing import status, table
from flashvsr.app.queued_file import QueuedFile, Settings, State
from flashvsr.app.uploads import Upload


def file(name="clip.mp4", **changes):
    upload = Upload(Path("input.mp4"), name, False, 320, 180, 250, 25.0)
    return QueuedFile(7, upload, total=250, **changes)


def test_a_name_with_html_is_shown_and_not_run():
    name = '<img src=x onerror="alert(1)">.mp4'
    shown = table([file(name, log=[f"10:00:00  {name}"], output=Path(f"{name}_4x.mp4"))], 0)
    assert "<img" not in shown and 'onerror="' not in shown
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;.mp4" in shown


def test_a_running_file_shows_frames_speed_and_the_time_left():
    running = file(settings=Settings(size="2x"), target=(360, 640), state=State.RUNNING, done=100, fps=2.0)
    assert status(running) == "100 of 250 frames, 2.00 fps, about 1 min 15 s left"
    shown = table([running], 7)
    assert "width: 40.0%" in shown and "320x180 to 640x360, 10 s" in shown and 'data-action="stop"' in shown
    assert 'data-action="remove"' not in shown


def test_buttons_fit_the_state():
    kept = table([file(state=State.STOPPED, done=50)], 0)
    assert ">Resume</button>" in kept and "50 frames are kept" in kept
    assert ">Try again</button>" in table([file(state=State.FAILED, log=["10:00:00  failed: bad"])], 0)
    assert 'href="result/7"' in table([file(state=State.DONE, log=["10:00:00  done"], output=Path("a.mp4"))], 0)


def test_a_failure_shows_its_words_and_its_traceback():
    shown = table([file(state=State.FAILED, log=["10:00:00  failed: the disk is full"], trace="Traceback: x")], 0)
    assert "failed: the disk is full" in shown and "Traceback: x" in shown
