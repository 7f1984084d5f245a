"""The learning rate's course and the clock that may shorten a run."""

import pytest

from crossdna.training.schedule import RunClock, cosine_with_warmup


@pytest.mark.parametrize(
    ("done", "factor"), [(0, 0), (0.1, 0.5), (0.2, 1), (0.6, 0.55), (1, 0.1), (2, 0.1)]
)
def test_cosine_with_warmup(done, factor):
    assert cosine_with_warmup(done, 0.2, 0.1) == pytest.approx(factor)


def test_no_warmup_and_nothing_but_warmup():
    assert cosine_with_warmup(0, 0, 0.1) == 1
    assert cosine_with_warmup(0.5, 1, 0.1) == 0.5
    assert cosine_with_warmup(1, 1, 0.1) == 1


def test_clock_counts_steps_or_time_whichever_is_further():
    seconds = [100.0]
    clock = RunClock(10, 60.0, now=lambda: seconds[0])
    assert clock.done(0) == 0
    seconds[0] += 500
    assert clock.done(1) == 0.1
    clock.begin()
    seconds[0] += 30
    assert clock.done(2) == 0.5
    assert clock.done(8) == 0.8
    seconds[0] += 100
    assert clock.done(8) == 1
    assert RunClock(10).done(5) == 0.5


def test_clock_goes_on_after_a_resumption():
    seconds = [0.0]
    clock = RunClock(10, 60.0, now=lambda: seconds[0])
    clock.resume(45)
    seconds[0] += 7
    assert clock.spent == 45
    clock.begin()
    seconds[0] += 4
    clock.begin()
    seconds[0] += 3
    assert clock.spent == 52
