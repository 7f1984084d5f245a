"""The command that results name."""

import sys

import pytest

from crossdna.command_line import _OWN, command_line


@pytest.mark.parametrize("program", ["/opt/env/bin/crossdna", str(_OWN)])
def test_our_program_has_its_name_however_it_was_started(monkeypatch, program):
    monkeypatch.setattr(sys, "argv", [program, "score", "--genome", "my genome.fa"])
    assert command_line() == "crossdna score --genome 'my genome.fa'"


def test_other_programs_keep_theirs(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/speed.py", "--rows", "x"])
    assert command_line() == "benchmarks/speed.py --rows x"
