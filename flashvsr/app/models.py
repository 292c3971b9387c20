"""The models that a page offers, loaded when one is first used."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashvsr.streaming import StreamingModel
from flashvsr.upscale import LoadOptions


class Models:
    """Models by name; visitors choose among these and can name no other path.

    Args:
        sources: ``"nano"`` or model folders.
        loading: How they are loaded; None takes the defaults.

    Attributes:
        names: Those that are shown: the last part of each path.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If two have the same name.
    """

    def __init__(self, sources: Sequence[str] = ("nano",), loading: LoadOptions | None = None) -> None:
        self._sources = {Path(source).name: source for source in sources}
        if len(self._sources) < len(sources):
            raise ValueError(f"two of the models {', '.join(sources)} have the same name: rename a folder")
        for source in sources:
            if source != "nano" and not Path(source).is_dir():
                raise FileNotFoundError(f"the model folder {source} does not exist: check the name")
        self._loading = loading or LoadOptions()
        self._loaded: dict[str, StreamingModel] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """What a visitor can choose."""
        return tuple(self._sources)

    def has_detail(self, name: str) -> bool:
        """Whether a model has a diffusion part, whose detail can be turned down; no weights are read.

        Args:
            name: Of a model that the page offers.

        Returns:
            True for a folder that cannot be read, too: what is wrong with it is said when it is loaded.
        """
        from flashvsr.models.loading import find_model

        try:
            return "dit" in find_model(self._sources[name]).components
        except (OSError, ValueError):
            return True

    def get(self, name: str) -> StreamingModel:
        """A model, loaded at the first call.

        Raises:
            ValueError: If the page does not offer it.
        """
        if name not in self._sources:
            raise ValueError(f"this page has no model {name}: expected {', '.join(self._sources)}")
        with self._lock:
            if name not in self._loaded:
                from flashvsr.models.loading import load

                self._loaded[name] = load(self._sources[name], **vars(self._loading))
            return self._loaded[name]


def with_detail(model: Any, detail: float) -> StreamingModel:
    """A loaded model with as much detail as is asked for; 1 is every model as it is.

    Raises:
        ValueError: If it has no diffusion part and the detail is not 1.
    """
    return model if detail == 1 else model.with_detail(detail)
