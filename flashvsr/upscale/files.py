"""Many files in one go: the model is loaded once, and a file that fails does not stop the rest."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from flashvsr import __version__
from flashvsr.streaming import StreamingModel
from flashvsr.upscale.done import DoneList
from flashvsr.upscale.errors import explain, is_disk_full
from flashvsr.upscale.fingerprint import asked_for
from flashvsr.upscale.listing import FilePair, find_files, same_outputs
from flashvsr.upscale.options import ClipOptions, EncodeOptions, LoadOptions
from flashvsr.upscale.progress import Lines, Silent, duration, frame_count
from flashvsr.upscale.run import UpscaleResult, upscale_file


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file of a list.

    Attributes:
        source: The input.
        output: Where its result is, or would be.
        status: ``"done"``, ``"skipped"`` (it was done before), ``"failed"``, or ``"left"`` (the disk is full).
        result: Of a file that was done.
        error: What went wrong, in one line.
    """

    source: Path
    output: Path
    status: Literal["done", "skipped", "failed", "left"]
    result: UpscaleResult | None = None
    error: str = ""


def upscale_files(
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    glob: str | None = None,
    skip_done: bool = False,
    model: str | Path | StreamingModel = "nano",
    clip: ClipOptions = ClipOptions(),
    loading: LoadOptions = LoadOptions(),
    encoding: EncodeOptions = EncodeOptions(),
    on_start: Callable[[FilePair], None] | None = None,
    on_end: Callable[[FileOutcome], None] | None = None,
    quiet: bool = False,
    **options: Any,
) -> list[FileOutcome]:
    """Upscale videos and pictures into a folder, each on its own, with a model that is loaded once.

    A file that fails is noted and does not stop the rest; a disk that is full does. The output folder keeps a list of
    what is done, ``.flashvsr-done.jsonl``.

    Args:
        inputs: Files and folders; `find_files` has the rules.
        output: A folder; made if it is not there. Files of a folder keep their names, and their places below it.
        glob: Files of a folder that are wanted.
        skip_done: Leave out what is complete, was made from this input with these settings, and is still as it was.
            A file made with other settings is an error unless ``overwrite`` is given.
        model: As for `upscale_file`.
        clip: As for `upscale_file`; pictures are taken whole.
        loading: As for `upscale_file`.
        encoding: As for `upscale_file`.
        on_start: Told of each file before it is begun.
        on_end: Told what became of it.
        quiet: Show nothing.
        **options: What else `upscale_file` takes, for every file.

    Returns:
        One outcome a file, in order.

    Raises:
        ValueError: If the inputs are one video, or no list; see `find_files`.
        FileNotFoundError: If the model, or the folder for the output folder, does not exist.
        KeyboardInterrupt: When interrupted; a note says what is done and how to go on.
    """
    pairs = find_files(inputs, output, glob=glob, format=encoding.format)
    if pairs is None:
        raise ValueError("this is one video and not a list of files: use upscale_file, or give a glob")
    folder = Path(output)
    if not folder.exists() and not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder {folder.absolute().parent} does not exist: create it, or choose another")
    folder.mkdir(exist_ok=True)
    work = _Work(DoneList(folder), model, clip, loading, encoding, skip_done, quiet, options, same_outputs(pairs))
    outcomes: list[FileOutcome] = []
    for number, pair in enumerate(pairs, 1):
        if on_start is not None:
            on_start(pair)
        try:
            outcome = work.upscale(pair, f"[{number}/{len(pairs)}]")
        except KeyboardInterrupt as interruption:
            interruption.add_note(
                f"{len(outcomes)} of {len(pairs)} files are dealt with: the same command with --skip-done --resume goes"
                " on from there"
            )
            raise
        outcomes.append(outcome)
        if on_end is not None:
            on_end(outcome)
    return outcomes


@dataclass
class _Work:
    """What the files of a list share; `upscale` does one."""

    done: DoneList
    model: str | Path | StreamingModel
    clip: ClipOptions
    loading: LoadOptions
    encoding: EncodeOptions
    skip_done: bool
    quiet: bool
    options: dict[str, Any]
    clashes: dict[Path, Path]
    system: StreamingModel | None = None
    disk_is_full: bool = False

    def upscale(self, pair: FilePair, place: str) -> FileOutcome:
        if self.disk_is_full:
            return FileOutcome(pair.source, pair.output, "left", error="not tried: the disk is full")
        overwrite = bool(self.options.get("overwrite"))
        try:
            if pair.source in self.clashes:
                first = self.clashes[pair.source]
                raise ValueError(f"{pair.output} is the output of {first}, too: rename one, or write to another folder")
            settings = self._settings(pair.source)
            differences = self.done.differences(pair.output, settings) if self.skip_done else None
            if differences == []:
                return FileOutcome(pair.source, pair.output, "skipped")
            if differences and not overwrite:
                raise ValueError(
                    f"{pair.output} was made with another {', another '.join(differences)}: --overwrite makes it anew"
                )
            pair.output.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            return self._failed(pair, error)
        if self.system is None:
            self.system = self._load()
        self._say(f"{place} {pair.source}")
        try:
            result = upscale_file(
                pair.source,
                pair.output,
                model=self.system,
                clip=self.clip,
                encoding=self.encoding,
                quiet=self.quiet,
                **self.options,
            )
            self.done.add(pair.output, settings)
        except Exception as error:  # noqa: BLE001 - the rest must go on; what is no mistake of a user is shown in full
            return self._failed(pair, error)
        return FileOutcome(pair.source, pair.output, "done", result)

    def _settings(self, source: Path) -> dict[str, Any]:
        chosen = {"scale": self.options.get("scale", 4), "seed": self.options.get("seed", 0)}
        asked = asked_for(
            str(source), self.model, clip=self.clip, loading=self.loading, encoding=self.encoding, **chosen
        )
        packaged = isinstance(self.model, str) and asked["model"] == self.model
        return asked | ({"model": f"{self.model} of flashvsr {__version__}"} if packaged else {})

    def _load(self) -> StreamingModel:
        if not isinstance(self.model, str | Path):
            return self.model
        from flashvsr.models.loading import load

        return load(self.model, **vars(self.loading))

    def _failed(self, pair: FilePair, error: Exception) -> FileOutcome:
        message = explain(error)
        if message is None:
            traceback.print_exception(error)
            message = f"{type(error).__name__}: {error}"
        self.disk_is_full = is_disk_full(error)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # of a file that was too large
        one_line = "; ".join([*message.splitlines(), *getattr(error, "__notes__", [])])
        self._say(f"failed: {pair.source}: {one_line}")
        return FileOutcome(pair.source, pair.output, "failed", error=one_line)

    def _say(self, text: str) -> None:
        """One line between the bars of two files."""
        (Silent() if self.quiet else Lines()).line(text)


def summary(outcomes: Sequence[FileOutcome]) -> list[str]:
    """A table of what became of the files of a list, and a line that counts them."""
    rows = []
    for outcome in outcomes:
        result = outcome.result
        said = f"{frame_count(result.frames)}, {duration(result.seconds)}" if result is not None else outcome.error
        name = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in str(outcome.source))
        rows.append((outcome.status, name, said))
    width = max((len(name) for _, name, _ in rows), default=0)
    lines = [f"{status:<8} {name:<{min(width, 60)}}  {said}" for status, name, said in rows]
    counts = {status: sum(one.status == status for one in outcomes) for status in ("done", "skipped", "failed", "left")}
    words = {"done": "done", "skipped": "done before", "failed": "failed", "left": "not tried"}
    told = ", ".join(f"{count} {words[status]}" for status, count in counts.items() if count)
    return [*lines, f"{len(outcomes)} files: {told}"]
