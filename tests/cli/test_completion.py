import subprocess

import pytest

from flashvsr.cli import COMMANDS, main

pytest.importorskip("shtab")


def _completed(script, *words):
    """What bash offers for the last word of a command line."""
    line = " ".join(words)
    code = f"{script}\nCOMP_WORDS=({line} '') COMP_CWORD={len(words)} COMP_LINE='{line} '\n"
    code = code.replace(" '')", ")").replace(f"COMP_CWORD={len(words)}", f"COMP_CWORD={len(words) - 1}")
    code += "_shtab_flashvsr\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False).stdout.split()


@pytest.fixture(scope="module")
def script():
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["completion", "bash"]) == 0
    return printed.getvalue()


def test_bash_completes_commands_options_and_choices(script):
    assert set(_completed(script, "flashvsr", "''")) >= set(COMMANDS)
    assert _completed(script, "flashvsr", "upscale", "--skip") == ["--skip-done"]
    assert _completed(script, "flashvsr", "upscale", "--color", "ad") == ["adain"]
    assert _completed(script, "flashvsr", "fit", "--print") == ["--print_config"]


def test_zsh_gets_a_script_of_its_own(capsys):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef flashvsr")
