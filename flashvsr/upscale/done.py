"""The list of finished files in an output folder: what was made of which input with which settings.

One JSON object a line, added when a file is complete. A run that is killed while it adds one leaves half a line, which
is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashvsr.upscale.fingerprint import fingerprint_paths

LIST = ".flashvsr-done.jsonl"


class DoneList:
    """What is finished in one output folder.

    Args:
        folder: The output folder, which exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LIST
        self._entries: dict[str, dict[str, Any]] = {}
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self._entries[entry["file"]] = entry
            except (ValueError, KeyError, TypeError):  # half a line, joined with one of a later run
                continue

    def differences(self, output: Path, settings: Mapping[str, Any]) -> list[str] | None:
        """Compare a finished file with what is asked for now.

        Args:
            output: A file of the folder.
            settings: Of `asked_for`.

        Returns:
            Each setting that is not the same, with both values; empty when the file is what it would become. None if it
            is not in the list, or not there as it was made.
        """
        entry = self._entries.get(self._key(output))
        if entry is None or not output.is_file() or entry["output"] != fingerprint_paths([output]):
            return None
        then = entry["settings"]
        return [
            f"{name} (then {then.get(name)}, now {settings.get(name)})"
            for name in {**then, **settings}
            if then.get(name) != settings.get(name)
        ]

    def add(self, output: Path, settings: Mapping[str, Any]) -> None:
        """Note that a file is complete."""
        entry = {"file": self._key(output), "output": fingerprint_paths([output]), "settings": dict(settings)}
        self._entries[self._key(output)] = entry
        with self._path.open("ab") as file:
            start = b"" if not file.tell() or self._ends_with_a_line() else b"\n"
            file.write(start + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _ends_with_a_line(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def _key(self, output: Path) -> str:
        return output.relative_to(self._folder).as_posix()
