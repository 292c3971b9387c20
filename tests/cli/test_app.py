"""The command ``flashvsr app``."""

import socket

import pytest

from flashvsr.cli import app as command
from flashvsr.cli import main


@pytest.fixture
def served(monkeypatch):
    """Where the page would be served, instead of serving it."""
    pytest.importorskip("gradio", reason="the extra app is not installed: the page was not made")
    calls = []
    for name in ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "GRADIO_EXAMPLES_CACHE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("flashvsr.app.server.serve", lambda app, listener: calls.append(listener.getsockname()))
    return calls


def test_the_page_is_for_this_computer_unless_asked(served, tmp_path, capsys):
    assert main(["app", "--port", "0", "--folder", str(tmp_path)]) == 0
    ((host, port),) = served
    said = capsys.readouterr()
    assert host == "127.0.0.1" and f"http://127.0.0.1:{port} " in said.out and "warning" not in said.err
    assert list(tmp_path.iterdir()) == []


def test_another_address_is_served_with_a_warning(served, tmp_path, capsys):
    assert main(["app", "--host", "0.0.0.0", "--port", "0", "--folder", str(tmp_path)]) == 0
    assert served[0][0] == "0.0.0.0"
    assert "warning: whoever reaches 0.0.0.0 can use this page" in capsys.readouterr().err


def test_a_port_that_is_taken_ends_in_a_line(served, tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["app", "--port", port, "--folder", str(tmp_path)]) == 1
    assert f"127.0.0.1 port {port} cannot be used" in capsys.readouterr().err and served == []


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["app"]) == 1
    assert "pip install 'flashvsr[app]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "no/such/folder"], "the model folder no/such/folder does not exist"),
        (["--folder", "no/such/folder"], "the folder no/such/folder does not exist"),
        (["--most-gb", "0"], "--most-gb is 0: expected a positive number"),
        (["--model", "nano", "--model", "a/nano"], "have the same name"),
    ],
)
def test_arguments_that_make_no_sense_end_in_a_line(served, capsys, arguments, words):
    assert main(["app", "--port", "0", *arguments]) == 1
    assert words in capsys.readouterr().err and served == []
