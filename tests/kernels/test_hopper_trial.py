"""The trial of the Hopper kernels: its verdict, how long it is kept, and what becomes of kernels that hang or crash."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from flashvsr.attention.impl import hopper as impl_hopper
from flashvsr.kernels import hopper_trial

triton = pytest.importorskip("triton", reason="triton is not installed: nothing is tried without it")

DEVICE = torch.device("cuda", 1)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list:
    """Commands of trials held; the last entry of ``runs.ends`` says how a trial ends."""

    class Runs(list):
        end: object = '{"verdict": "passed", "words": "fine"}'

    held = Runs()

    def run(command, **options):
        held.append(command)
        if isinstance(held.end, BaseException):
            raise held.end
        status, printed, complaint = held.end if isinstance(held.end, tuple) else (0, held.end, "")
        return subprocess.CompletedProcess(command, status, printed, complaint)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    monkeypatch.setattr(hopper_trial, "_driver_version", lambda: "13000")
    monkeypatch.setattr(hopper_trial.subprocess, "run", run)
    return held


def test_a_trial_is_held_once_and_its_verdict_kept(runs, tmp_path):
    for _ in range(2):
        passed, words = hopper_trial.try_hopper(DEVICE, torch.bfloat16)
        assert passed
        assert words == f"a trial on this GPU with triton {triton.__version__} passed"
    assert len(runs) == 1
    assert runs[0][1:] == ["-m", "flashvsr.kernels.hopper_trial", "1", "bfloat16"]
    assert [path.suffix for path in (tmp_path / "cache" / "flashvsr").iterdir()] == [".json"]


@pytest.mark.parametrize("what", ["triton", "torch", "driver", "GPU", "dtype"])
def test_another_version_driver_gpu_or_dtype_is_tried_anew(what, runs, monkeypatch):
    hopper_trial.try_hopper(DEVICE, torch.bfloat16)
    dtype = torch.float16 if what == "dtype" else torch.bfloat16
    if what == "triton":
        monkeypatch.setattr(triton, "__version__", "3.99.0")
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9.9")
    if what == "driver":
        monkeypatch.setattr(hopper_trial, "_driver_version", lambda: "14000")
    if what == "GPU":
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    hopper_trial.try_hopper(DEVICE, dtype)
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ('{"verdict": "failed", "words": "output errs by 1.0e+00"}', "output errs by 1.0e+00"),
        (subprocess.TimeoutExpired("python", 120), "did not end within 120 s"),
        ((-11, "", "loading\nan illegal address"), "ended with status -11: an illegal address"),
    ],
)
def test_kernels_that_err_hang_or_crash_fail_for_good(end, words, runs):
    runs.end = end
    for _ in range(2):
        passed, said = hopper_trial.try_hopper(DEVICE, torch.bfloat16)
        assert not passed
        assert words in said
        assert str(hopper_trial.verdict_path(DEVICE, torch.bfloat16)) in said
    assert len(runs) == 1


@pytest.mark.parametrize("end", ['{"verdict": "undecided", "words": "out of memory"}', OSError("no more processes")])
def test_a_trial_that_could_not_be_held_is_held_again(end, runs):
    runs.end = end
    for _ in range(2):
        passed, said = hopper_trial.try_hopper(DEVICE, torch.bfloat16)
        assert not passed
        assert "undecided" in said
    assert len(runs) == 2


def test_a_folder_that_cannot_be_written_costs_another_trial_only(runs, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert hopper_trial.try_hopper(DEVICE, torch.bfloat16)[0]
    assert len(runs) == 2
    assert "could not be kept" in caplog.text


def test_a_damaged_verdict_is_replaced(runs):
    path = hopper_trial.verdict_path(DEVICE, torch.bfloat16)
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert hopper_trial.try_hopper(DEVICE, torch.bfloat16)[0]
    assert json.loads(path.read_text())["verdict"] == "passed"


@pytest.mark.parametrize("errors", [{"output": 1e-3}, {"output": 0.5}, {"output": float("nan")}])
def test_only_small_errors_pass(errors, monkeypatch):
    monkeypatch.setattr(hopper_trial, "measure_errors", lambda device, dtype, seed: errors)
    verdict = hopper_trial.hold_here(torch.device("cpu"), torch.bfloat16)["verdict"]
    assert verdict == ("passed" if errors["output"] < 0.01 else "failed")


def test_no_memory_left_on_the_gpu_decides_nothing(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(hopper_trial, "measure_errors", fail)
    found = hopper_trial.hold_here(torch.device("cpu"), torch.bfloat16)
    assert found == {"verdict": "undecided", "words": "CUDA out of memory"}


WHY_NOT = (
    impl_hopper.unavailable(torch.device("cuda"), torch.bfloat16, 128, True)
    if torch.cuda.is_available()
    else "no CUDA GPU"
)


@pytest.mark.gpu
@pytest.mark.skipif(WHY_NOT is not None, reason=f"{WHY_NOT}: no trial was held")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_trial_on_this_gpu_passes(dtype, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hopper_trial.try_hopper(torch.device("cuda"), dtype)[0]
    kept = json.loads(hopper_trial.verdict_path(torch.device("cuda"), dtype).read_text())
    assert kept["words"].startswith("output errs by")
