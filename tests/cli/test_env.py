import json

import pytest

from crossdna.cli import main
from crossdna.ops.native import build

OPERATORS = ("delta_rule", "window_attention", "short_conv")


@pytest.fixture(autouse=True)
def fresh_library():
    """A test's own cache directory must not be remembered by the next one."""
    yield
    build.load.cache_clear()


@pytest.fixture
def environment(capsys):
    assert main(["env", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_versions_and_devices(environment):
    assert environment["versions"]["torch"].startswith("2.")
    assert environment["versions"]["crossdna"] == "0.1.0"
    assert environment["devices"]["threads"] >= 1


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_backend_is_usable_or_says_why_not(environment, operator):
    backends = {b["name"]: b for b in environment["operators"][operator]}
    assert backends["torch"]["usable"]
    assert not backends["reference"]["automatic"]
    for backend in backends.values():
        assert backend["usable"] == (backend["reason"] is None)


def test_build_makes_the_native_kernels_usable(tmp_path, monkeypatch, capsys):
    if build.library_path() is None:
        pytest.skip(build.unavailable())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.load.cache_clear()
    assert build.unavailable() == "not built; run `crossdna env --build`"
    assert main(["env", "--build", "--json"]) == 0
    operators = json.loads(capsys.readouterr().out)["operators"]
    for operator in OPERATORS:
        native = next(b for b in operators[operator] if b["name"] == "native")
        assert native["usable"]
    built = list((tmp_path / "crossdna" / "native").iterdir())
    assert built == [build.library_path()]


def test_build_without_a_compiler_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.load.cache_clear()
    assert main(["env", "--build"]) == 2
    assert "C++ compiler" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch, capsys):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho out of memory >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(broken))
    build.load.cache_clear()
    assert main(["env", "--build"]) == 2
    assert "out of memory" in capsys.readouterr().err
    assert not list((tmp_path / "cache" / "crossdna" / "native").iterdir())


def test_the_table_names_every_operator_and_backend(environment, capsys):
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    for operator, backends in environment["operators"].items():
        assert operator in text
        for backend in backends:
            assert backend["name"] in text
            assert backend["usable"] or backend["reason"] in text
