import subprocess
import sys

import pytest
import torch

from flashvsr.cli import main


@pytest.mark.skipif(torch.cuda.is_available(), reason="the answers differ with a GPU")
def test_info_says_what_runs_and_why_the_rest_does_not(capfd):
    assert main(["info"]) == 0
    out, err = capfd.readouterr()
    assert "auto takes gather" in out
    assert "cannot run: needs an NVIDIA GPU" in out
    assert "auto takes sdpa" in out
    assert err == ""  # xformers' warning included


def test_a_reader_that_has_seen_enough_gets_no_traceback():
    child = subprocess.Popen([sys.executable, "-m", "flashvsr", "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.close()
    assert child.communicate()[1] == b""
    assert child.returncode == 1
