"""The Lightning callback that compiles the networks of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn


class CompileNetworks(Callback):
    """Compile networks of a stage with ``torch.compile`` when a training begins.

    A small network on few tokens waits for the launches of its kernels, not for its products: compiled, many become
    one, and with ``mode="reduce-overhead"`` CUDA graphs launch them together. What cannot be compiled, such as a kernel
    of ours, runs as before between compiled parts. Weights, checkpoints and exports are those of the plain network, and
    validation runs it as it is: a sampler holds on to velocities that the next replay of a CUDA graph would overwrite.
    The first step of each size takes a minute or more.

    Args:
        networks: Attributes of the LightningModule; one that is None is passed over.
        mode: Of ``torch.compile``; None for its default.
        backend: Of ``torch.compile``.

    Raises:
        ValueError: If there are no names; when training starts, if the stage has no such network.
    """

    def __init__(self, networks: Sequence[str], mode: str | None = None, backend: str = "inductor") -> None:
        if not networks:
            raise ValueError("networks names what to compile, such as [dit, projection]")
        self.networks, self.mode, self.backend = list(networks), mode, backend
        self._plain = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile; the work is done at the first call of each network."""
        if stage != "fit":
            return
        for name in self.networks:
            network = getattr(pl_module, name, self)
            if network is None:
                continue
            if not isinstance(network, nn.Module):
                there = ", ".join(child for child, _ in pl_module.named_children())
                raise ValueError(f"CompileNetworks: the stage has no network {name!r}; it has {there}")
            network.compile(mode=self.mode, backend=self.backend, dynamic=False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run plain networks."""
        self._plain.enter_context(torch.compiler.set_stance("force_eager"))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run compiled networks again."""
        self._plain.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise, after what ended a validation."""
        self._plain.close()
