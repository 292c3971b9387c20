"""Model folders: `model.yaml` says how each component is built, a safetensors file beside it holds its weights.

::

    format: 1
    steps: 1                      # sampling steps; a stream needs 1
    shift: 5.0                    # of the noise levels of those steps; left out for 5
    solver: heun                  # how they are taken; left out for euler
    color: adain                  # colour correction the model wants; left out for adain
    foreign: [mine.MyDecoder]     # classes outside flashvsr, which need trust to be built; left out without any
    components:
      projection:                 # weights: projection.safetensors
        class_path: flashvsr.models.LRProjection
        init_args: {hidden: [64, 96], dim: 256}
      dit:
        class_path: flashvsr.models.VideoDiT
        init_args:
          dim: 256
          attention:              # built without (dim, heads): a factory
            class_path: flashvsr.attention.LocalSparseAttention
            init_args: {rule: keep_all_when_covered}
      decoder: ...
      vae: ...
      encoder: ...                # of a conditional autoencoder, whose decoder is `decoder`
      prompt: {shape: [1, 512, 4096]}   # weights: the tensor "prompt" in prompt.safetensors
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from flashvsr.models.class_paths import build, foreign_classes
from flashvsr.models.sampler import DEFAULT_SHIFT, known_solver
from flashvsr.models.weight_files import build_empty, load_tensors, read_tensors

FORMAT = 1
DESCRIPTION = "model.yaml"
COMPONENTS = ("projection", "dit", "decoder", "vae", "encoder", "prompt")


@dataclass(frozen=True)
class Component:
    """One part of a model: how it is built, and its weights.

    Args:
        class_path: Class or builder under ``flashvsr.``.
        init_args: Its arguments: plain values, and ``{"class_path": ..., "init_args": ...}``.
        weights: The trained module, or a file of tensors.
    """

    class_path: str
    init_args: Mapping[str, Any]
    weights: nn.Module | Path

    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and buffers by name; those of a file are mapped from it."""
        return read_tensors(self.weights) if isinstance(self.weights, Path) else self.weights.state_dict()

    def build(
        self, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None, trust_code: bool = False
    ) -> nn.Module:
        """Build the module and load its weights, tensor by tensor: memory is that of the result.

        Args:
            device: Where it goes.
            dtype: Of its parameters; None keeps that of the weights.
            trust_code: See :func:`~flashvsr.models.class_paths.build`.

        Returns:
            A new module in evaluation mode.

        Raises:
            ValueError: If the weights do not fit, or the class or an argument is not accepted.
        """
        source = str(self.weights) if isinstance(self.weights, Path) else f"the given {type(self.weights).__name__}"
        tensors = self.tensors()
        module = build_empty(lambda: build(self.class_path, self.init_args, trust_code=trust_code))
        return load_tensors(module, tensors, source, device=device, dtype=dtype).eval()


@dataclass(frozen=True)
class ModelFolder:
    """What a folder holds, ours or a published one.

    Args:
        path: The folder.
        components: Networks by name, of :data:`COMPONENTS`.
        prompt: Text embedding `[1, L, text_dim]`; None for a model without.
        steps: Sampling steps the transformer was trained for.
        color: Colour correction the model wants: ``"adain"`` as released, or ``"none"`` where the decoder was trained
            to keep the colours itself.
        shift: Of the noise levels of those steps, see :class:`~flashvsr.models.FlowSchedule`.
        solver: Likewise.
    """

    path: Path
    components: Mapping[str, Component]
    prompt: Tensor | None = None
    steps: int = 1
    color: str = "adain"
    shift: float = DEFAULT_SHIFT
    solver: str = "euler"

    def component(self, name: str) -> Component:
        """The component of that name.

        Raises:
            ValueError: If the folder has none.
        """
        if name not in self.components:
            present = ", ".join(self.components) or "nothing"
            raise ValueError(f"{self.path} has no {name}; it has {present}")
        return self.components[name]

    def replaced(self, **modules: nn.Module) -> ModelFolder:
        """The same with newly trained modules in place of the weights of some components."""
        new = {name: replace(self.component(name), weights=module) for name, module in modules.items()}
        return replace(self, components={**self.components, **new})


def read_model_folder(path: str | Path) -> ModelFolder:
    """Read the description of a folder of ours; weights are opened when a component is built.

    Args:
        path: The folder.

    Returns:
        Its components.

    Raises:
        FileNotFoundError: If the folder, its description or a component's file is not there.
        ValueError: If the description has an unknown or missing key, or another format.
    """
    path = Path(path)
    file = path / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(f"{path} is not a model folder: {DESCRIPTION} is missing")
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        found = said.get("format") if isinstance(said, dict) else None
        raise ValueError(f"{file} has format {found!r}; this version of flashvsr reads format {FORMAT}")
    _check_keys(
        file, "", said, required=("format", "steps", "components"), optional=("color", "shift", "solver", "foreign")
    )
    _check_keys(file, "components.", said["components"], optional=COMPONENTS)
    if not isinstance(said["steps"], int) or said["steps"] < 1:
        raise ValueError(f"{file}: steps is a whole number of at least 1, got {said['steps']!r}")
    shift = said.get("shift", DEFAULT_SHIFT)
    if not isinstance(shift, int | float) or shift <= 0:
        raise ValueError(f"{file}: shift is a positive number, got {shift!r}")
    try:
        solver = known_solver(said.get("solver", "euler"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    components, prompt = {}, None
    for name, entry in said["components"].items():
        weights = path / f"{name}.safetensors"
        if not weights.is_file():
            raise FileNotFoundError(f"{weights} is missing, {DESCRIPTION} lists it")
        if name == "prompt":
            _check_keys(file, "components.prompt.", entry, required=("shape",))
            prompt = _read_prompt(weights, entry["shape"])
            continue
        _check_keys(file, f"components.{name}.", entry, required=("class_path",), optional=("init_args",))
        components[name] = Component(entry["class_path"], entry.get("init_args") or {}, weights)
    return ModelFolder(path, components, prompt, said["steps"], said.get("color", "adain"), shift, solver)


def save_model_folder(
    path: str | Path,
    components: Mapping[str, Component],
    *,
    prompt: Tensor | None = None,
    steps: int = 1,
    color: str = "adain",
    shift: float = DEFAULT_SHIFT,
    solver: str = "euler",
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model folder, whole or not at all; in a folder that exists, files of other names stay.

    Args:
        path: The folder to make.
        components: Networks by name, ``projection``, ``dit``, ``decoder``, ``vae``, ``encoder``: as many as
            there are.
        prompt: Text embedding `[1, L, text_dim]`; None for a model without.
        steps: Sampling steps the transformer was trained for.
        color: Colour correction the model wants, see :class:`ModelFolder`.
        shift: Of the noise levels of those steps, see :class:`ModelFolder`.
        solver: Likewise.
        dtype: Convert floating-point tensors; None keeps each as it is.
        overwrite: Replace a model that is in the folder.

    Raises:
        FileExistsError: If `path` exists and `overwrite` is False.
        NotADirectoryError: If `path` is a file.
        ValueError: If a component's name is unknown.
    """
    path = Path(path)
    unknown = [name for name in components if name not in COMPONENTS or name == "prompt"]
    if unknown:
        raise ValueError(f"components are projection, dit, decoder, vae and encoder; got {', '.join(unknown)}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another folder, or pass overwrite=True")
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file, not a folder to write a model in: choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path if path.exists() else path.parent))
    try:
        new = work / "new"
        new.mkdir(mode=0o755)
        entries: dict[str, Any] = {}
        for name, component in components.items():
            entries[name] = {"class_path": component.class_path, "init_args": plain_values(component.init_args)}
            _write(new / f"{name}.safetensors", component.tensors(), dtype)
        if prompt is not None:
            entries["prompt"] = {"shape": list(prompt.shape)}
            _write(new / "prompt.safetensors", {"prompt": prompt}, dtype)
        foreign = {name for part in components.values() for name in foreign_classes(part.class_path, part.init_args)}
        said: dict[str, Any] = {"format": FORMAT, "steps": steps, "shift": shift, "color": color}
        said |= {"solver": solver} if solver != "euler" else {}
        said |= {"foreign": sorted(foreign)} if foreign else {}
        said["components"] = entries
        (new / DESCRIPTION).write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")
        if path.exists():
            _replace_model(path, new)
        else:
            new.rename(path)
    finally:
        shutil.rmtree(work)


def _replace_model(path: Path, new: Path) -> None:
    """Put a model in the place of one that is there; its description goes first and comes last."""
    for name in (DESCRIPTION, *(f"{component}.safetensors" for component in COMPONENTS)):
        (path / name).unlink(missing_ok=True)
    for file in sorted(new.iterdir(), key=lambda file: file.name == DESCRIPTION):
        file.replace(path / file.name)


def _write(file: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    placed = {}
    for name, tensor in tensors.items():
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        placed[name] = tensor.detach().to("cpu", kind).contiguous()
    save_file(placed, file)
    file.chmod(0o644)  # safetensors keeps its files from everyone else


def _read_prompt(file: Path, shape: list[int]) -> Tensor:
    tensors = read_tensors(file)
    if tensors.keys() != {"prompt"} or list(tensors["prompt"].shape) != shape:
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{file} should hold one tensor, prompt {shape}; it holds {found}")
    return tensors["prompt"]


def _check_keys(
    file: Path, where: str, entry: Any, *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{file}: {where.rstrip('.') or 'the file'} has keys, got {entry!r}")
    for key in entry:
        if key not in required + optional:
            raise ValueError(f"{file}: unknown key {where}{key}; there are {', '.join(required + optional)}")
    for key in required:
        if key not in entry:
            raise ValueError(f"{file}: {where}{key} is missing")


def plain_values(value: Any) -> Any:
    """Tuples as lists, all the way down, as YAML has no tuples."""
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    return [plain_values(item) for item in value] if isinstance(value, list | tuple) else value
