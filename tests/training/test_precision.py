"""What the precision setting comes to on each device."""

import logging

import pytest
import torch

from crossdna.errors import CrossDNAError
from crossdna.models.execution import tell_imitated
from crossdna.ops.linear import widened
from crossdna.training.precision import uses_bfloat16


@pytest.fixture(params=[True, False], ids=["with products", "without"])
def cpu_multiplies(request, monkeypatch):
    monkeypatch.setattr(widened, "cpu_multiplies_bfloat16", lambda: request.param)
    # It is told once in a process.
    tell_imitated.cache_clear()
    return request.param


def test_auto_takes_bfloat16_where_the_cpu_gains(cpu_multiplies):
    assert uses_bfloat16("auto", on_cpu=True) == cpu_multiplies


def test_what_is_asked_for_is_done_and_a_slow_choice_is_said(cpu_multiplies, caplog):
    with caplog.at_level(logging.WARNING):
        assert uses_bfloat16("bf16", on_cpu=True)
        assert not uses_bfloat16("float32", on_cpu=True)
    assert ("no bfloat16 products" in caplog.text) != cpu_multiplies


@pytest.mark.parametrize("has_it", [True, False])
def test_a_gpu(monkeypatch, has_it):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: has_it)
    assert uses_bfloat16("auto", on_cpu=False) == has_it
    assert not uses_bfloat16("float32", on_cpu=False)
    if has_it:
        assert uses_bfloat16("bf16", on_cpu=False)
    else:
        with pytest.raises(CrossDNAError, match="set precision to float32"):
            uses_bfloat16("bf16", on_cpu=False)
