import logging

import pytest

from crossdna.errors import BackendUnavailableError
from crossdna.ops.dispatch import Backend, always, choose


def _backend(name, reason=None, automatic=True):
    return Backend(name, lambda *_: name, lambda *_: reason, always, automatic)


def test_auto_takes_the_first_that_does_not_reject():
    table = (_backend("a", "no device"), _backend("b"), _backend("c"))
    assert choose("op", table, "auto", ()).name == "b"


def test_auto_never_takes_a_backend_that_runs_only_by_name():
    table = (_backend("slow", automatic=False), _backend("fast"))
    assert choose("op", table, "auto", ()).name == "fast"
    assert choose("op", table, "slow", ()).name == "slow"


def test_auto_says_its_choice_once(caplog):
    table = (_backend("only"),)
    with caplog.at_level(logging.INFO, logger="crossdna.ops.dispatch"):
        choose("said-once", table, "auto", ())
        choose("said-once", table, "auto", ())
    assert [r.message for r in caplog.records] == ["said-once runs on backend only"]


def test_a_name_runs_or_raises():
    table = (_backend("a", "no device"), _backend("b"))
    with pytest.raises(BackendUnavailableError, match="a cannot run: no device"):
        choose("op", table, "a", ())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BackendUnavailableError, match="there are auto, a, b"):
        choose("op", (_backend("a"), _backend("b")), "z", ())


def test_when_all_reject_every_reason_is_given():
    table = (_backend("a", "no device"), _backend("b", "float64"))
    with pytest.raises(BackendUnavailableError, match="a: no device; b: float64"):
        choose("op", table, "auto", ())
