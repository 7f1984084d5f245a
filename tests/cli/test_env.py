import json

import pytest

from crossdna.cli import main

OPERATORS = ("delta_rule", "window_attention", "short_conv")


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


def test_the_table_names_every_operator_and_backend(environment, capsys):
    assert main(["env"]) == 0
    text = capsys.readouterr().out
    for operator, backends in environment["operators"].items():
        assert operator in text
        for backend in backends:
            assert backend["name"] in text
            assert backend["usable"] or backend["reason"] in text
