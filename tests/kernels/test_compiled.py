"""All kernels as they are launched, compiled ahead of time for GPUs that this machine need not have."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed: register use was not checked")

from flashvsr.kernels.available import COMPILED_FOR, RAN_ON  # noqa: E402

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compiled_kernels.py"
compiles = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compiled_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@compiles
def test_norms_and_sums_fit_a_small_gpu(script):
    rows = script.compile_all("8.6", ["norm_rope", "residual"])
    assert {row.kernel for row in rows} == {"_norm_rope", "_add_norm"}
    assert len(rows) == 5
    assert all(row.fits() for row in rows)
    assert all(16 <= row.registers <= 128 for row in rows)


@compiles
def test_a_kernel_that_needs_more_shared_memory_than_its_gpu_has_does_not_fit(script):
    row = script.Compiled("8.6", "attend_forward", "", 255, 0, 100.0)
    assert not row.fits()
    assert script.Compiled("8.0", "attend_forward", "", 255, 0, 100.0).fits()
    assert not script.Compiled("8.0", "attend_forward", "", 255, 16, 100.0).fits()


def test_the_script_compiles_for_every_gpu_of_which_info_says_something(script):
    assert {tuple(map(int, name.split("."))) for name in script.SHARED_KIB} == {*COMPILED_FOR, *RAN_ON}


@compiles
def test_nothing_is_launched_and_what_stands_in_is_taken_back(script):
    run, properties = script.JITFunction.run, torch.cuda.get_device_properties
    with script.compiling("8.9") as compiled:
        pass
    assert compiled == []
    assert (script.JITFunction.run, torch.cuda.get_device_properties) == (run, properties)


@pytest.mark.slow  # some thirty kernels, a second or two each
@compiles
@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0"])
def test_every_kernel_fits_registers_and_shared_memory(capability, script):
    rows = script.compile_all(capability, script.KERNELS)
    assert len({row.case for row in rows}) >= 7
    assert [row for row in rows if not row.fits()] == []
