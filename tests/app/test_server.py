"""The server of the page: a client that sends what it likes reads no file outside, and reaches nothing elsewhere."""

import asyncio
import json
import logging
import os
import socket

import pytest

pytest.importorskip("gradio", reason="the extra app is not installed: the page was not served")
from starlette.testclient import TestClient

from flashvsr.app.models import Models
from flashvsr.app.page import Page
from flashvsr.app.queued_file import Settings
from flashvsr.app.server import _is_more_than_the_end, create_app
from tests.small_folder import save_small_system
from tests.upscale.standin import write_clip

MOST = 100_000
HOST = "http://127.0.0.1"


@pytest.fixture
def client(folder, queue, monkeypatch):
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")  # so that they are as before after the test
    app = create_app(folder, queue, Models(), host="127.0.0.1", most_bytes=MOST)
    with TestClient(app, base_url=HOST) as client:
        yield client


def upload(client, path, name="clip.mp4"):
    return client.post("/gradio_api/upload", files={"files": (name, path.read_bytes())})


def call(client, target, data):
    """Do as the page's script does: call the function of the event that has this target."""
    config = client.get("/config").json()
    (number,) = [entry["id"] for entry in config["dependencies"] if [target[0], target[1]] in named(config, entry)]
    body = {"data": data, "fn_index": number, "session_hash": "s1"}
    client.post("/gradio_api/queue/join", json=body).raise_for_status()
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "s1"}) as lines:
        for line in lines.iter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("the event did not end")


def named(config, entry):
    names = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
    return [[names.get(number), event] for number, event in entry["targets"]]


def detail_slider(config):
    (slider,) = [part["props"] for part in config["components"] if part["props"].get("elem_id") == "detail"]
    return slider


def test_the_detail_of_nano_cannot_be_turned_down_and_the_page_says_why(client):
    slider = detail_slider(client.get("/config").json())
    assert (slider["interactive"], slider["value"]) == (False, 1)
    assert slider["info"] == "nano has no diffusion part: there is nothing to turn down."


def test_the_detail_of_a_model_with_a_transformer_can_be_turned_down(folder, queue, tmp_path):
    save_small_system(tmp_path / "small")
    models = Models([str(tmp_path / "small"), "nano"])
    assert [models.has_detail(name) for name in models.names] == [True, False]
    page = Page(queue, models, tmp_path)
    assert page.detail.interactive
    assert not page.detail_of("nano")["interactive"]


def test_the_page_is_served_with_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200 and "flashvsr" in page.text
    sources = [part.split('"')[1] for part in page.text.split("src=")[1:] if part.startswith('"')]
    assert not [source for source in sources if source.startswith(("http", "//"))]
    assert "fonts.googleapis" not in page.text + client.get("/theme.css").text
    assert client.get("/config").json()["analytics_enabled"] is False


def test_no_file_outside_can_be_read(client, queue, folder, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (folder.uploads / "link").symlink_to(tmp_path / "secret.txt")
    queue.add(write_clip(folder.uploads / "clip.mp4", 3))
    paths = [
        f"{tmp_path}/secret.txt",
        f"../../../../../../../../{tmp_path}/secret.txt",
        f"{folder.files}/../../secret.txt",
        f"{folder.uploads}/../../../secret.txt",
        f"{folder.uploads}/%2e%2e/lock",
        f"{folder.uploads}/link",
        f"{folder.files}/1/input.mp4",
        f"{folder.path}/lock",
    ]
    for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/preview/", "/result/"):
        for path in paths:
            answer = client.get(route + path)
            assert answer.status_code in (403, 404, 422), route + path
            assert "secret" not in answer.text.replace("secret.txt", ""), route + path


def test_an_upload_that_names_a_file_outside_is_refused(client, queue, tmp_path):
    """A client may claim that it has uploaded any path."""
    outside = write_clip(tmp_path / "outside.mp4", 3)
    answer = call(client, ("drop", "upload"), [[{"path": str(outside), "meta": {"_type": "gradio.FileData"}}], 0])
    assert answer["success"] is False
    assert queue.files() == [] and outside.exists()


def test_a_file_goes_from_upload_to_download(client, queue, folder, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 5)
    (path,) = upload(client, clip).json()
    answer = call(client, ("drop", "upload"), [[{"path": path, "meta": {"_type": "gradio.FileData"}}], 0])
    assert answer["success"] is True and "clip.mp4" in json.dumps(answer["output"])
    assert sum(path.stat().st_size for path in folder.uploads.rglob("*") if path.is_file()) == 0
    assert client.get("/result/1").status_code == 404
    queue.start(1, Settings(size="2x"))
    assert queue.wait(60)
    got = client.get("/result/1")
    assert got.status_code == 200 and got.content == queue.file(1).output.read_bytes()
    assert 'filename="clip_2x.mp4"' in got.headers["content-disposition"]


def test_an_upload_over_the_limit_is_refused(client, folder, tmp_path):
    (tmp_path / "large.mp4").write_bytes(os.urandom(MOST + 1))
    assert upload(client, tmp_path / "large.mp4").status_code == 413
    assert [path for path in folder.uploads.rglob("*") if path.is_file()] == []


def test_other_sites_and_other_names_are_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    stranger = client.post("/gradio_api/queue/join", json={}, headers={"origin": "https://evil.example"})
    assert stranger.status_code == 403
    assert client.get("/config", headers={"origin": HOST}).status_code == 200


@pytest.mark.parametrize("path", ["/gradio_api/file=http://example.com/a.png", "/gradio_api/proxy=https://a.hf.space/"])
def test_the_server_fetches_nothing_from_elsewhere(client, monkeypatch, path):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert client.get(path).status_code == 403


@pytest.mark.parametrize(("error", "shown"), [(asyncio.CancelledError("the end"), False), (KeyError("a"), True)])
def test_a_page_that_is_open_at_the_end_leaves_no_traceback_and_an_error_does(error, shown):
    lines = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "Exception in ASGI application", (), None)
    lines.exc_info = (type(error), error, None)
    assert _is_more_than_the_end(lines) == shown
