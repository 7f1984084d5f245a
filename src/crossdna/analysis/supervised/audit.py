"""Can a test score be trusted? Duplicates, relatives, overlaps, balance of splits."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.data import similarity
from crossdna.data.mmseqs import IDENTITY, mmseqs_has_relative
from crossdna.data.regions import overlap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from crossdna.data.labelled import LabelledSet, Task
    from crossdna.data.sequence_tables import SequenceTable

Method = Literal["sketch", "mmseqs"]
CORPUS_K = 24
"""Length of the words that are looked up in a pretraining corpus."""


class Pair(NamedTuple):
    """What the rows of a later split share with those of an earlier one.

    Attributes
    ----------
    identical, reverse : int
        Rows of `second` that stand in `first` as they are, or only as their reverse
        complement.
    conflicting : int
        Those of them of which `first` has a copy with another label.
    relatives : int
        Rows with a relative in `first`, duplicates included.
    overlapping : int or None
        Rows that share at least a base with a row of `first` on the genome; None
        without coordinates.
    """

    first: str
    second: str
    rows: int
    identical: int
    reverse: int
    conflicting: int
    relatives: int
    overlapping: int | None


class Within(NamedTuple):
    """What a split is by itself.

    Attributes
    ----------
    duplicates, conflicting : int
        Rows that repeat an earlier row on either strand, and those that have another
        label than an earlier one.
    classes : dict of str to int
        Rows of each class (of the first label column); empty for quantities.
    in_corpus : float or None
        Share of rows at least half of whose words stand in the pretraining corpus.
    """

    name: str
    rows: int
    shortest: int
    longest: int
    duplicates: int
    conflicting: int
    classes: dict[str, int]
    in_corpus: float | None


class Audit(NamedTuple):
    """The whole report."""

    splits: tuple[Within, ...]
    pairs: tuple[Pair, ...]
    threshold: float
    method: Method = "sketch"

    @property
    def relative_means(self) -> str:
        """What two sequences have in common that count as relatives."""
        if self.method == "mmseqs":
            return f"MMseqs2: {IDENTITY:.0%} identity over half of both"
        return f"at least {self.threshold:.0%} of k-mers shared"

    def to_dict(self) -> dict[str, Any]:
        """As plain tables, for JSON."""
        return {
            "relatives": self.relative_means,
            "threshold": self.threshold,
            "splits": [part._asdict() for part in self.splits],
            "pairs": [pair._asdict() for pair in self.pairs],
        }

    def warnings(self) -> list[str]:
        """Sentences about what makes a test score doubtful."""
        found = []
        for pair in self.pairs:
            duplicates = pair.identical + pair.reverse
            if duplicates:
                found.append(
                    f"{duplicates} of {pair.rows} {pair.second} sequences are also in "
                    f"{pair.first} ({pair.reverse} as reverse complement, "
                    f"{pair.conflicting} with another label)"
                )
            if pair.relatives > duplicates:
                found.append(
                    f"{pair.relatives} of {pair.rows} {pair.second} sequences have "
                    f"a relative in {pair.first} ({self.relative_means})"
                )
            if pair.overlapping:
                found.append(
                    f"{pair.overlapping} of {pair.rows} {pair.second} regions overlap "
                    f"one of {pair.first} on the genome"
                )
        for part in self.splits:
            if part.conflicting:
                found.append(
                    f"{part.conflicting} {part.name} sequences repeat an earlier one "
                    "under another label"
                )
        return found


def audit_splits(
    sets: Mapping[str, LabelledSet],
    *,
    threshold: float = similarity.THRESHOLD,
    method: Method = "sketch",
    corpus: Iterable[NDArray[np.uint8]] | None = None,
) -> Audit:
    """Compare splits with each other.

    Parameters
    ----------
    sets
        Split name to rows, in the order train, valid, test.
    threshold
        Containment from which on two sequences are relatives, by sketches.
    method
        sketch: shared k-mers; mmseqs: alignments, where MMseqs2 is installed.
    corpus
        Sequences (contigs) that a model was pretrained on.
    """
    known = None if corpus is None else _words_in(sets, corpus)
    splits = tuple(
        _within(name, data, None if known is None else known[name])
        for name, data in sets.items()
    )
    pairs = tuple(
        _between(
            first,
            sets[first],
            second,
            sets[second],
            _relatives(sets[second], sets[first], threshold, method),
        )
        for first, second in combinations(sets, 2)
    )
    return Audit(splits, pairs, threshold, method)


def _relatives(
    later: LabelledSet, earlier: LabelledSet, threshold: float, method: Method
) -> int:
    queries, others = later.table.ids, earlier.table.ids
    if method == "mmseqs":
        return int(mmseqs_has_relative(queries, others).sum())
    near = similarity.nearest_relatives(queries, others)
    return int((near.containment >= threshold).sum())


def _within(name: str, data: LabelledSet, in_corpus: float | None) -> Within:
    seen: dict[bytes, set[bytes]] = {}
    repeats, conflicting = 0, 0
    for ids, label in zip(data.table.ids, data.labels, strict=True):
        own = _label_key(data.task, ids, label)
        earlier = seen.setdefault(similarity.canonical(ids), set())
        repeats += bool(earlier)
        conflicting += bool(earlier - {own})
        earlier.add(own)
    lengths = data.table.lengths
    return Within(
        name=name,
        rows=len(data),
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        duplicates=repeats,
        conflicting=conflicting,
        classes=_class_counts(data),
        in_corpus=in_corpus,
    )


def _between(
    first: str,
    earlier: LabelledSet,
    second: str,
    later: LabelledSet,
    relatives: int,
) -> Pair:
    exact = {ids.tobytes() for ids in earlier.table.ids}
    seen: dict[bytes, set[bytes]] = {}
    for ids, label in zip(earlier.table.ids, earlier.labels, strict=True):
        labels = seen.setdefault(similarity.canonical(ids), set())
        labels.add(_label_key(earlier.task, ids, label))
    identical, reverse, conflicting = 0, 0, 0
    for ids, label in zip(later.table.ids, later.labels, strict=True):
        if labels := seen.get(similarity.canonical(ids), set()):
            identical += ids.tobytes() in exact
            reverse += ids.tobytes() not in exact
            conflicting += bool(labels - {_label_key(later.task, ids, label)})
    return Pair(
        first=first,
        second=second,
        rows=len(later),
        identical=identical,
        reverse=reverse,
        conflicting=conflicting,
        relatives=relatives,
        overlapping=_overlapping(earlier.table, later.table),
    )


def _label_key(task: Task, ids: NDArray[np.uint8], label: Any) -> bytes:
    """The same bytes for one label of a sequence and of its reverse complement."""
    label = np.asarray(label)
    if task.kind != "per-base":
        return label.tobytes()
    # A reverse complement's bases, and so their labels, stand in reverse order.
    own, other = ids.tobytes(), alphabet.reverse_complement(ids).tobytes()
    ahead, back = label.tobytes(), label[::-1].tobytes()
    if own == other:
        return min(ahead, back)
    return ahead if own < other else back


def _class_counts(data: LabelledSet) -> dict[str, int]:
    task = data.task
    if task.kind == "regression":
        return {}
    if task.kind == "multilabel":
        positives = data.labels.sum(0)
        return {n: int(c) for n, c in zip(task.classes, positives, strict=True)}
    labels = np.concatenate(data.labels) if task.kind == "per-base" else data.labels
    counts = np.bincount(labels[labels >= 0], minlength=task.outputs)
    return {n: int(c) for n, c in zip(task.classes, counts, strict=True)}


def _overlapping(first: SequenceTable, second: SequenceTable) -> int | None:
    if first.regions is None or second.regions is None:
        return None
    shared = overlap(second.regions, first.regions)
    by_contig: dict[str, list[tuple[int, int]]] = {}
    for region in shared:
        by_contig.setdefault(region.contig, []).append((region.start, region.end))
    spans = {contig: np.array(parts) for contig, parts in by_contig.items()}
    hits = 0
    for region in second.regions:
        if region.contig in spans:
            starts, ends = spans[region.contig].T
            # Shared stretches are sorted and disjoint, so their ends are sorted too.
            place = int(np.searchsorted(ends, region.start, side="right"))
            hits += place < len(starts) and int(starts[place]) < region.end
    return hits


def _words_in(
    sets: Mapping[str, LabelledSet], corpus: Iterable[NDArray[np.uint8]]
) -> dict[str, float]:
    """Share of the rows of each split that mostly stand in the corpus."""
    words = {
        name: [similarity.canonical_kmers(ids, CORPUS_K) for ids in data.table.ids]
        for name, data in sets.items()
    }
    every = np.unique(np.concatenate([w for parts in words.values() for w in parts]))
    seen = np.zeros(len(every), bool)
    for contig in corpus:
        for piece in _pieces(contig):
            seen |= np.isin(
                every, similarity.canonical_kmers(piece, CORPUS_K), assume_unique=True
            )
    return {name: _share(parts, every, seen) for name, parts in words.items()}


def _pieces(contig: NDArray[np.uint8]) -> Sequence[NDArray[np.uint8]]:
    size = 1 << 22
    return [
        contig[start : start + size + CORPUS_K - 1]
        for start in range(0, max(1, len(contig) - CORPUS_K + 1), size)
    ]


def _share(
    parts: Sequence[NDArray[np.uint64]],
    every: NDArray[np.uint64],
    seen: NDArray[np.bool_],
) -> float:
    found = [
        bool(len(codes)) and seen[np.searchsorted(every, codes)].mean() >= 0.5
        for codes in parts
    ]
    return float(np.mean(found))


def format_audit(audit: Audit) -> str:
    """The report as text for a terminal."""
    lines = ["split      rows   length        repeats  in corpus  classes"]
    for part in audit.splits:
        span = f"{part.shortest}-{part.longest}"
        corpus = "" if part.in_corpus is None else f"{part.in_corpus:.1%}"
        classes = ", ".join(f"{n} {c}" for n, c in list(part.classes.items())[:8])
        lines.append(
            f"{part.name:<8} {part.rows:>6}   {span:<12} {part.duplicates:>8}  "
            f"{corpus:>9}  {classes}"
        )
    lines += ["", "against           same  reverse  other label  relatives  overlap"]
    for pair in audit.pairs:
        overlapping = "" if pair.overlapping is None else str(pair.overlapping)
        names = f"{pair.second} in {pair.first}"
        lines.append(
            f"{names:<16} {pair.identical:>5}  {pair.reverse:>7}  "
            f"{pair.conflicting:>11}  {pair.relatives:>9}  {overlapping:>7}"
        )
    lines += [""] + [f"warning: {warning}" for warning in audit.warnings()]
    return "\n".join(lines).rstrip()
