"""A script for test_two_processes.py: train, stop, resume and export as one of two processes.

It writes model folders, and what each run logged and what was refused as JSON, under the folder it is given.
"""

import json
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader

from flashvsr.decoders import TinyDecoder, TinyVAE
from flashvsr.decoders.lit import DecoderStage
from flashvsr.models.lit import ExportModelFolder
from tests.processes import QUIET, place

CHANNELS = [8, 8, 8, 8]
RECIPE = {"class_path": "flashvsr.decoders.TinyDecoder", "init_args": {"channels": CHANNELS}}


def squared_error(sr, hr, first):
    loss = (sr - hr).square().flatten(1).mean(1)
    return loss, {"mse": loss.detach()}


def make_stage() -> DecoderStage:
    torch.manual_seed(0)
    vae = TinyVAE(encoder_channels=(4, 4, 4), channels=(4, 4, 4, 4))
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    stage = DecoderStage(TinyDecoder(channels=tuple(CHANNELS)), vae, squared_error, optimizer, latent_noise=0.1)
    stage.losses, log = [], stage.log

    def record(name, value, **arguments):
        if name == "train/loss":
            stage.losses.append(float(value))
        log(name, value, **arguments)

    stage.log = record
    return stage


def batches(world: int, rank: int) -> list[dict]:
    """An epoch of two batches of two samples, or this process's half of each."""
    made = []
    for step in range(2):
        hr = torch.rand(2, 3, 9, 16, 16, generator=torch.Generator().manual_seed(step)) - 0.5
        whole = {"hr": hr, "lr": 0.9 * hr, "seed": torch.tensor([2 * step, 2 * step + 1])}
        made.append({name: value[rank::world] for name, value in whole.items()})
    return made


def train(out: Path, name: str, strategy, *, world: int = 1, rank: int = 0, steps: int = 4, averaged=False, ckpt=None):
    """Train to `steps`; the folder `name` is what is exported and `name`.ckpt the last checkpoint."""
    export = ExportModelFolder(out / name, {"decoder": "decoder"})
    export.recipe = {"decoder": RECIPE}
    keep = ModelCheckpoint(out / "checkpoints", filename=name, save_on_train_epoch_end=True)
    callbacks = [EMAWeightAveraging(decay=0.5)] if averaged else []
    stage = make_stage()
    more = {"num_sanity_val_steps": 0, "callbacks": [*callbacks, keep, export], **QUIET}
    trainer = Trainer(devices=world, strategy=strategy, max_steps=steps, **more)
    loader = DataLoader(batches(world, rank), batch_size=None)
    # validated too: without, Lightning takes an epoch that has ended for one that goes on, and begins it once more
    trainer.fit(stage, loader, loader, ckpt_path=ckpt, weights_only=True)
    return stage.losses


def refusal(out: Path, name: str, strategy, **arguments) -> str:
    try:
        train(out, name, strategy, **arguments)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


STRATEGIES = {
    "ddp": lambda world: "ddp",
    "fsdp2": lambda world: ModelParallelStrategy(world, 1),
    "fsdp2_one_file": lambda world: ModelParallelStrategy(world, 1, save_distributed_checkpoint=False),
}


def main(out: Path) -> None:
    world, rank = place()
    warnings.filterwarnings("ignore")
    said = {}
    for name, strategy in STRATEGIES.items():
        more = {"world": world, "rank": rank, "averaged": name == "ddp"}
        whole = train(out, f"{name}_whole", strategy(world), **more)
        train(out, f"{name}_stopped", strategy(world), steps=2, **more)
        checkpoint = out / "checkpoints" / f"{name}_stopped.ckpt"
        said[name] = whole, train(out, f"{name}_resumed", strategy(world), ckpt=checkpoint, **more)
    more = {"world": world, "rank": rank}
    said["tensor_parallel"] = refusal(out, "tensor_parallel", ModelParallelStrategy(1, world), **more)
    (out / f"{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
