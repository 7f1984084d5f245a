"""How far a run has come, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def cosine_with_warmup(done: float, warmup: float, floor: float) -> float:
    """Factor of the highest learning rate.

    Parameters
    ----------
    done
        Share of the run that is done, from 0 to 1.
    warmup
        Share of the run in which the factor grows linearly from 0 to 1.
    floor
        Factor at the end of the half cosine that follows.
    """
    if done < warmup:
        return done / warmup
    rest = min((done - warmup) / (1 - warmup), 1.0) if warmup < 1 else 0.0
    return floor + (1 - floor) * (1 + math.cos(math.pi * rest)) / 2


class RunClock:
    """Says what share of a run is done: by steps, or by time if that is further.

    Parameters
    ----------
    steps
        Optimiser steps of the whole run.
    seconds
        Time for the whole run; None: as long as the steps take. It counts from `begin`.
    now
        Gives the time in seconds.
    """

    def __init__(
        self,
        steps: int,
        seconds: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps, self.seconds, self._now = steps, seconds, now
        self._earlier, self._start = 0.0, math.inf

    @property
    def spent(self) -> float:
        """Seconds of training, those before the last resumption included."""
        return self._earlier + max(self._now() - self._start, 0.0)

    def begin(self) -> None:
        """Count from now on: the first step, which may have compiled, is done."""
        self._start = min(self._start, self._now())

    def resume(self, spent: float) -> None:
        """Go on from `spent` seconds at the next `begin`."""
        self._earlier, self._start = spent, math.inf

    def done(self, step: int) -> float:
        """Share of the run that is done after `step` steps, at most 1."""
        by_time = 0.0 if self.seconds is None else self.spent / self.seconds
        return min(max(step / self.steps, by_time), 1.0)
