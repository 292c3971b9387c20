"""An HTTP server of a folder that can be slow, cut connections, refuse, be stopped and be started again."""

from __future__ import annotations

import http.server
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class ShardServer:
    """Serves a folder at ``url``.

    Attributes:
        ranges: Whether parts of files are given.
        fault: Called with name and number (from 1) of each request of a file. Its answer: None, a status to answer
            instead of the file, ``("cut", n)`` to close the connection after n bytes, or ``("stall", seconds)``.
        requests: How often each file was asked for, HEAD left out.
        asked: Name, first and last byte of each request, HEAD left out.
        sent: Bytes of content.
    """

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        self.folder, self.ranges = folder, ranges
        self.fault: Callable[[str, int], int | tuple[str, float] | None] = lambda name, number: None
        self.requests: Counter[str] = Counter()
        self.asked: list[tuple[str, int, int]] = []
        self.sent, self.port = 0, 0
        self._server: http.server.ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve, on the port of before if there was one."""
        if self._server is None:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
            self.port = self._server.server_port
            threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> ShardServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _handler(owner: ShardServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(head=True)

        def do_GET(self) -> None:
            self._answer(head=False)

        def _answer(self, head: bool) -> None:
            name = self.path.lstrip("/").partition("?")[0]
            path = owner.folder / name
            if not path.is_file():
                return self.send_error(404)
            data, fault, status = path.read_bytes(), None, 200
            first, last = 0, len(data) - 1
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if wanted and owner.ranges:
                status, first, last = 206, int(wanted[1]), min(int(wanted[2]), last)
            if not head:
                owner.requests[name] += 1
                owner.asked.append((name, first, last))
                fault = owner.fault(name, owner.requests[name])
            if isinstance(fault, int):
                return self.send_error(fault)
            self.send_response(status)
            self.send_header("Content-Length", str(last + 1 - first))
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Accept-Ranges", "bytes" if owner.ranges else "none")
            self.end_headers()
            if head:
                return None
            content = data[first : last + 1]
            if fault is not None and fault[0] == "cut":
                content = content[: int(fault[1])]
            elif fault is not None:
                threading.Event().wait(fault[1])
            owner.sent += len(content)
            with suppress(ConnectionError):  # the client may not have waited
                self.wfile.write(content)
            return None

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
