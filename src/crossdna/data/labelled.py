"""Labelled sequences: which column is the label, which kind of task, which numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeVar, get_args

import numpy as np
import polars as pl

from crossdna.data import loci
from crossdna.data import sequence_tables as tables
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from crossdna.data.sequence_tables import SequenceTable

Kind = Literal["binary", "multiclass", "multilabel", "regression", "per-base"]
KINDS: Final = get_args(Kind)
LABEL_NAMES: Final = (
    "label", "labels", "class", "target", "y", "promoter_presence", "activity"
)  # fmt: skip
IGNORED: Final = -100
"""Label of a base that does not count, as torch's cross-entropy has it."""
SPLIT_NAMES: Final = ("split", "set", "fold", "subset")
FEW_VALUES: Final = 20
"""So many distinct whole numbers are still classes; more are a quantity."""
MANY_CLASSES: Final = 1000

_DECIMAL_COMMA: Final = re.compile(r"[+-]?\d*,\d+")
_T = TypeVar("_T")
_BOOLEAN: Final = {"true": "1", "false": "0"}
# Zeros in front make a name of it: 001 is no 1.
_WHOLE: Final = re.compile(r"([+-]?(?:0|[1-9]\d{0,17}))(\.0*)?")
_MISSING: Final = frozenset(
    ("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "NAN", "nan", "NULL", "null", "None")
)
"""What pandas, R and spreadsheets write for a value that is not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is to be predicted."""

    kind: Kind
    columns: tuple[str, ...]
    """The label columns: one, or several for several labels or targets."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of their numbers and as the training table
    spells them first; of a binary task the second is the positive one. Empty for
    regression; the columns for several labels."""

    @property
    def outputs(self) -> int:
        """Numbers that a model's head gives."""
        return len(self.columns) if self.kind == "regression" else len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """What each output is called."""
        return self.columns if self.kind == "regression" else self.classes


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledSet:
    """Sequences and their labels as numbers.

    Attributes
    ----------
    labels
        binary, multiclass: (rows,) int64 class numbers. multilabel: (rows, labels)
        float64 of 0 and 1. regression: (rows, targets) float64. per-base: object array
        of (length,) int64 class numbers, `IGNORED` where a base has no label.
    """

    table: SequenceTable
    task: Task
    labels: NDArray

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> LabelledSet:
        """Some rows, in the order given."""
        index = np.asarray(rows, np.int64)
        return replace(self, table=self.table.take(index), labels=self.labels[index])

    def evenly(self, most: int) -> LabelledSet:
        """At most so many rows, spread over all of them."""
        if len(self) <= most:
            return self
        return self.take(np.linspace(0, len(self) - 1, most).round().astype(int))


def find_label_columns(
    table: SequenceTable, wanted: Sequence[str] = ()
) -> tuple[str, ...]:
    """The label columns: those named, else one found by its name or by being left over.

    Raises
    ------
    CrossDNAError
        No such column, or none that stands out; lists the columns.
    """
    columns = table.columns.columns
    for name in wanted:
        if name not in columns:
            raise CrossDNAError(
                f"{table.source}: no column {name!r}; there are {', '.join(columns)}"
            )
    if wanted:
        return tuple(wanted)
    candidates = label_candidates(table)
    if len(candidates) == 1:
        return tuple(candidates)
    raise CrossDNAError(
        f"{table.source}: which column holds the labels? Name it with --label-column "
        f"(columns: {', '.join(columns)}), or give files of one class each as NAME=FILE"
    )


def label_candidates(table: SequenceTable) -> list[str]:
    """Columns that may hold the labels: by their names, else whatever is left over."""
    columns = table.columns.columns
    if tables.COLUMN_OF_CLASS in columns:
        return [tables.COLUMN_OF_CLASS]
    if named := [name for name in columns if name.lower() in LABEL_NAMES]:
        return named
    if columns[:3] == list(tables.BED_COLUMNS[:3]) and "name" in columns:
        return ["name"]
    known = (
        *loci.CONTIG_NAMES, *loci.START_NAMES, *loci.END_NAMES, *SPLIT_NAMES,
        "strand", "id", "name",
    )  # fmt: skip
    left = [
        name
        for name in columns
        if name != table.sequence_column and name.lower() not in known
    ]
    # `crossdna split` writes a column group; alone it may be somebody's label.
    return [name for name in left if name.lower() != "group"] or left


def with_header_labels(table: SequenceTable) -> SequenceTable:
    """Give a FASTA table a column ``label`` from its headers.

    Read are ``label=X`` (or ``class=``, ``target=``) anywhere, else what follows the
    last ``|``, else a description of a single word.

    Raises
    ------
    CrossDNAError
        A header without a label, with file and line.
    """
    labels = []
    rows = zip(
        table.columns["id"], table.columns["description"], table.places, strict=True
    )
    for name, description, where in rows:
        header = f"{name} {description}".strip()
        match = re.search(r"(?:^|[\s;|])(?:label|class|target)=([^\s;|]+)", header)
        if match:
            labels.append(match[1])
        elif "|" in header:
            labels.append(header.rpartition("|")[2].strip())
        elif description and " " not in description:
            labels.append(description)
        else:
            raise CrossDNAError(
                f"{where}: no label in the header; write >name label=X or >name|X, or "
                "give one file per class"
            )
    column = pl.Series("label", labels, dtype=pl.String)
    return replace(table, columns=table.columns.with_columns(column))


def detect_task(
    table: SequenceTable,
    columns: Sequence[str],
    kind: Kind | Literal["auto"] = "auto",
    positive: str | None = None,
) -> Task:
    """What kind of task the labels of a training table are, and its classes.

    With ``"auto"``: strings as long as their sequences are per-base labels; two values
    are binary; text, or at most `FEW_VALUES` whole numbers, are classes; other numbers
    are a quantity. Several columns are several labels when they hold 0 and 1 only, else
    several quantities. Of whole numbers the value counts: 1, 1.0 and +1 are one class,
    called what comes first; so are 1 and True where all are True or False.

    Parameters
    ----------
    positive
        The class of a binary task that counts as positive; by default the larger
        number, or the later name in the alphabet.

    Raises
    ------
    CrossDNAError
        With file and row: a missing label (NA or NaN too), numbers mixed with text,
        text where numbers are wanted; one class only; classes that are too many to be
        meant.
    """
    texts = {name: _texts(table, name) for name in columns}
    chosen = _detect_kind(table, texts) if kind == "auto" else kind
    if chosen in ("binary", "multiclass", "per-base") and len(columns) > 1:
        raise CrossDNAError(
            f"{table.source}: a {chosen} task has one label column, not "
            f"{', '.join(columns)}"
        )
    if chosen == "regression":
        for name in columns:
            _require_spread(table, name, _numbers(table, name, texts[name]))
        return Task(kind=chosen, columns=tuple(columns))
    if chosen == "multilabel":
        for name in columns:
            _require_two_classes(table, name, _zero_one(table, name, texts[name]))
        return Task(kind=chosen, columns=tuple(columns), classes=tuple(columns))
    name, values = columns[0], texts[columns[0]]
    if chosen == "per-base":
        _require_base_labels(table, values)
        classes = sorted(set("".join(values)) - {"."})
    else:
        spelled: dict[str, str] = {}
        for key, text in zip(_class_keys(values), values, strict=True):
            spelled.setdefault(key, text)
        classes = [spelled[key] for key in _sorted_classes(list(spelled))]
    _require_classes(table, name, chosen, classes)
    if positive is not None:
        classes = _positive_last(table, chosen, classes, positive)
    return Task(kind=chosen, columns=(name,), classes=tuple(classes))


def label(table: SequenceTable, task: Task) -> LabelledSet:
    """Turn the label columns of a table into the numbers of a task.

    Raises
    ------
    CrossDNAError
        With file and row: a missing label, a class that the task does not know, text
        where a number is wanted.
    """
    for name in task.columns:
        if name not in table.columns.columns:
            raise CrossDNAError(
                f"{table.source}: no column {name!r}; there are "
                f"{', '.join(table.columns.columns)}"
            )
    texts = {name: _texts(table, name) for name in task.columns}
    if task.kind == "regression":
        parts = [_numbers(table, name, texts[name]) for name in task.columns]
        return LabelledSet(table=table, task=task, labels=np.stack(parts, axis=1))
    if task.kind == "multilabel":
        parts = [_zero_one(table, name, texts[name]) for name in task.columns]
        return LabelledSet(table=table, task=task, labels=np.stack(parts, axis=1))
    values = texts[task.columns[0]]
    if task.kind == "per-base":
        numbers = {name: number for number, name in enumerate(task.classes)}
        _require_base_labels(table, values)
        labels = _base_numbers(table, values, {**numbers, ".": IGNORED})
        return LabelledSet(table=table, task=task, labels=labels)
    numbers = {key: number for number, key in enumerate(_class_keys(task.classes))}
    labels = np.empty(len(values), np.int64)
    for row, (value, where) in enumerate(zip(values, table.places, strict=True)):
        number = _of_class(numbers, value)
        if number is None:
            raise CrossDNAError(
                f"{where}: class {value!r} does not occur in the training set "
                f"(it has {', '.join(task.classes[:10])})"
            )
        labels[row] = number
    return LabelledSet(table=table, task=task, labels=labels)


def class_strata(data: LabelledSet, bins: int = 5) -> NDArray[np.int64]:
    """A class per row to balance splits by: quantiles stand in for quantities."""
    if data.task.kind in ("binary", "multiclass"):
        return data.labels
    if data.task.kind == "multilabel":
        return data.labels[:, 0].astype(np.int64)
    if data.task.kind == "per-base":
        return np.zeros(len(data), np.int64)
    edges = np.quantile(data.labels[:, 0], np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, data.labels[:, 0], side="right")


def _texts(table: SequenceTable, name: str) -> list[str]:
    kind = table.columns[name].dtype
    if kind.is_nested() or kind == pl.Binary:
        raise CrossDNAError(
            f"{table.source}: column {name!r} holds no numbers or text ({kind}); write "
            "one label a row, and labels of bases as a text with a letter for each base"
        )
    values = table.columns[name].cast(pl.String).to_list()
    for value, where in zip(values, table.places, strict=True):
        if value is None or not value.strip():
            raise CrossDNAError(f"{where}: no label in column {name!r}")
        if value.strip() in _MISSING:
            raise CrossDNAError(
                f"{where}: label {value.strip()!r} in column {name!r} means a missing "
                "value; leave the row out, or call the class something else"
            )
    return [value.strip() for value in values]


def _booleans(texts: Sequence[str]) -> list[str]:
    """1 and 0 where all are True or False."""
    if {text.lower() for text in texts} <= set(_BOOLEAN):
        return [_BOOLEAN[text.lower()] for text in texts]
    return list(texts)


def _class_keys(texts: Sequence[str]) -> list[str]:
    """What labels of one class have in common, however they are spelled."""
    return _whole_numbers(_booleans(texts))


def _of_class(by_key: Mapping[str, _T], text: str) -> _T | None:
    """Look up what belongs to a class, by its key, however it is spelled."""
    (key,) = _whole_numbers([text])
    return by_key.get(key, by_key.get(_BOOLEAN.get(key.lower(), "")))


def _whole_numbers(texts: Sequence[str]) -> list[str]:
    """One spelling for each whole number: 1 for 1.0 and +1.

    A table that was written by pandas or from a spreadsheet has 1.0 where another one
    has 1; neither is a class of its own.
    """
    matches = [_WHOLE.fullmatch(text) for text in texts]
    return [
        str(int(match[1])) if match else text
        for text, match in zip(texts, matches, strict=True)
    ]


def _detect_kind(table: SequenceTable, texts: dict[str, list[str]]) -> Kind:
    if len(texts) > 1:
        columns = [set(_class_keys(values)) for values in texts.values()]
        zero_one = all(values <= {"0", "1"} for values in columns)
        return "multilabel" if zero_one else "regression"
    (name, values), *_ = texts.items()
    if all(
        len(value) == length > 1
        for value, length in zip(values, table.lengths, strict=True)
    ):
        return "per-base"
    distinct = set(_class_keys(values))
    if len(distinct) == 2:
        return "binary"
    numeric = [_is_number(value) for value in values]
    for value, where in zip(values, table.places, strict=True):
        if _DECIMAL_COMMA.fullmatch(value):
            raise CrossDNAError(
                f"{where}: label {value!r} in column {name!r}{_comma_hint(value)}, or "
                "say with --task that labels are names"
            )
    if not any(numeric):
        return "multiclass"
    if not all(numeric):
        rare = sum(numeric) * 2 > len(numeric)
        row = numeric.index(not rare)
        kind = "text" if rare else "a number"
        raise CrossDNAError(
            f"{table.places[row]}: label {values[row]!r} in column {name!r} is {kind}, "
            "unlike the others; mend it, or say what is meant with --task"
        )
    whole = all(float(value).is_integer() for value in distinct)
    return "multiclass" if whole and len(distinct) <= FEW_VALUES else "regression"


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _comma_hint(text: str) -> str:
    if not _DECIMAL_COMMA.fullmatch(text):
        return ""
    return f": has it a decimal comma? Write {text.replace(',', '.')}"


def _numbers(
    table: SequenceTable, name: str, texts: Sequence[str]
) -> NDArray[np.float64]:
    texts = _booleans(texts)
    for text, where in zip(texts, table.places, strict=True):
        if not _is_number(text):
            raise CrossDNAError(
                f"{where}: label {text!r} in column {name!r} is not a number, which a "
                f"regression needs{_comma_hint(text)}"
            )
    return np.array([float(text) for text in texts])


def _zero_one(
    table: SequenceTable, name: str, texts: Sequence[str]
) -> NDArray[np.float64]:
    texts = _class_keys(texts)
    for text, where in zip(texts, table.places, strict=True):
        if text not in ("0", "1"):
            raise CrossDNAError(
                f"{where}: label {text!r} in column {name!r} is not 0 or 1, which a "
                "multi-label task needs"
            )
    return np.array([float(text) for text in texts])


def _require_spread(
    table: SequenceTable, name: str, values: NDArray[np.float64]
) -> None:
    if np.ptp(values) == 0:
        raise CrossDNAError(
            f"{table.source}: all {len(values)} labels in column {name!r} are "
            f"{values[0]:g}; there is nothing to learn"
        )


def _require_two_classes(
    table: SequenceTable, name: str, values: NDArray[np.float64]
) -> None:
    if len(np.unique(values)) < 2:
        raise CrossDNAError(
            f"{table.source}: column {name!r} holds one class only ({values[0]:g})"
        )


def _require_classes(
    table: SequenceTable, name: str, kind: Kind, classes: Sequence[str]
) -> None:
    where = f"{table.source}: column {name!r}"
    if len(classes) < 2:
        found = classes[0] if classes else "nothing"
        raise CrossDNAError(f"{where} holds one class only ({found})")
    if kind == "binary" and len(classes) > 2:
        raise CrossDNAError(
            f"{where} holds {len(classes)} classes ({', '.join(classes[:6])}), "
            "not the two of a binary task"
        )
    own = kind != "per-base" and len(classes) > max(FEW_VALUES, len(table) / 2)
    if len(classes) > MANY_CLASSES or own:
        raise CrossDNAError(
            f"{where} holds {len(classes)} different labels in {len(table)} rows; are "
            "these names? Name the right column with --label-column"
        )


def _sorted_classes(values: Sequence[str]) -> list[str]:
    distinct = set(values)
    if all(_is_number(value) for value in distinct):
        return sorted(distinct, key=lambda value: (float(value), value))
    return sorted(distinct)


def _positive_last(
    table: SequenceTable, kind: Kind, classes: Sequence[str], positive: str
) -> list[str]:
    names = dict(zip(_class_keys(classes), classes, strict=True))
    name = _of_class(names, positive)
    if kind != "binary" or name is None:
        raise CrossDNAError(
            f"{table.source}: {positive!r} is not one of two classes "
            f"({', '.join(classes[:10])})"
        )
    return [other for other in classes if other != name] + [name]


def _require_base_labels(table: SequenceTable, values: Sequence[str]) -> None:
    rows = zip(values, table.lengths, table.places, strict=True)
    for value, length, where in rows:
        if len(value) != length:
            raise CrossDNAError(
                f"{where}: {len(value)} labels for a sequence of {length} bases; a "
                "per-base task needs one letter per base ('.' for none)"
            )


def _base_numbers(
    table: SequenceTable, values: Sequence[str], numbers: dict[str, int]
) -> NDArray:
    labels = np.empty(len(values), object)
    for row, (value, where) in enumerate(zip(values, table.places, strict=True)):
        unknown = set(value) - set(numbers)
        if unknown:
            raise CrossDNAError(
                f"{where}: class {min(unknown)!r} does not occur in the training set"
            )
        labels[row] = np.array([numbers[letter] for letter in value], np.int64)
    return labels
