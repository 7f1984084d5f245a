"""Relatives, clusters and splits without leakage."""

import numpy as np
import pytest

from crossdna import alphabet
from crossdna.data import labelled, similarity, splits
from crossdna.data.sequence_tables import read_sequences
from crossdna.errors import CrossDNAError


def random_ids(rng, length=100):
    return rng.integers(0, 4, length).astype(np.uint8)


def mutated(rng, ids, changes):
    copy = ids.copy()
    places = rng.choice(len(ids), changes, replace=False)
    copy[places] = (copy[places] + rng.integers(1, 4, changes)) % 4
    return copy


def test_kmers_against_words(rng):
    ids = random_ids(rng)
    ids[50] = alphabet.N
    words = {tuple(ids[i : i + 12]) for i in range(len(ids) - 11)}
    words = {word for word in words if alphabet.N not in word}
    mirrored = {tuple(3 - base for base in reversed(word)) for word in words}
    codes = {
        min(
            sum(int(base) << 2 * (11 - place) for place, base in enumerate(strand))
            for strand in (word, tuple(3 - base for base in reversed(word)))
        )
        for word in words | mirrored
    }
    found = similarity.canonical_kmers(ids)
    assert set(found.tolist()) == codes
    other = similarity.canonical_kmers(alphabet.reverse_complement(ids))
    assert np.array_equal(found, other)
    assert similarity.canonical_kmers(ids[:11]).size == 0


def test_nearest_relative_equals_set_arithmetic(rng):
    others = [random_ids(rng) for _ in range(30)]
    queries = [
        mutated(rng, others[3], 5),
        alphabet.reverse_complement(others[7]),
        random_ids(rng),
        np.concatenate([others[9][50:], random_ids(rng, 50)]),
    ]
    found = similarity.nearest_relatives(queries, others)
    sets = [set(similarity.canonical_kmers(ids).tolist()) for ids in others]
    for row, ids in enumerate(queries):
        mine = set(similarity.canonical_kmers(ids).tolist())
        parts = [len(mine & other) / min(len(mine), len(other)) for other in sets]
        assert found.containment[row] == pytest.approx(max(parts))
    assert found.nearest.tolist() == [3, 7, -1, 9]


def test_short_sequences_still_have_duplicates():
    ids = alphabet.encode("ACGTT")
    found = similarity.nearest_relatives([alphabet.reverse_complement(ids)], [ids])
    assert found.containment.tolist() == [1.0]
    assert similarity.cluster([ids, alphabet.reverse_complement(ids)]).tolist() == [
        0,
        0,
    ]


def test_clusters_are_families(rng):
    families = [random_ids(rng) for _ in range(20)]
    members = [
        alphabet.reverse_complement(mutated(rng, ids, 3))
        if turn % 2
        else mutated(rng, ids, 3)
        for ids in families
        for turn in range(4)
    ]
    clusters = similarity.cluster(members)
    assert np.array_equal(clusters, np.repeat(clusters[::4], 4))
    assert len(np.unique(clusters)) == 20


def test_variants_of_one_backbone_are_relatives(rng, monkeypatch):
    # As many that each k-mer of the backbone is too common to be evidence.
    monkeypatch.setattr(similarity, "COMMON", 10)
    monkeypatch.setattr(similarity, "_MODELS_AT_ONCE", 4)
    backbone, other = random_ids(rng, 150), random_ids(rng, 150)
    library = [mutated(rng, backbone, 5) for _ in range(60)]
    library += [mutated(rng, other, 5) for _ in range(40)]
    rest = [random_ids(rng) for _ in range(20)]
    found = similarity.cluster([*library, *rest])
    assert len(set(found[:60])) == 1
    assert len(set(found[60:100])) == 1
    assert len(set(found)) == 22
    queries = [mutated(rng, backbone, 5), mutated(rng, other, 5), random_ids(rng)]
    relatives = similarity.nearest_relatives(queries, [*rest, *library])
    assert (relatives.containment[:2] > similarity.THRESHOLD).all()
    assert relatives.containment[2] == 0
    assert 20 <= relatives.nearest[0] < 80 <= relatives.nearest[1]
    assert relatives.nearest[2] == -1


def test_repeats_alone_do_not_make_relatives(rng, monkeypatch):
    monkeypatch.setattr(similarity, "COMMON", 10)
    repeat = random_ids(rng, 60)
    hosts = [np.concatenate([repeat, random_ids(rng, 80)]) for _ in range(30)]
    assert len(set(similarity.cluster(hosts))) == 30


def test_copies_do_not_make_their_kmers_common(rng, monkeypatch):
    monkeypatch.setattr(similarity, "COMMON", 10)
    original = random_ids(rng)
    others = [random_ids(rng), *[original] * 50]
    found = similarity.nearest_relatives([mutated(rng, original, 1)], others)
    assert found.containment[0] > 0.8
    assert found.nearest[0] == 1


def test_sampling_of_long_inputs_keeps_relatives(rng, monkeypatch):
    monkeypatch.setattr(similarity, "_MAX_KMERS", 20_000)
    long = [random_ids(rng, 20_000) for _ in range(5)]
    found = similarity.nearest_relatives([mutated(rng, long[2], 400)], long)
    assert found.nearest.tolist() == [2]
    expected = 0.98**12
    assert found.containment[0] == pytest.approx(expected, abs=0.05)


def labelled_file(tmp_path, rng, extra=""):
    lines = [f"sequence,label{',chrom,start,end' if extra else ''}"]
    for family in range(40):
        ids = random_ids(rng)
        for turn in range(5):
            letters = alphabet.decode(mutated(rng, ids, 3))
            place = (
                f",chr{family % 8},{family * 1000 + turn},{family * 1000 + turn + 100}"
            )
            lines.append(f"{letters},{family % 2}{place if extra else ''}")
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines) + "\n")
    table = read_sequences(path)
    return labelled.label(table, labelled.detect_task(table, ("label",)))


def test_split_by_similarity_separates_families(tmp_path, rng):
    data = labelled_file(tmp_path, rng)
    result = splits.split_labelled(data)
    assert result.by == "similarity"
    assert np.unique(result.split, return_counts=True)[1].tolist() == [20, 160, 20]
    train, test = (data.take(result.rows(name)) for name in ("train", "test"))
    near = similarity.nearest_relatives(test.table.ids, train.table.ids)
    assert near.containment.max() < similarity.THRESHOLD
    assert test.labels.mean() == 0.5
    assert np.array_equal(splits.split_labelled(data).split, result.split)
    assert not np.array_equal(splits.split_labelled(data, seed=1).split, result.split)


def test_split_by_contig_where_coordinates_are_known(tmp_path, rng):
    data = labelled_file(tmp_path, rng, extra="yes")
    with pytest.raises(CrossDNAError, match=r"by contig \(8 groups\) leaves"):
        splits.split_labelled(data)
    # Chromosomes of one class only: without classes to balance they can be split.
    other = labelled.detect_task(data.table, ("start",), "regression")
    located = labelled.label(data.table, other)
    split = splits.assign_groups(
        np.array([int(r.contig[3:]) for r in located.table.regions]),
        np.zeros(len(located), np.int64),
        (0.5, 0.25, 0.25),
    )
    for name, rows in (("train", 100), ("valid", 50), ("test", 50)):
        chosen = np.flatnonzero(split == name)
        assert len(chosen) == rows
    contigs = {n: {located.table.regions[i].contig for i in np.flatnonzero(split == n)}
               for n in splits.SPLITS}  # fmt: skip
    assert not contigs["train"] & contigs["test"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("groups", "rows"), [(3, 10), (4, 9), (5, 18), (5, 100)])
def test_no_split_is_empty_while_there_are_groups(groups, rows, seed):
    members = np.repeat(np.arange(groups), rows)
    split = splits.assign_groups(
        members, np.zeros(len(members), np.int64), (0.8, 0.1, 0.1), seed=seed
    )
    found = [len(np.unique(members[split == name])) for name in splits.SPLITS]
    assert found == [groups - 2, 1, 1]


@pytest.mark.parametrize(("rows", "by"), [(1, "similarity"), (4, "contig")])
def test_contigs_of_names_are_taken_where_they_hold_several_rows(
    tmp_path, rng, rows, by
):
    """Names such as tx7:1-70 are one for each sequence, however often it repeats."""
    lines = []
    for number in range(60):
        if number % 3 == 0:
            letters = alphabet.decode(random_ids(rng))
        place = f"{number // rows}:{100 * (number % rows)}-{100 * (number % rows) + 70}"
        lines += [f">tx{place} label={number // 12 % 2}", letters]
    (tmp_path / "x.fa").write_text("\n".join(lines) + "\n")
    table = labelled.with_header_labels(read_sequences(tmp_path / "x.fa"))
    data = labelled.label(table, labelled.detect_task(table, ("label",)))
    result = splits.split_labelled(data)
    assert result.by == by
    if by == "similarity":
        train, test = (data.take(result.rows(name)) for name in ("train", "test"))
        known = {ids.tobytes() for ids in train.table.ids}
        assert not any(ids.tobytes() in known for ids in test.table.ids)


def test_one_family_cannot_be_split(tmp_path, rng):
    ids = random_ids(rng)
    lines = [f"{alphabet.decode(mutated(rng, ids, 2))},{i % 2}" for i in range(30)]
    (tmp_path / "x.csv").write_text("sequence,label\n" + "\n".join(lines) + "\n")
    table = read_sequences(tmp_path / "x.csv")
    data = labelled.label(table, labelled.detect_task(table, ("label",)))
    with pytest.raises(CrossDNAError, match="leaves no rows for"):
        splits.split_labelled(data)
    with pytest.raises(CrossDNAError, match="no coordinates to split by"):
        splits.split_labelled(data, by="contig")
