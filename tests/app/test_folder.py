"""The private folder of a page: nothing outlives it, nothing of others is touched."""

import subprocess
import sys
from pathlib import Path

import pytest

from flashvsr.app import WorkFolder


def test_a_folder_is_gone_when_its_page_ends(tmp_path):
    with WorkFolder(tmp_path) as folder:
        (folder.uploads / "film.mp4").write_bytes(b"private")
        assert folder.path.stat().st_mode & 0o077 == 0 or sys.platform == "win32"
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_page_is_swept_by_the_next_one(tmp_path):
    # exec of another program ends this one as a kill would: nothing of it is cleaned up
    code = (
        "import os, sys; from flashvsr.app.folder import WorkFolder; folder = WorkFolder(sys.argv[1]); "
        "(folder.files / 'film.mp4').write_bytes(b'private'); print(folder.path, flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 9
    left = done.stdout.strip()
    assert (tmp_path / left / "files" / "film.mp4").exists()
    with WorkFolder(tmp_path) as folder:
        assert [str(path) for path in folder.swept] == [left]
        assert not Path(left).exists()


def test_the_folder_of_a_page_that_runs_is_not_swept(tmp_path):
    with WorkFolder(tmp_path) as running, WorkFolder(tmp_path) as other:
        assert other.swept == []
        assert running.files.is_dir()


def test_a_folder_that_no_page_made_and_a_link_are_not_swept(tmp_path):
    (tmp_path / "flashvsr-app-mine").mkdir()
    (tmp_path / "flashvsr-app-mine" / "notes.txt").write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    (tmp_path / "flashvsr-app-link").symlink_to(elsewhere)
    with WorkFolder(tmp_path) as folder:
        assert folder.swept == []
    assert (tmp_path / "flashvsr-app-mine" / "notes.txt").exists() and (elsewhere / "lock").exists()


def test_a_missing_parent_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        WorkFolder(tmp_path / "nowhere")
