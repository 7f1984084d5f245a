"""Showing a training run on the terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback

# From this share on, more workers are worth a thought.
MUCH_WAITING = 0.1


class RichProgress(TrainerCallback):
    """Steps, loss, bases per second and time left, on stderr.

    A bar on a terminal; elsewhere a line whenever the run logs its loss.

    Parameters
    ----------
    bases_per_step
        Bases that all processes read in an optimiser step.
    """

    def __init__(self, bases_per_step: int) -> None:
        self.bases_per_step = bases_per_step
        console = self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.notes: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the bar where the run starts."""
        # Steps done and the time then; the first step may compile, and is not counted.
        self._last: tuple[int, float] | None = None
        if state.is_world_process_zero:
            self.progress.start()
            self.task = self.progress.add_task(
                "", total=state.max_steps, completed=state.global_step, note=""
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        if self._last is None:
            self._last = (state.global_step, time.monotonic())
        if state.is_world_process_zero:
            task = self.progress.tasks[self.task]
            rate = (task.speed or 0) * self.bases_per_step
            notes = [*self.notes.values(), f"{rate:,.0f} bases/s"]
            self.progress.update(
                self.task, completed=state.global_step, note=", ".join(notes)
            )

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any
    ) -> None:
        """Remember the newest losses, or print them."""
        for key, name in (("loss", "loss"), ("eval_loss", "held-out")):
            if logs and key in logs:
                self.notes[key] = f"{name} {logs[key]:.4f}"
        if logs and "data_wait" in logs:
            self.notes.pop("data_wait", None)
            if (share := logs["data_wait"]) >= MUCH_WAITING:
                self.notes["data_wait"] = f"{share:.0%} of the time waiting for windows"
        if logs and "loss" in logs and state.is_world_process_zero:
            self._print_line(state)

    def _print_line(self, state: Any) -> None:
        if self.console.is_terminal or self._last is None:
            return
        (before, start), now = self._last, time.monotonic()
        self._last = (state.global_step, now)
        notes = [*self.notes.values()]
        if steps := state.global_step - before:
            notes.append(f"{steps * self.bases_per_step / (now - start):,.0f} bases/s")
        line = f"step {state.global_step} of {state.max_steps}: {', '.join(notes)}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the finished bar."""
        self.progress.stop()
