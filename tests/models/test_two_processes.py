"""Two processes leave the checkpoints and the model folder that one leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flashvsr.models import component
from tests.models.two_processes import STRATEGIES, train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on loggers, workers and devices


@pytest.fixture(scope="module")
def trained(run_processes, tmp_path_factory) -> Path:
    """What two processes wrote; and one, in the folders ``one`` and ``one_averaged``."""
    out = tmp_path_factory.mktemp("trained")
    run_processes(Path(__file__).with_name("two_processes.py"), out)
    for averaged in (False, True):
        train(out, "one_averaged" if averaged else "one", "auto", averaged=averaged)
    return out


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return component(folder, "decoder").state_dict()


@pytest.mark.slow  # the fixture: two processes import Lightning and train nine times
@pytest.mark.parametrize(("strategy", "alone"), [("ddp", "one_averaged"), ("fsdp2", "one")])
def test_the_exported_weights_are_those_of_one_process_on_the_same_batches(trained, strategy, alone):
    written = _weights(trained / f"{strategy}_whole")
    for name, value in _weights(trained / alone).items():
        torch.testing.assert_close(written[name], value, rtol=1e-3, atol=1e-6)
    stopped = _weights(trained / f"{strategy}_stopped")
    assert any((stopped[name] - value).abs().max() > 1e-3 for name, value in written.items())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_resumed_run_has_the_same_losses_and_exports_the_same_weights(trained, strategy):
    for rank in (0, 1):
        whole, resumed = json.loads((trained / f"{rank}.json").read_text())[strategy]
        assert len(whole) == 4
        assert resumed == whole[2:]
    expected = _weights(trained / f"{strategy}_whole")
    for name, value in _weights(trained / f"{strategy}_resumed").items():
        assert torch.equal(value, expected[name])


@pytest.mark.slow
def test_averages_are_not_the_last_weights(trained):
    averaged, last = _weights(trained / "one_averaged"), _weights(trained / "one")
    assert any((averaged[name] - value).abs().max() > 1e-3 for name, value in last.items())


@pytest.mark.slow
def test_processes_kept_for_tensor_parallelism_are_refused(trained):
    for rank in (0, 1):
        said = json.loads((trained / f"{rank}.json").read_text())["tensor_parallel"]
        assert "tensor_parallel_size=1" in said
    assert not (trained / "tensor_parallel").exists()
