"""Which metrics of pyiqa can be made without the network; run as a script, in a process of its own.

The process cannot open a connection, so what would be downloaded is an error at once. It prints one JSON object:
metric to null, or to what it lacks. Nothing of flashvsr is imported, to start quickly.
"""

from __future__ import annotations

import json
import socket
import sys
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any, NoReturn


def _refuse(*arguments: Any) -> NoReturn:
    raise ConnectionError("its weights are not on this machine, and an evaluation downloads nothing")


def _lacks(metric: str) -> str | None:
    try:
        import_module("pyiqa").create_metric(metric, device="cpu")
    except ImportError as error:
        return f"pyiqa cannot be imported: {error}"
    except (OSError, RuntimeError) as error:
        fetch = f"python -c \"import pyiqa; pyiqa.create_metric('{metric}')\""
        return f"pyiqa cannot load it: {str(error).splitlines()[0]}; fetch its weights once: {fetch}"
    return None


def _main(metrics: list[str]) -> None:
    socket.socket.connect = socket.getaddrinfo = _refuse  # type: ignore[method-assign, assignment]  # of this process alone
    with redirect_stdout(StringIO()):  # pyiqa prints the paths of weights
        lacks = {metric: _lacks(metric) for metric in metrics}
    sys.stdout.write(json.dumps(lacks))


if __name__ == "__main__":
    _main(sys.argv[1:])
