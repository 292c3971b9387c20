"""A run that is killed goes on, and ends with the bytes of a run that was not."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flashvsr.curate.records import read_lines
from flashvsr.curate.run import curate
from tests.curate.footage import RULES, make_footage

PROGRAM = """
import sys
from pathlib import Path
from footage import RULES
from flashvsr.curate.run import curate
def tell(line):
    print(line, flush=True)
curate([sys.argv[1]], sys.argv[2], RULES, workers=int(sys.argv[3]), resume=True, on_progress=tell)
print("ended", flush=True)
"""


def start(footage, out, workers):
    command = [sys.executable, "-c", PROGRAM, str(footage), str(out), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)


def bytes_of(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "journal" not in path.parts
    }


def kill_after(process, lines):
    """Kill the program when it has told so many lines; the number of sources that were done then."""
    told = []
    for line in process.stdout:
        told.append(line)
        if len(told) > lines:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return told


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    return make_footage(tmp_path_factory.mktemp("footage") / "raw")


@pytest.fixture(scope="module")
def whole(footage, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    curate([footage], out, RULES, workers=0)
    return out


@pytest.fixture(scope="module")
def killed(footage, tmp_path_factory):
    out = tmp_path_factory.mktemp("killed") / "out"
    kill_after(start(footage, out, 0), 7)
    return out


def test_a_killed_run_goes_on_where_it_was(footage, whole, killed, tmp_path):
    out = shutil.copytree(killed, tmp_path / "out")
    done = {path.name: path.stat().st_mtime_ns for path in (out / "journal" / "sources").iterdir()}
    assert 1 <= len(done) < 20
    assert not (out / "manifest.jsonl").exists()
    curate([footage], out, RULES, workers=0, resume=True)
    assert bytes_of(out) == bytes_of(whole)
    assert all((out / "journal" / "sources" / name).stat().st_mtime_ns == time for name, time in done.items())


def test_a_half_written_shard_and_journal_entry_do_no_harm(footage, whole, killed, tmp_path):
    out = shutil.copytree(killed, tmp_path / "out")
    (out / "train").mkdir(exist_ok=True)
    (out / "train" / ".shard-00000.tar.xyz.partial").write_bytes(b"half")
    (out / "train" / "shard-00000.tar").write_bytes(b"half")
    curate([footage], out, RULES, workers=0, resume=True)
    assert bytes_of(out) == bytes_of(whole)


@pytest.mark.slow  # eleven starts of a process; three with a Ray of their own
@pytest.mark.parametrize(("workers", "kills"), [(0, 10), (2, 2)])
def test_kills_at_random_moments_leave_no_trace(footage, whole, tmp_path, workers, kills):
    out, moments = tmp_path / "out", random.Random(workers)
    killed = 0
    for _ in range(kills):
        process = start(footage, out, workers)
        try:
            process.wait(moments.uniform(1.0, 5.0) + 8 * (workers > 0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    assert 2 * killed >= kills, "the moments were too late to mean anything"
    assert "ended" in start(footage, out, workers).communicate()[0]
    assert bytes_of(out) == bytes_of(whole)
    assert list(read_lines(out / "manifest.jsonl"))
