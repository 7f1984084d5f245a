"""Published suites by name: found where the data lies, with what is there of them."""

import pytest
from tests.labelled_sets import rows_with_motif, write_csv

from crossdna.data import named_suites
from crossdna.data.metrics import chance
from crossdna.data.suites import read_task
from crossdna.errors import CrossDNAError


@pytest.fixture
def benchmarks(tmp_path, rng):
    """Two GUE tasks, one without a training file, and a foreign one."""
    for task, names in (
        ("tf/0", ("train", "dev", "test")),
        ("EMP/H3", ("dev", "test")),
        ("mine/own", ("train", "dev", "test")),
    ):
        folder = tmp_path / "benchmarks/GUE" / task
        folder.mkdir(parents=True)
        for name in names:
            rows = rows_with_motif(rng, 30)
            write_csv(folder / f"{name}.csv", ["sequence", "label"], rows)
    return tmp_path / "benchmarks"


def test_definitions_are_whole():
    found = named_suites.definitions()
    assert {name: len(suite.tasks) for name, suite in found.items()} == {
        "gue": 28, "nt": 18, "genomic-benchmarks": 9,
    }  # fmt: skip
    for suite in found.values():
        assert len(set(suite.tasks)) == len(suite.tasks)


def test_a_name_finds_the_tasks_that_belong_to_it(benchmarks):
    found = named_suites.choose_suite("gue", data=benchmarks)
    assert [task.name for task in found.tasks] == ["tf/0"]
    assert found.metric == "mcc"
    assert "26 of 28 tasks are not there" in found.notes[0]
    assert "no training file for EMP/H3" in found.notes[1]
    assert not named_suites.choose_suite("gue", ["tf"], data=benchmarks).notes
    # Of a beginning that fits tasks with and without, those without are named.
    some = named_suites.choose_suite("gue", [""], data=benchmarks)
    assert [task.name for task in some.tasks] == ["tf/0"]
    assert len(some.notes) == 1
    assert "no training file for EMP/H3" in some.notes[0]
    every = named_suites.choose_suite("gue", data=benchmarks, reduced_train=True)
    assert [task.name for task in every.tasks] == ["EMP/H3", "tf/0"]


def test_the_folder_itself_the_environment_and_the_working_directory(
    benchmarks, monkeypatch
):
    itself = named_suites.choose_suite("gue", data=benchmarks / "GUE")
    assert itself.folder == benchmarks / "GUE"
    monkeypatch.setenv(named_suites.DATA_VARIABLE, str(benchmarks))
    assert named_suites.choose_suite("gue").folder == benchmarks / "GUE"
    monkeypatch.delenv(named_suites.DATA_VARIABLE)
    monkeypatch.chdir(benchmarks.parent)
    assert named_suites.choose_suite("gue").folder.resolve() == benchmarks / "GUE"


def test_a_folder_needs_no_name(benchmarks):
    found = named_suites.choose_suite(str(benchmarks / "GUE"))
    assert [task.name for task in found.tasks] == ["mine/own", "tf/0"]
    assert found.metric is None
    assert "no training file for EMP/H3, which are left out" in found.notes[0]
    assert not named_suites.choose_suite(str(benchmarks / "GUE"), ["tf"]).notes
    every = named_suites.choose_suite(str(benchmarks / "GUE"), reduced_train=True)
    assert not every.notes


def test_what_is_nowhere_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(named_suites.DATA_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrossDNAError, match=r"benchmarks/gue, .*--data, or CROSSDNA"):
        named_suites.choose_suite("gue")
    with pytest.raises(CrossDNAError, match="no suite of that name; there are gue, nt"):
        named_suites.choose_suite("glue")


def test_real_gue_and_its_metric(shared):
    found = named_suites.choose_suite(
        "gue", ["mouse/3"], data=shared / "data/benchmarks"
    )
    sets = read_task(found.tasks[0])
    assert [len(part) for part in sets.named().values()] == [1904, 239, 239]
    assert found.metric in chance(sets.task, sets.test.labels)
