"""What an audit finds: duplicates, reverse complements, relatives, overlaps, corpus."""

import numpy as np
import pytest

from crossdna import alphabet
from crossdna.analysis.supervised.audit import audit_splits, format_audit
from crossdna.data import labelled
from crossdna.data.sequence_tables import read_sequences


def dataset(tmp_path, name, rows, regions=None):
    lines = ["sequence,label" + (",chrom,start,end" if regions else "")]
    for number, (ids, label) in enumerate(rows):
        place = f",{','.join(map(str, regions[number]))}" if regions else ""
        lines.append(f"{alphabet.decode(ids)},{label}{place}")
    path = tmp_path / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    table = read_sequences(path)
    task = labelled.Task(kind="binary", columns=("label",), classes=("0", "1"))
    return labelled.label(table, task)


@pytest.fixture
def random_rows(rng):
    return [(rng.integers(0, 4, 100).astype(np.uint8), i % 2) for i in range(40)]


def test_counts_between_splits(tmp_path, random_rows):
    train = random_rows[:20]
    close = train[5][0].copy()
    close[50] = 3 - close[50]
    test = [
        train[0],
        (alphabet.reverse_complement(train[1][0]), 1),
        (train[2][0], 1),
        (close, 1),
        *random_rows[20:26],
    ]
    audit = audit_splits(
        {
            "train": dataset(tmp_path, "a", [*train, train[3]]),
            "test": dataset(tmp_path, "b", test),
        }
    )
    (pair,) = audit.pairs
    assert (pair.first, pair.second, pair.rows) == ("train", "test", 10)
    assert (pair.identical, pair.reverse) == (2, 1)
    # Row 2 has label 0 in the training set.
    assert pair.conflicting == 1
    assert pair.relatives == 4
    assert pair.overlapping is None
    assert audit.splits[0].duplicates == 1
    assert audit.splits[0].classes == {"0": 10, "1": 11}
    text = format_audit(audit)
    assert "3 of 10 test sequences are also in train" in text
    assert "4 of 10 test sequences have a relative in train" in text


def test_labels_in_other_columns_are_other_labels(tmp_path, random_rows):
    """Only the labels of bases are read backwards on the other strand."""
    sets = {}
    task = labelled.Task(kind="multilabel", columns=("a", "b"), classes=("a", "b"))
    for name, pair in (("train", "0,1"), ("test", "1,0")):
        letters = [alphabet.decode(ids) for ids, _ in random_rows[:8]]
        lines = ["sequence,a,b", *(f"{row},{pair}" for row in letters)]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([*lines, f"{letters[0]},{pair[::-1]}"]) + "\n")
        sets[name] = labelled.label(read_sequences(path), task)
    audit = audit_splits(sets)
    (pair,) = audit.pairs
    # The first sequence has either label in both, so that one of them is another.
    assert (pair.identical, pair.conflicting) == (9, 9)
    assert [part.conflicting for part in audit.splits] == [1, 1]


def test_labels_of_bases_are_turned_with_the_strand(tmp_path, random_rows):
    task = labelled.Task(kind="per-base", columns=("label",), classes=("A", "B"))
    sets = {}
    sequence = random_rows[0][0][:3]
    turned = alphabet.reverse_complement(sequence)
    for name, ids, label in (
        ("train", sequence, "AAB"),
        ("test", turned, "BAA"),
        ("other", turned, "ABA"),
        ("not turned", turned, "AAB"),
        ("turned alone", sequence, "BAA"),
    ):
        letters = alphabet.decode(ids)
        path = tmp_path / f"{name}.csv"
        path.write_text(f"sequence,label\n{letters},{label}\n")
        table = read_sequences(path, sequence_column="sequence")
        sets[name] = labelled.label(table, task)
    found = {p.second: p.conflicting for p in audit_splits(sets).pairs[:4]}
    assert found == {"test": 0, "other": 1, "not turned": 1, "turned alone": 1}


def test_bases_of_a_palindrome_have_labels_of_either_strand(tmp_path):
    task = labelled.Task(kind="per-base", columns=("label",), classes=("A", "B"))
    sets = {}
    for name, label in (("a", "AAAB"), ("b", "BAAA"), ("c", "ABAA")):
        path = tmp_path / f"{name}.csv"
        path.write_text(f"sequence,label\nACGT,{label}\n")
        table = read_sequences(path, sequence_column="sequence")
        sets[name] = labelled.label(table, task)
    assert [pair.conflicting for pair in audit_splits(sets).pairs] == [0, 1, 1]


@pytest.mark.parametrize("labels", [(0, 1), (1, 0)])
def test_any_copy_of_another_label_is_a_conflict(tmp_path, random_rows, labels):
    ids = random_rows[0][0]
    train = [(ids, label) for label in labels] + random_rows[1:5]
    sets = {
        "train": dataset(tmp_path, "a", train),
        "test": dataset(tmp_path, "b", [(ids, 1), *random_rows[20:23]]),
    }
    assert audit_splits(sets).pairs[0].conflicting == 1


def test_clean_splits_give_no_warning(tmp_path, random_rows):
    sets = {
        "train": dataset(tmp_path, "a", random_rows[:20]),
        "test": dataset(tmp_path, "b", random_rows[20:]),
    }
    assert audit_splits(sets).warnings() == []


def test_overlap_on_the_genome(tmp_path, random_rows):
    first = [("chr1", 100, 200), ("chr1", 500, 600), ("chr2", 0, 100)]
    second = [
        ("chr1", 199, 299),
        ("chr1", 200, 300),
        ("chr1", 550, 560),
        ("chr3", 0, 9),
    ]
    sets = {
        "train": dataset(tmp_path, "a", random_rows[:3], first),
        "test": dataset(tmp_path, "b", random_rows[3:7], second),
    }
    assert audit_splits(sets).pairs[0].overlapping == 2


def test_share_in_a_corpus(tmp_path, random_rows, rng):
    contig = rng.integers(0, 4, 5000).astype(np.uint8)
    inside = [(contig[1000:1100], 0), (alphabet.reverse_complement(contig[:100]), 1)]
    sets = {
        "train": dataset(tmp_path, "a", random_rows[:10]),
        "test": dataset(tmp_path, "b", [*inside, *random_rows[20:22]]),
    }
    audit = audit_splits(sets, corpus=[contig])
    assert [part.in_corpus for part in audit.splits] == [0.0, 0.5]
