from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from flashvsr.attention import FullAttention, LocalSparseAttention
from flashvsr.attention.lit import AttentionDistillation, RandomTokens

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on loggers, workers and devices
GRID = (4, 16, 16)


def _student() -> LocalSparseAttention:
    return LocalSparseAttention(16, 2, window_hw=(3, 3), sparse_ratio=0.02, history=1, rule="keep_all_when_covered")


def _stage(teacher=None, lr=0.02, **arguments) -> AttentionDistillation:
    torch.manual_seed(0)
    teacher = FullAttention(16, 2) if teacher is None else teacher
    return AttentionDistillation(_student(), teacher, partial(torch.optim.Adam, lr=lr), **arguments)


def _fit(stage, batches: int) -> dict[str, list[float]]:
    logged: dict[str, list[float]] = {}
    stage.log = lambda key, value, **_: logged.setdefault(key, []).append(float(value))
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    Trainer(accelerator="cpu", max_epochs=1, **quiet).fit(stage, RandomTokens(16, GRID, batches=batches))
    return logged


def test_a_sparse_layer_halves_its_loss_and_the_teacher_stays():
    stage = _stage(lr=0.01)
    before = {name: value.clone() for name, value in stage.teacher.state_dict().items()}
    batch = next(iter(RandomTokens(16, GRID).train_dataloader()))
    stage.log = lambda *_, **__: None
    optimizer = stage.configure_optimizers()["optimizer"]
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = stage.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    for name, value in stage.teacher.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_gradient_reaches_every_parameter_of_the_student_and_none_of_the_teacher():
    stage = _stage()
    logged = _fit(stage, 1)
    found = {name for name, parameter in stage.named_parameters() if parameter.grad is not None}
    assert found == {name for name, _ in stage.named_parameters() if name.startswith("student.")}
    assert set(logged) == {"train/block_kl", "train/output_mse", "train/loss", "train/grad_norm_student"}


@pytest.mark.parametrize("teacher", [FullAttention, LocalSparseAttention])
def test_a_student_that_sees_everything_and_starts_from_the_teacher_has_nothing_to_learn(teacher):
    torch.manual_seed(0)
    dense = {"window_hw": (9, 9), "sparse_ratio": 1e3, "history": 2, "rule": "keep_all_when_covered"}
    layer = teacher(16, 2) if teacher is FullAttention else teacher(16, 2, **dense)
    student = LocalSparseAttention(16, 2, **dense)
    stage = AttentionDistillation(student, layer, torch.optim.Adam, start_from_teacher=True)
    logged = _fit(stage, 1)
    assert logged["train/loss"][0] < 1e-8


def test_each_weight_counts():
    batch = next(iter(RandomTokens(16, GRID).train_dataloader()))
    losses = []
    for kl_weight, mse_weight in ((1, 0), (0, 1), (2, 3)):
        stage = _stage(kl_weight=kl_weight, mse_weight=mse_weight)
        stage.log = lambda *_, **__: None
        losses.append(float(stage.training_step(batch, 0).detach()))
    assert min(losses) > 0
    assert losses[2] == pytest.approx(2 * losses[0] + 3 * losses[1], rel=1e-5)


def test_random_tokens_are_seeded_and_share_a_part_within_a_block():
    first, second = (list(RandomTokens(8, GRID, 2, batches=2, seed=3).train_dataloader()) for _ in range(2))
    assert len(first) == 2
    assert torch.equal(first[1]["tokens"], second[1]["tokens"])
    assert not torch.equal(first[0]["tokens"], first[1]["tokens"])
    grid = first[0]["tokens"].unflatten(1, GRID)
    means = grid.unflatten(1, (2, 2)).unflatten(3, (2, 8)).unflatten(5, (2, 8)).mean((2, 4, 6))
    assert means.std() > 0.7


def test_layers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="the student is a LocalSparseAttention, got FullAttention"):
        AttentionDistillation(FullAttention(16, 2), FullAttention(16, 2), torch.optim.Adam)
    with pytest.raises(ValueError, match="as many heads, got 2 and 4"):
        AttentionDistillation(_student(), FullAttention(16, 4), torch.optim.Adam)
    with pytest.raises(ValueError, match="3 latent frames cannot be cut"):
        RandomTokens(8, (3, 8, 8))


@pytest.mark.slow  # three processes import Lightning
def test_two_processes_of_ddp_and_of_fsdp2_distil_as_one_does_on_the_same_batch(assert_trains_like_one_process):
    assert_trains_like_one_process(Path(__file__).with_name("spread_attention.py"))
