"""Noticing a loss that is no number without waiting for the device.

Reading a value from a GPU in every step would make it idle between steps. So the first
bad step is remembered where the values are, updates stop from there on, and the host
looks only when it reads something anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

NEVER = -1


class BadValue(NamedTuple):
    """Where a run left the numbers: what was bad, in which step, and its value."""

    what: str
    step: int
    value: float


class FiniteWatch:
    """Remembers, on the device, the first step with a value that is no number.

    Parameters
    ----------
    names
        What is watched; earlier ones are named first when a step spoils several.
    device
        Where the values are.
    """

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        self._steps = {
            name: torch.full((), NEVER, dtype=torch.int64, device=device)
            for name in names
        }
        self._values = {name: torch.zeros((), device=device) for name in names}
        self._samples: dict[int, list[Tensor]] = {}

    def start_step(self, step: int, samples: list[Tensor]) -> None:
        """Remember which samples a step reads, until the next look."""
        self._samples[step] = samples

    def note(self, name: str, step: int, value: Tensor) -> None:
        """Look at a scalar; nothing waits for it."""
        value = value.detach().float()
        first = ~value.isfinite() & (self._steps[name] == NEVER)
        self._steps[name] = torch.where(first, step, self._steps[name])
        self._values[name] = torch.where(first, value, self._values[name])

    def spoiled(self) -> Tensor:
        """1.0 once anything was bad, else 0.0: what a fused optimiser skips by."""
        bad = torch.stack([step != NEVER for step in self._steps.values()])
        return bad.any().float()

    def look(self) -> BadValue | None:
        """Wait for the device and give the first bad value, if there was one."""
        steps = torch.stack(list(self._steps.values())).tolist()
        found = [
            BadValue(name, step, self._values[name].item())
            for name, step in zip(self._steps, steps, strict=True)
            if step != NEVER
        ]
        if not found:
            self._samples.clear()
            return None
        return min(found, key=lambda bad: bad.step)

    def samples_of(self, step: int) -> list[int]:
        """Numbers of the samples that a step since the last look has read."""
        return torch.cat(self._samples[step]).tolist()
