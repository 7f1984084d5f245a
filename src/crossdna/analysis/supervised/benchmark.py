"""A table of models on tasks: finished cells are kept, models are compared in pairs."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl
import torch

import crossdna
from crossdna.analysis.statistics import interval, over_seeds
from crossdna.analysis.supervised.classical import Predictor
from crossdna.analysis.supervised.comparison import ask
from crossdna.data import metrics
from crossdna.data.digests import set_digests
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open, atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crossdna.analysis.statistics import Interval
    from crossdna.data.labelled_inputs import Sets

CELLS: Final = "cells"


class Fitted(NamedTuple):
    """A predictor that was trained for a cell.

    Attributes
    ----------
    thresholds : tuple of float, or None
        Those that training chose, else the development set chooses here.
    parameters : int or None
    fingerprint : str
        Of a network; see `crossdna.models.fingerprint`.
    layer : str
        Hidden state that a probe reads.
    """

    predictor: Predictor
    thresholds: tuple[float, ...] | None = None
    parameters: int | None = None
    fingerprint: str = ""
    layer: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What one model with one seed did on one task."""

    task: str
    model: str
    seed: int
    kind: str
    metric: str
    """Name of the metric that is reported."""
    value: float
    every: dict[str, float]
    """All metrics."""
    chance: float
    rows: int
    split_by: str
    reduced_train: bool
    seconds_fit: float
    seconds_predict: float
    peak_memory_mib: float | None
    parameters: int | None
    fingerprint: str = ""
    """Of the network that was asked; see `crossdna.models.fingerprint`."""
    layer: str = ""
    """Hidden state that a probe reads."""
    made: dict[str, str] = field(default_factory=dict)
    """When and by which versions; empty in cells of older versions."""
    data: dict[str, str] = field(default_factory=dict)
    """Digests of the sets, see `crossdna.data.digests`; empty likewise."""
    checkpoint: str = ""
    """Of the files that it started from; see `crossdna.models.fingerprint`."""


def cell_path(folder: Path, task: str, model: str, seed: int) -> Path:
    """Where a cell's result lies; names may hold slashes."""
    return folder / CELLS / _safe(task) / _safe(model) / f"seed-{seed}.json"


def _safe(name: str) -> str:
    return name.replace("/", "__").replace(":", "_")


def check_task(folder: Path, task: str, sets: Sets) -> None:
    """Refuse sets that differ from those of the finished cells of a task.

    Models are compared row by row, so all must have seen the same ones. Cells of older
    versions do not tell.

    Raises
    ------
    CrossDNAError
        Says which cell, and what has changed.
    """
    data = set_digests(sets)
    for path in sorted((folder / CELLS / _safe(task)).glob("*/seed-*.json")):
        _check_data(read_cell(path), data, path)


def _check_data(cell: Cell, data: dict[str, str], path: Path) -> None:
    changed = [key for key, value in data.items() if cell.data.get(key, value) != value]
    if changed:
        names = ", ".join(key.removesuffix("_digest") for key in changed)
        raise CrossDNAError(
            f"{path}: the cell was made with other data: changed are {names}; remove "
            f"{path.parents[1]}, or choose another directory"
        )


def _check_checkpoint(cell: Cell, checkpoint: str, path: Path) -> None:
    if cell.checkpoint and cell.checkpoint != checkpoint:
        raise CrossDNAError(
            f"{path}: the cell was made with other files of {cell.model}; remove "
            f"{path.parent}, or choose another directory"
        )


def run_cell(
    fit: Callable[[], Fitted],
    sets: Sets,
    path: Path,
    names: dict[str, Any],
    metric: str | None = None,
) -> Cell:
    """Fit, judge and keep; a cell that is there already is read back.

    Parameters
    ----------
    names
        ``task``, ``model``, ``seed`` and ``reduced_train`` of the cell; ``checkpoint``,
        a digest of the files that it starts from; ``made``, a dictionary of what else
        is to be told about its making.
    metric
        What the suite is reported by; None: the first metric of the kind of task.

    Raises
    ------
    CrossDNAError
        The cell that is there was made with other data or another checkpoint.
    """
    data = set_digests(sets)
    if path.is_file():
        kept = read_cell(path)
        _check_data(kept, data, path)
        _check_checkpoint(kept, names.get("checkpoint", ""), path)
        return kept
    memory = PeakMemory()
    start = time.perf_counter()
    fitted = fit()
    middle = time.perf_counter()
    kind = sets.task.kind
    chosen = metric or metrics.PRIMARY[kind]
    answers = ask(
        fitted.predictor,
        sets.valid,
        sets.test,
        thresholds=fitted.thresholds,
        metric=chosen,
    )
    cell = Cell(
        kind=kind,
        metric=chosen,
        value=answers.metrics[chosen].estimate,
        every={name: value.estimate for name, value in answers.metrics.items()},
        chance=metrics.chance(sets.task, sets.test.labels)[chosen],
        rows=len(sets.test),
        split_by=sets.how,
        seconds_fit=middle - start,
        seconds_predict=answers.seconds,
        peak_memory_mib=memory.read(),
        parameters=fitted.parameters,
        fingerprint=fitted.fingerprint,
        layer=fitted.layer,
        data=data,
        **names | {"made": _versions() | names.get("made", {})},
    )
    _keep(cell, answers.resampled, path)
    return cell


def _versions() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "crossdna": crossdna.__version__,
        "torch": str(torch.__version__),
    }


def _keep(cell: Cell, resampled: NDArray[np.float64], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path.with_suffix(".npy")) as temporary:
        np.save(temporary, resampled)
    # Last: this file says that the cell is finished.
    with atomic_open(path) as handle:
        json.dump(asdict(cell), handle, indent=1)


def read_cell(path: Path) -> Cell:
    """Read a finished cell."""
    return Cell(**json.loads(path.read_text()))


class PeakMemory:
    """Peak of this process's memory (or the GPU's) from here on, in MiB.

    On systems without Linux's /proc nothing is measured.
    """

    def __init__(self) -> None:
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        self.status = Path("/proc/self/status")
        clear = Path("/proc/self/clear_refs")
        # Writing 5 sets the high-water mark back to what is used now (proc(5)).
        self.known = self.status.is_file() and clear.exists()
        if self.known:
            try:
                clear.write_text("5")
            except OSError:
                self.known = False

    def read(self) -> float | None:
        """MiB; None where the system does not tell."""
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**20
        if not self.known:
            return None
        for line in self.status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return None


class Row(NamedTuple):
    """A model on a task, over its seeds."""

    task: str
    model: str
    metric: str
    mean: float
    low: float
    high: float
    sd: float
    """Over seeds; NaN with one."""
    seeds: int
    chance: float
    seconds: float
    """To fit, mean over seeds."""
    memory_mib: float
    parameters: int | None
    reduced_train: bool


class PairRow(NamedTuple):
    """Two models on a task: difference of the first metric, resampled as pairs.

    Of test rows, and of seeds where there are several.
    """

    task: str
    first: str
    second: str
    gain: float
    low: float
    high: float
    p: float
    """Two-sided bootstrap probability of no difference; NaN where none is defined."""


class CellGroup(NamedTuple):
    """Finished cells of a model on a task that differ in their seed.

    Attributes
    ----------
    cells : list of Cell
    resampled : ndarray of shape (cells, resamples)
        The metric on resampled test rows.
    """

    cells: list[Cell]
    resampled: NDArray[np.float64]

    @property
    def seeds(self) -> list[int]:
        """Those of the cells."""
        return [cell.seed for cell in self.cells]


def group_cells(folder: Path) -> dict[tuple[str, str], CellGroup]:
    """All finished cells, by task and model."""
    groups: dict[tuple[str, str], list[tuple[Cell, NDArray[np.float64]]]] = {}
    for path in sorted((folder / CELLS).glob("*/*/seed-*.json")):
        cell = read_cell(path)
        found = groups.setdefault((cell.task, cell.model), [])
        found.append((cell, np.load(path.with_suffix(".npy"))))
    return {
        key: CellGroup([cell for cell, _ in found], np.stack([r for _, r in found]))
        for key, found in groups.items()
    }


def collect(folder: Path) -> tuple[list[Row], list[PairRow]]:
    """Put all finished cells together.

    Intervals are of the mean over seeds, over resampled test rows and seeds; every
    model sees the same resamples, so that differences are paired.
    """
    groups = group_cells(folder)
    rows = [_row(*key, group) for key, group in groups.items()]
    rows.sort(key=lambda row: (row.task, -np.nan_to_num(row.mean, nan=-9)))
    pairs = []
    for one, other in combinations(rows, 2):
        if one.task == other.task:
            first, second = (groups[row.task, row.model] for row in (one, other))
            pairs.append(_pair(one, other, _apart(first, second)))
    return rows, pairs


def _apart(first: CellGroup, second: CellGroup) -> NDArray[np.float64]:
    """Difference of the means over seeds, for each resample; (resamples,)."""
    if first.seeds == second.seeds:
        return over_seeds(first.resampled - second.resampled)
    return over_seeds(first.resampled) - over_seeds(second.resampled, draws=1)


def _row(task: str, model: str, group: CellGroup) -> Row:
    cells = group.cells
    values = [cell.value for cell in cells]
    found: Interval = interval(float(np.mean(values)), over_seeds(group.resampled))
    memory = [cell.peak_memory_mib or np.nan for cell in cells]
    return Row(
        task=task,
        model=model,
        metric=cells[0].metric,
        mean=found.estimate,
        low=found.low,
        high=found.high,
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
        seeds=len(cells),
        chance=cells[0].chance,
        seconds=float(np.mean([cell.seconds_fit for cell in cells])),
        memory_mib=float(np.max(memory)),
        parameters=cells[0].parameters,
        reduced_train=cells[0].reduced_train,
    )


def _pair(one: Row, other: Row, apart: NDArray) -> PairRow:
    found = interval(one.mean - other.mean, apart)
    apart = apart[~np.isnan(apart)]
    p = float("nan")
    if apart.size:
        tail = min(float((apart <= 0).mean()), float((apart >= 0).mean()))
        # With so many resamples no smaller probability can be told from zero.
        p = min(1.0, max(2 * tail, 1 / len(apart)))
    return PairRow(
        one.task, one.model, other.model, found.estimate, found.low, found.high, p
    )


def write_tables(rows: Sequence[Row], pairs: Sequence[PairRow], folder: Path) -> None:
    """Write results.parquet, pairs.parquet and results.md."""
    for name, table, kind in (("results", rows, Row), ("pairs", pairs, PairRow)):
        fields = list(kind._fields)
        data = pl.DataFrame(table, fields, orient="row", infer_schema_length=None)
        with atomic_path(folder / f"{name}.parquet") as temporary:
            data.write_parquet(temporary)
    with atomic_open(folder / "results.md") as handle:
        handle.write(to_markdown(rows, pairs))


def to_markdown(rows: Sequence[Row], pairs: Sequence[PairRow]) -> str:
    """One line for each model and task, best first, then the means over tasks."""
    lines = [
        "| task | model | metric | mean | 95 % interval | sd | seeds | chance | fit s "
        "| MiB | parameters |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row.task + (" (reduced train)" if row.reduced_train else "")
        spread = "" if np.isnan(row.sd) else f"{row.sd:.3f}"
        memory = "" if np.isnan(row.memory_mib) else f"{row.memory_mib:.0f}"
        size = f"{row.parameters:,}" if row.parameters else ""
        lines.append(
            f"| {name} | {row.model} | {row.metric} | {row.mean:.3f} | "
            f"{row.low:.3f} to {row.high:.3f} | {spread} | {row.seeds} | "
            f"{row.chance:.3f} | {row.seconds:.1f} | {memory} | {size} |"
        )
    lines += ["", *_means(rows), ""]
    lines += [
        "| task | better | than | by | 95 % interval | p |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.task} | {p.first} | {p.second} | {p.gain:+.3f} | {p.low:+.3f} to "
        f"{p.high:+.3f} | {p.p:.3f} |"
        for p in pairs
    ]
    return "\n".join(lines) + "\n"


def _means(rows: Sequence[Row]) -> list[str]:
    """Means of the models that have every task, within each metric."""
    lines = ["| metric | model | tasks | mean over tasks |", "|---|---|---|---|"]
    for metric in sorted({row.metric for row in rows}):
        chosen = [row for row in rows if row.metric == metric]
        tasks = {row.task for row in chosen}
        means = {}
        for model in {row.model for row in chosen}:
            values = [row.mean for row in chosen if row.model == model]
            if len(values) == len(tasks):
                means[model] = float(np.mean(values))
        for model, mean in sorted(means.items(), key=lambda item: -item[1]):
            lines.append(f"| {metric} | {model} | {len(tasks)} | {mean:.3f} |")
    return lines
