"""The page in a real browser: from the choice of a file to the download."""

import shutil
import signal
import subprocess
import sys

import pytest

from flashvsr.cli import main
from tests.upscale.standin import write_clip

pytest.importorskip("gradio", reason="the extra app is not installed: the page was not opened")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: the page was not opened")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PATIENCE = 120_000  # milliseconds

pytestmark = [
    pytest.mark.slow,  # a browser, a server, and nano on a CPU: about half a minute
    pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(BROWSERS)} is here: the page was not opened"),
]


@pytest.fixture
def address(tmp_path):
    """The address of a page that another process serves; ends it, and checks that nothing is left."""
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-m", "flashvsr", "app", "--port", "0", "--folder", str(tmp_path / "work")]
    with subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().split()[0] + "/"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert list((tmp_path / "work").iterdir()) == []


@pytest.fixture
def page():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def test_a_file_is_dropped_tried_upscaled_and_downloaded_as_the_command_makes_it(address, page, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 6, size=(48, 64))
    (tmp_path / "notes.mp4").write_text("no video")
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(address)
    page.set_input_files("#drop input[type=file]", [str(clip), str(tmp_path / "notes.mp4")])
    page.wait_for_selector("text=clip.mp4")
    page.wait_for_selector("text=notes.mp4 is no video and no picture")
    page.wait_for_selector("#picture img")

    page.click("#one-frame")
    page.wait_for_selector("#slider img")
    page.click("#three-seconds")
    page.wait_for_selector("#video video")
    page.wait_for_function("document.querySelector('#video video').videoWidth > 0")

    page.click("#start")
    page.wait_for_selector("a.get")
    with page.expect_download() as download:
        page.click("a.get")
    assert download.value.suggested_filename == "clip_4x.mp4"
    download.value.save_as(tmp_path / "downloaded.mp4")
    assert main(["upscale", str(clip), str(tmp_path / "expected.mp4"), "--quiet", "--device", "cpu"]) == 0
    assert (tmp_path / "downloaded.mp4").read_bytes() == (tmp_path / "expected.mp4").read_bytes()

    page.click("button[data-action=remove]")
    page.wait_for_selector("text=Files that you drop appear here.")
    assert not [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert errors == []
