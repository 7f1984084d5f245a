"""Relatives by alignment: the program itself is run where it is installed."""

import shutil

import numpy as np
import pytest
from tests.labelled_sets import write_csv

from crossdna import alphabet
from crossdna.cli import main
from crossdna.data import mmseqs
from crossdna.errors import CrossDNAError

installed = pytest.mark.skipif(
    shutil.which("mmseqs") is None, reason="MMseqs2 (program mmseqs) is not installed"
)


def random_ids(rng, length=150):
    return rng.integers(0, 4, length).astype(np.uint8)


def mutated(rng, ids, share=0.08):
    copy = ids.copy()
    places = rng.choice(len(ids), round(share * len(ids)), replace=False)
    copy[places] = (copy[places] + 1) % 4
    return copy


@installed
def test_families_are_clusters_on_either_strand(rng):
    families = [random_ids(rng) for _ in range(5)]
    members = []
    for ids in families:
        members += [ids, mutated(rng, ids), alphabet.reverse_complement(ids)]
        members.append(alphabet.reverse_complement(mutated(rng, ids)))
    # Too short for the program, and its other strand.
    short = random_ids(rng, 10)
    members += [short, alphabet.reverse_complement(short)]
    clusters = mmseqs.mmseqs_cluster(members)
    expected = np.repeat(np.arange(6), [4, 4, 4, 4, 4, 2])
    pairs = set(zip(clusters.tolist(), expected.tolist(), strict=True))
    assert len(pairs) == len(set(clusters)) == 6


@installed
def test_relatives_of_test_sequences_are_found(rng):
    train = [random_ids(rng) for _ in range(6)]
    queries = [
        mutated(rng, train[0]),
        alphabet.reverse_complement(mutated(rng, train[1])),
        train[2],
        random_ids(rng),
        mutated(rng, train[3], share=0.4),
    ]
    found = mmseqs.mmseqs_has_relative(queries, train)
    assert found.tolist() == [True, True, True, False, False]


@installed
def test_split_and_audit_through_the_command_line(tmp_path, rng, capsys):
    rows = []
    for family in range(20):
        ids = random_ids(rng)
        rows += [(alphabet.decode(mutated(rng, ids)), family % 2) for _ in range(3)]
    path = write_csv(tmp_path / "x.csv", ["sequence", "label"], rows)
    output = str(tmp_path / "s.tsv")
    assert main(["split", str(path), "--by", "mmseqs", "--output", output]) == 0
    assert "60 rows split by mmseqs" in capsys.readouterr().out
    arguments = ["--train", output, "--label-column", "label"]
    assert main(["audit", *arguments, "--relatives", "mmseqs"]) == 0
    assert "warning" not in capsys.readouterr().out
    halves = [write_csv(tmp_path / f"{i}.csv", ["sequence", "label"], rows[i::2])
              for i in (0, 1)]  # fmt: skip
    files = ["--train", str(halves[0]), "--valid", str(halves[1])]
    files += ["--test", str(halves[1])]
    assert main(["audit", *files, "--relatives", "mmseqs"]) == 0
    told = capsys.readouterr().out
    assert "30 of 30 test sequences have a relative in train (MMseqs2: 80%" in told


def test_without_the_program_it_is_said(rng, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CrossDNAError, match="MMseqs2 is not installed"):
        mmseqs.mmseqs_cluster([random_ids(rng)])
