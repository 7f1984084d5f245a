"""The labelled sets of a run, from the files and options that a user gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

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

    A column named split (or set, fold, subset) with the words train, valid (or val,
    dev, eval) and test, in any case, decides when neither `valid` nor `test` is given.
    What it marks no row as is split off the rows of train.

    Raises
    ------
    CrossDNAError
        Whatever `read_sequences`, `detect_task`, `label` and `split_labelled` refuse;
        with file and row: a split column in which such words stand beside others.
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
    column = None if given else _split_column(data)
    if column is not None:
        return _by_column(data, column, options)
    return _split_off(data, given, options)


def _split_off(
    data: LabelledSet, given: dict[str, LabelledSet], options: InputOptions
) -> Sets:
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


_SPELLINGS = {
    "train": "train", "training": "train", "valid": "valid", "validation": "valid",
    "val": "valid", "dev": "valid", "development": "valid", "eval": "valid",
    "evaluation": "valid", "test": "test", "testing": "test",
}  # fmt: skip


def _split_column(data: LabelledSet) -> str | None:
    """The first column that says the split of every row.

    Numbered folds say none, and one word in all rows, as in a file that holds a single
    split, parts nothing.
    """
    mixed = None
    for name in data.table.columns.columns:
        if name.lower() not in labelled.SPLIT_NAMES or name in data.task.columns:
            continue
        words = _split_words(data.table, name)
        known = {word for word in words if word in _SPELLINGS}
        if known == set(words) and len({_SPELLINGS[word] for word in known}) > 1:
            return name
        if known and known != set(words):
            mixed = mixed or name
    if mixed is not None:
        _refuse_mixed(data.table, mixed)
    return None


def _split_words(table: SequenceTable, name: str) -> list[str]:
    column = table.columns[name]
    if column.dtype.is_nested():
        return []
    return [(word or "").strip().lower() for word in column.cast(pl.String)]


def _refuse_mixed(table: SequenceTable, name: str) -> NoReturn:
    words = _split_words(table, name)
    row = next(row for row, word in enumerate(words) if word not in _SPELLINGS)
    found = repr(table.columns[name][row]) if words[row] else "nothing"
    raise CrossDNAError(
        f"{table.places[row]}: {found} in column {name!r}, which says train, valid or "
        "test elsewhere; mend it, or rename the column if it is no split"
    )


def _by_column(data: LabelledSet, column: str, options: InputOptions) -> Sets:
    words = _split_words(data.table, column)
    split = np.array([_SPELLINGS[word] for word in words])
    parts = {name: data.take(np.flatnonzero(split == name)) for name in splits.SPLITS}
    train = parts.pop("train")
    if not len(train):
        raise CrossDNAError(
            f"{data.table.source}: column {column!r} marks no row as train"
        )
    given = {name: part for name, part in parts.items() if len(part)}
    if len(given) == len(parts):
        return Sets(data.task, train, given["valid"], given["test"], "column")
    rest = _split_off(train, given, options)
    (missing,) = set(parts) - set(given)
    if not len(rest.named()[missing]):
        return rest._replace(how="column")
    return rest._replace(how=f"column ({missing}: {rest.how})")
