"""The command line as a whole."""

import subprocess
import sys

import pytest

from crossdna.cli import VERBS, main


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "crossdna", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_verb():
    result = run("--help")
    assert result.returncode == 0
    assert all(verb in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_without_loading_torch(verb):
    script = (
        "import sys\nfrom crossdna.cli import main\n"
        "try:\n"
        f"    main([{verb!r}, '--help'])\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'polars', 'sklearn', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    assert f"usage: crossdna {verb}" in result.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("crossdna ")


def test_unknown_verb():
    result = run("pretain")
    assert result.returncode == 2
    assert "pretain" in result.stderr


def test_a_user_error_has_no_traceback(tmp_path):
    result = run("convert", str(tmp_path / "nowhere"), str(tmp_path / "out"))
    assert result.returncode == 2
    assert result.stderr.startswith("crossdna convert: error: ")
    assert "Traceback" not in result.stderr
