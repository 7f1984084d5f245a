"""Benchmark suites in every published layout."""

import pytest
from tests.labelled_sets import rows_with_motif, write_csv

from crossdna.data.suites import find_tasks, read_task
from crossdna.errors import CrossDNAError


def gue(folder, rng, names=("train", "dev", "test")):
    folder.mkdir(parents=True)
    for name in names:
        rows = rows_with_motif(rng, 30)
        write_csv(folder / f"{name}.csv", ["sequence", "label"], rows)


def test_gue_layout(tmp_path, rng):
    gue(tmp_path / "tf/0", rng)
    gue(tmp_path / "prom/core", rng)
    gue(tmp_path / "EMP/H3", rng, ("dev", "test"))
    assert [task.name for task in find_tasks(tmp_path)] == ["prom/core", "tf/0"]
    every = find_tasks(tmp_path, reduced_train=True)
    assert (every[0].name, every[0].reduced) == ("EMP/H3", True)
    assert [task.name for task in find_tasks(tmp_path, ["tf"])] == ["tf/0"]
    sets = read_task(find_tasks(tmp_path, ["tf/0"])[0])
    assert [len(part) for part in sets.named().values()] == [30, 30, 30]
    reduced = read_task(every[0])
    assert len(reduced.train) + len(reduced.valid) == len(reduced.test) == 30


def test_nucleotide_transformer_layout(tmp_path, rng):
    folder = tmp_path / "H4"
    folder.mkdir()
    for name in ("train", "test"):
        rows = rows_with_motif(rng, 40)
        text = "".join(f">H4_{i}|{y}\n{s}\n" for i, (s, y) in enumerate(rows))
        (folder / f"{name}.fna").write_text(text)
    (task,) = find_tasks(tmp_path)
    sets = read_task(task)
    assert [len(part) for part in sets.named().values()] == [36, 4, 40]
    assert sets.task.kind == "binary"
    assert "similarity" in sets.how


def test_genomic_benchmarks_layout(tmp_path, rng):
    for part in ("train", "test"):
        for i, (letters, label) in enumerate(rows_with_motif(rng, 40)):
            folder = tmp_path / "demo" / part / ("negative", "positive")[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.txt").write_text(letters)
    (task,) = find_tasks(tmp_path)
    sets = read_task(task)
    assert sets.task.classes == ("negative", "positive")
    assert [len(part) for part in sets.named().values()] == [36, 4, 40]


def test_plain_tables(tmp_path, rng):
    for name in ("one", "two"):
        write_csv(
            tmp_path / f"{name}.csv", ["sequence", "label"], rows_with_motif(rng, 40)
        )
    assert [task.name for task in find_tasks(tmp_path)] == ["one", "two"]
    sets = read_task(find_tasks(tmp_path, ["two"])[0])
    assert [len(part) for part in sets.named().values()] == [32, 4, 4]


def test_the_real_suite_is_found(shared):
    names = [task.name for task in find_tasks(shared / "data/benchmarks/gue")]
    assert {"tf/0", "mouse/3", "prom/prom_core_all"} <= set(names)
    assert not any(name.startswith("EMP") for name in names)


def test_errors(tmp_path, rng):
    with pytest.raises(CrossDNAError, match="no such folder"):
        find_tasks(tmp_path / "none")
    with pytest.raises(CrossDNAError, match="no task found"):
        find_tasks(tmp_path)
    gue(tmp_path / "tf/0", rng)
    with pytest.raises(CrossDNAError, match="no task 'tf/7'; there are tf/0"):
        find_tasks(tmp_path, ["tf/7"])
    gue(tmp_path / "EMP/H3", rng, ("dev", "test"))
    with pytest.raises(CrossDNAError, match="'EMP/H3' has no training file; --reduced"):
        find_tasks(tmp_path, ["EMP/H3"])
