"""Benchmark suites on disk: GUE, Nucleotide Transformer, Genomic Benchmarks, tables.

A suite is a folder. A task in it is

- a folder with ``train``, ``dev`` and ``test`` files (GUE: ``.csv``; Nucleotide
  Transformer: ``.fna`` with the label behind the last ``|`` of a header, no dev);
- a folder with ``train`` and ``test`` folders that hold one folder per class, with one
  text file per sequence (Genomic Benchmarks);
- a single ``.csv``, ``.tsv`` or ``.parquet`` file beside others.

What has no development set gets one split off its training set by similarity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import polars as pl

from crossdna import alphabet
from crossdna.data import labelled
from crossdna.data.labelled_inputs import InputOptions, Sets, read_inputs, read_sets
from crossdna.data.sequence_tables import COLUMN_OF_CLASS, SequenceTable
from crossdna.data.splits import split_labelled
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

Layout = Literal["files", "classes", "table"]
_ENDINGS: Final = (".csv", ".tsv", ".parquet", ".fna", ".fa", ".fasta")
_DEV_SHARE: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteTask:
    """A task of a suite: where it lies, and how."""

    name: str
    """Path within the suite, without ending."""
    path: Path
    layout: Layout
    reduced: bool = False
    """There is no training file, and the development file takes its place."""


def find_tasks(
    folder: str | Path, wanted: Sequence[str] = (), *, reduced_train: bool = False
) -> list[SuiteTask]:
    """All tasks of a suite, or those named, by name.

    Parameters
    ----------
    wanted
        Names, or beginnings of names such as ``prom/``.
    reduced_train
        Also take tasks without a training file: their development file is used for
        training, which makes them another task than the published one.

    Raises
    ------
    CrossDNAError
        No such folder, no task in it, or a name that fits none.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CrossDNAError(f"{root}: no such folder; a suite is a folder of tasks")
    every = _walk(root, root)
    found = [task for task in every if reduced_train or not task.reduced]
    if not found:
        raise CrossDNAError(
            f"{root}: no task found; known are folders with train and test files or "
            "folders, and single tables"
        )
    if not wanted:
        return found
    chosen = []
    for name in wanted:
        fitting = _fitting(found, name)
        if not fitting and _fitting(every, name):
            raise CrossDNAError(
                f"{root}: task {name!r} has no training file; --reduced-train trains "
                "on its development file, which makes it another task"
            )
        if not fitting:
            known = ", ".join(task.name for task in found[:20])
            raise CrossDNAError(f"{root}: no task {name!r}; there are {known}")
        chosen += [task for task in fitting if task not in chosen]
    return chosen


def untrained_tasks(folder: str | Path, wanted: Sequence[str] = ()) -> list[SuiteTask]:
    """Tasks that `find_tasks` leaves out, for they have no training file.

    Parameters
    ----------
    wanted
        See `find_tasks`.
    """
    every = _walk(Path(folder), Path(folder))
    if wanted:
        every = [task for name in wanted for task in _fitting(every, name)]
    return [task for task in dict.fromkeys(every) if task.reduced]


def _fitting(tasks: Sequence[SuiteTask], name: str) -> list[SuiteTask]:
    """The task of that name, or else all whose names begin with it."""
    exact = [task for task in tasks if task.name == name]
    return exact or [task for task in tasks if task.name.startswith(name)]


def _walk(root: Path, folder: Path) -> list[SuiteTask]:
    name = str(folder.relative_to(root))
    if _file(folder, "test"):
        if _file(folder, "train"):
            return [SuiteTask(name=name, path=folder, layout="files")]
        if _file(folder, "dev") or _file(folder, "valid"):
            return [SuiteTask(name=name, path=folder, layout="files", reduced=True)]
        return []
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return [SuiteTask(name=name, path=folder, layout="classes")]
    tasks = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            tasks += _walk(root, path)
        elif _ending(path) in (".csv", ".tsv", ".parquet"):
            own = str(path.relative_to(root)).removesuffix(".gz")
            name = own.removesuffix(_ending(path))
            tasks.append(SuiteTask(name=name, path=path, layout="table"))
    return tasks


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def _file(folder: Path, stem: str) -> Path | None:
    for ending in _ENDINGS:
        for packing in ("", ".gz"):
            path = folder / f"{stem}{ending}{packing}"
            if path.is_file():
                return path
    return None


def read_task(task: SuiteTask) -> Sets:
    """Read the three sets of a task.

    Raises
    ------
    CrossDNAError
        Whatever is wrong with a file, by file and line.
    """
    if task.layout == "table":
        return read_sets([task.path], [], [], InputOptions())
    if task.layout == "classes":
        train, test = (_class_folders(task.path / part) for part in ("train", "test"))
        kind = labelled.detect_task(train, (COLUMN_OF_CLASS,))
        return _with_dev(labelled.label(train, kind), labelled.label(test, kind))
    train_file = _file(task.path, "train")
    dev = _file(task.path, "dev") or _file(task.path, "valid")
    test_file = _file(task.path, "test")
    assert test_file is not None
    if train_file is not None and dev is not None:
        return read_sets([train_file], [dev], [test_file], InputOptions())
    table = read_inputs([train_file or dev or test_file], InputOptions())
    columns = labelled.find_label_columns(table)
    kind = labelled.detect_task(table, columns)
    other = labelled.label(read_inputs([test_file], InputOptions()), kind)
    return _with_dev(labelled.label(table, kind), other)


def _with_dev(train: labelled.LabelledSet, test: labelled.LabelledSet) -> Sets:
    shares = (1 - _DEV_SHARE, _DEV_SHARE, 0.0)
    result = split_labelled(train, shares=shares, by="similarity")
    parts = [train.take(result.rows(name)) for name in ("train", "valid")]
    return Sets(train.task, parts[0], parts[1], test, "similarity (development set)")


def _class_folders(folder: Path) -> SequenceTable:
    """Read one folder per class with one text file per sequence."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise CrossDNAError(f"{folder}: no folders, one for each class")
    ids, places, labels = [], [], []
    for path in classes:
        for file in sorted(path.glob("*.txt")):
            letters = file.read_text().strip()
            if not letters:
                raise CrossDNAError(f"{file}: empty")
            ids.append(alphabet.encode(letters, name=str(file)))
            places.append(str(file))
            labels.append(path.name)
    if not ids:
        raise CrossDNAError(f"{folder}: no .txt files in the folders of its classes")
    return SequenceTable(
        source=str(folder),
        ids=tuple(ids),
        columns=pl.DataFrame({"path": places, COLUMN_OF_CLASS: labels}),
        places=tuple(places),
    )
