"""The labelled sets of a run, from the files and options that a user gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import polars as pl

from crossdna.data import base_labels, labelled, similarity, splits
from crossdna.data import sequence_tables as tables
from crossdna.errors import CrossDNAError
from crossdna.files import split_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crossdna.data.genome import Genome
    from crossdna.data.labelled import Kind, LabelledSet, Task
    from crossdna.data.sequence_tables import SequenceTable
    from crossdna.data.splits import By


@dataclass(frozen=True, kw_only=True, slots=True)
class InputOptions:
    """How to read the files; None or ``"auto"``: find out."""

    sequence_column: str | None = None
    label_columns: tuple[str, ...] = ()
    kind: Kind | Literal["auto"] = "auto"
    positive: str | None = None
    genome: Genome | None = None
    features: tuple[base_labels.Feature, ...] = ()
    """Features that label the bases of located sequences."""
    by: By = "auto"
    shares: tuple[float, ...] = (0.8, 0.1, 0.1)
    similarity: float = similarity.THRESHOLD
    seed: int = 0


class Sets(NamedTuple):
    """Training, development and test set of one task.

    Attributes
    ----------
    how : str
        Where the split is from: ``files``, ``column``, or what it was made by.
    """

    task: Task
    train: LabelledSet
    valid: LabelledSet
    test: LabelledSet
    how: str

    def named(self) -> dict[str, LabelledSet]:
        """The sets by the name of their split."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def read_inputs(paths: Sequence[str | Path], options: InputOptions) -> SequenceTable:
    """Read one file, the parts of one table, or files of one class each.

    Several CSV, TSV or Parquet files with labels in a column are parts of one table.
    Files with names (``NAME=FILE``) are one class each, and so are, called as the file,
    FASTA and BED files and tables in which no column may hold labels.
    """
    named = [split_named(str(path)) for path in paths]
    read = [
        tables.read_sequences(
            path, sequence_column=options.sequence_column, genome=options.genome
        )
        for _, path in named
    ]
    has_names = any(name is not None for name, _ in named)
    if has_names or (len(read) > 1 and _are_classes(read[0], options)):
        names = [name or _stem(path) for name, path in named]
        return tables.concatenate_classes(read, names)
    table = tables.concatenate(read) if len(read) > 1 else read[0]
    if options.features:
        return table
    if table.columns.columns == ["id", "description"]:
        return labelled.with_header_labels(table)
    return table


def _are_classes(table: SequenceTable, options: InputOptions) -> bool:
    """Whether several files like this one, without names, are one class each."""
    if options.label_columns or options.features:
        return False
    return table.sequence_column is None or not labelled.label_candidates(table)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def read_sets(
    train: Sequence[str | Path],
    valid: Sequence[str | Path],
    test: Sequence[str | Path],
    options: InputOptions,
) -> Sets:
    """Read the labelled sets; those without a file are split off the training set.

    A column named split (or set, fold) with the values train, valid (dev) and test
    decides when neither `valid` nor `test` is given.

    Raises
    ------
    CrossDNAError
        Whatever `read_sequences`, `detect_task`, `label` and `split_labelled` refuse.
    """
    table, names = _with_base_labels(read_inputs(train, options), options, None)
    columns = (
        (base_labels.COLUMN,)
        if options.features
        else labelled.find_label_columns(table, options.label_columns)
    )
    kind = "per-base" if options.features else options.kind
    task = labelled.detect_task(table, columns, kind, options.positive)
    data = labelled.label(table, task)
    given = {
        name: labelled.label(
            _with_base_labels(read_inputs(paths, options), options, names)[0], task
        )
        for name, paths in (("valid", valid), ("test", test))
        if paths
    }
    sets = _complete(data, given, options)
    if not options.features:
        return sets
    classes = tuple(names[letter] for letter in task.classes)
    return _renamed(sets, replace(task, classes=classes))


def _with_base_labels(
    table: SequenceTable, options: InputOptions, names: dict[str, str] | None
) -> tuple[SequenceTable, dict[str, str]]:
    if not options.features:
        return table, {}
    return base_labels.add_base_labels(table, list(options.features), names)


def _renamed(sets: Sets, task: Task) -> Sets:
    parts = {name: replace(data, task=task) for name, data in sets.named().items()}
    return Sets(task=task, how=sets.how, **parts)


def _complete(
    data: LabelledSet, given: dict[str, LabelledSet], options: InputOptions
) -> Sets:
    if len(given) == 2:
        return Sets(data.task, data, given["valid"], given["test"], "files")
    column = None if given else _split_column(data.table)
    if column is not None:
        return _by_column(data, column)
    # A split that has its own file takes no share of the training rows.
    shares = [
        share if name == "train" or name not in given else 0.0
        for name, share in zip(splits.SPLITS, options.shares, strict=True)
    ]
    if not any(shares[1:]):
        nothing = data.take(np.empty(0, np.int64))
        rest = {"valid": nothing, "test": nothing} | given
        return Sets(data.task, data, rest["valid"], rest["test"], "files")
    result = splits.split_labelled(
        data,
        shares=shares,
        by=options.by,
        threshold=options.similarity,
        seed=options.seed,
    )
    parts = {name: data.take(result.rows(name)) for name in splits.SPLITS} | given
    return Sets(data.task, parts["train"], parts["valid"], parts["test"], result.by)


def _split_column(table: SequenceTable) -> str | None:
    name = tables.find_column(table.columns, labelled.SPLIT_NAMES)
    if name is None:
        return None
    values = set(table.columns[name].cast(pl.String).drop_nulls().to_list())
    return name if {"train", "test"} <= values <= set(_SPELLINGS) else None


_SPELLINGS = {
    "train": "train", "training": "train", "valid": "valid", "validation": "valid",
    "val": "valid", "dev": "valid", "test": "test",
}  # fmt: skip


def _by_column(data: LabelledSet, column: str) -> Sets:
    values = data.table.columns[column].cast(pl.String).to_list()
    if None in values:
        where = data.table.places[values.index(None)]
        raise CrossDNAError(f"{where}: nothing in column {column!r}")
    split = np.array([_SPELLINGS[value] for value in values])
    parts = {name: data.take(np.flatnonzero(split == name)) for name in splits.SPLITS}
    for name, part in parts.items():
        if not len(part):
            raise CrossDNAError(
                f"{data.table.source}: column {column!r} marks no row as {name}"
            )
    return Sets(data.task, parts["train"], parts["valid"], parts["test"], "column")
