"""The web server of the page: what it hands out, to whom, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flashvsr.app.folder import WorkFolder
from flashvsr.app.models import Models
from flashvsr.app.queue import Queue

LOCAL = ("127.0.0.1", "localhost", "::1")
FORWARDS = re.compile(r"/(proxy=|file=\w+:|deep_link)", re.IGNORECASE)
PREVIEW = re.compile(r"\d+\.mp4")


def create_app(folder: WorkFolder, queue: Queue, models: Models, *, host: str, most_bytes: int) -> FastAPI:
    """The page as an ASGI application.

    Gradio is told through the environment to keep its files in the work folder and to send no statistics; this holds
    for the whole process.

    Args:
        folder: Where everything is kept.
        queue: The files.
        models: What a visitor can choose.
        host: The address that it will be served at.
        most_bytes: The largest upload.

    Returns:
        The application; its pages are the page at ``/``, ``/result/NUMBER`` and ``/preview/NAME``.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(folder.uploads)
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder.path / "examples")
    import gradio as gr

    from flashvsr.app.page import CSS, Page, theme

    videos = folder.path / "previews"
    videos.mkdir(exist_ok=True)
    app = FastAPI(title="flashvsr", docs_url=None, redoc_url=None, openapi_url=None)
    _add_files(app, queue, videos)
    app.middleware("http")(_refuse_strangers)
    if host in LOCAL:  # a name that leads here by a trick of DNS is refused
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, "[::1]"])
    blocks = Page(queue, models, videos).blocks
    # Gradio compares paths of requests with its own folders only if it believes to be launched, which mounting it does
    # not tell it.
    blocks.has_launched = True
    blocks.queue(max_size=64)
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=host,
        allowed_paths=[],
        blocked_paths=[str(folder.files)],  # results have an address of their own
        max_file_size=most_bytes,
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        theme=theme(),
        css=CSS,
    )


def listen(host: str, port: int) -> socket.socket:
    """Take a port; from now on browsers that come too early wait.

    Args:
        host: Address.
        port: Port; 0 takes a free one.

    Raises:
        OSError: If it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"{host} port {port} cannot be used ({error.strerror}): choose another --port") from error


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until Ctrl-C.

    Raises:
        KeyboardInterrupt: At the end.
    """
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    logging.getLogger("uvicorn.error").addFilter(_is_more_than_the_end)
    uvicorn.Server(config).run(sockets=[listener])


def _is_more_than_the_end(record: logging.LogRecord) -> bool:
    """Whether a line of the server's log is no traceback of an open page that the end of the server cut off."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, asyncio.CancelledError) and not str(record.msg).startswith("Cancel ")


def _add_files(app: FastAPI, queue: Queue, videos: Path) -> None:
    @app.get("/result/{number}")
    def result(number: int) -> FileResponse:
        try:
            output = queue.file(number).output
        except KeyError:
            output = None
        if output is None:
            raise HTTPException(404, "there is no such result")
        return FileResponse(output, filename=output.name)

    @app.get("/preview/{name}")
    def preview_video(name: str) -> FileResponse:
        if not PREVIEW.fullmatch(name) or not (videos / name).is_file():
            raise HTTPException(404, "there is no such preview")
        return FileResponse(videos / name)


async def _refuse_strangers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse requests that other web sites make, and those that would make this server fetch from elsewhere."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return PlainTextResponse("this page answers only to itself", status_code=403)
    if FORWARDS.search(request.url.path):
        return PlainTextResponse("this page fetches nothing from elsewhere", status_code=403)
    response = await call_next(request)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
