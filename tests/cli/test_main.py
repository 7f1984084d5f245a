"""The command line as a whole."""

import argparse
import importlib
import io
import subprocess
import sys
from pathlib import Path

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


LIGHT = """
import sys
from pathlib import Path
from crossdna.cli import main
try:
    code = main({words!r})
except SystemExit as stop:
    code = stop.code
heavy = {{"torch", "transformers", "polars", "sklearn", "matplotlib"}}
print(code, sorted(heavy & set(sys.modules)))
"""


def run_light(*words):
    """Run in a process of its own, which says which heavy packages it has loaded."""
    return subprocess.run(
        [sys.executable, "-c", LIGHT.format(words=[str(word) for word in words])],
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_without_loading_torch(verb):
    result = run_light(verb, "--help")
    assert result.stdout.splitlines()[-1] == "0 []"
    assert f"usage: crossdna {verb}" in result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_does_and_its_default(verb):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"crossdna.cli.{verb}").add_arguments(parser)
    for action in _actions(parser):
        name = "/".join(action.option_strings) or action.dest
        assert action.help, f"{verb} {name} has no help"
        switch = action.nargs == 0 or action.default in (None, "", [])
        said = "%(default)s" in action.help or "default" in action.help
        assert switch or said, f"{verb} {name} does not say its default"


def _actions(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
        else:
            yield action


def test_models_are_listed_without_loading_torch():
    result = run_light("models")
    assert result.stdout.splitlines()[-1] == "0 []"
    assert "crossdna-small" in result.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("pretrain", "no.toml", "--output", "x"),
        ("track", "--model", "crossdna-tiny", "--genome", "no.fa", "--output", "x"),
        ("ism", "--model", "crossdna-tiny", "--genome", "no.fa", "--output", "x"),
        ("finetune", "--model", "new:tiny", "--train", "no.csv", "--output", "x"),
        ("predict", "no.csv", "--model", "x", "--output", "x.csv"),
        ("embed", "no.csv", "--model", "crossdna-tiny", "--output", "x.npz"),
        ("split", "no.csv", "--output", "x.csv"),
        ("audit", "--train", "no.csv"),
    ],
)
def test_a_missing_file_is_missed_at_once(words, tmp_path):
    missing = tmp_path / next(word for word in words if word.startswith("no."))
    words = [missing if word == missing.name else word for word in words]
    result = run_light(*words)
    assert result.stdout.splitlines()[-1] == "2 []"
    assert f"{missing}: no such " in result.stderr


def test_a_missing_file_of_a_class_is_named_without_the_class(tmp_path):
    there, missing = tmp_path / "a.fa", tmp_path / "b.fa"
    there.write_text(">x\nACGT\n")
    result = run_light("audit", "--train", f"one={there}", f"two={missing}")
    assert result.stdout.splitlines()[-1] == "2 []"
    assert f"error: {missing}: no such file" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("finetune", "--model", "new:tiny", "--output", "x", "--train"),
        ("predict", "--model", "x", "--output", "x.csv"),
        ("embed", "--model", "x", "--output", "x.npz"),
    ],
)
def test_a_bad_table_is_refused_without_loading_torch(words, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("sequence,label\nACGTACGTAC,1\nACGT!CGTAC,0\n")
    result = run_light(*words, table)
    code, loaded = result.stdout.splitlines()[-1].split(" ", 1)
    assert code == "2"
    assert "torch" not in loaded
    assert f"error: {table}:3" in result.stderr
    assert not (tmp_path / "x").exists()


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_in_a_line(monkeypatch, capsys):
    with io.FileIO("/dev/full", "w") as raw:
        full = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["models"]) == 2
        full.detach()
    assert capsys.readouterr().err == (
        "crossdna models: error: No space left on device; free some, then start again "
        "(with --resume, where a verb has it)\n"
    )


def test_what_the_system_refuses_is_named(tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("sequence,label\nACGT,1\n")
    output = table / "inside"
    words = ["split", str(table), "--output", str(output)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("crossdna split: error: ")
    assert str(table) in error
    assert "Errno" not in error
