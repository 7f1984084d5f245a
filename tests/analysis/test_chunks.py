"""Folders of unfinished work."""

import json
import shutil

import numpy as np
import pytest

from crossdna.analysis.chunks import ChunkStore
from crossdna.errors import CrossDNAError


def test_a_run_that_finished_nothing_is_in_nobodys_way(tmp_path):
    ChunkStore(tmp_path, {"window": 512})
    store = ChunkStore(tmp_path, {"window": 70})
    store.save(0, {"a": np.arange(3)})
    assert ChunkStore(tmp_path, {"window": 70}).is_done(0)
    with pytest.raises(CrossDNAError, match="another window"):
        ChunkStore(tmp_path, {"window": 512})


def test_what_else_lies_there_is_not_taken_over(tmp_path):
    ChunkStore(tmp_path / "begun", {"window": 512})
    (tmp_path / "begun" / "region-0").mkdir()
    with pytest.raises(CrossDNAError, match="another window"):
        ChunkStore(tmp_path / "begun", {"window": 70})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text(json.dumps({"years": "of work"}))
    with pytest.raises(CrossDNAError, match="unfinished run"):
        ChunkStore(tmp_path / "mine", {"window": 70})


def test_a_run_whose_folder_was_taken_over_adds_nothing_to_it(tmp_path):
    first = ChunkStore(tmp_path, {"window": 512})
    second = ChunkStore(tmp_path, {"window": 70})
    with pytest.raises(CrossDNAError, match="taken over by another run"):
        first.save(0, {"a": np.arange(3)})
    assert not second.is_done(0)


def test_damaged_work_is_named(tmp_path):
    store = ChunkStore(tmp_path / "w", {"a": 1})
    store.save(0, {"x": np.arange(9)})
    file = tmp_path / "w" / "00000000.npz"
    for content in (file.read_bytes()[:40], b"", b"no archive"):
        file.write_bytes(content)
        with pytest.raises(
            CrossDNAError, match=r"00000000\.npz is damaged .*remove it"
        ):
            store.load(0)
    (tmp_path / "w" / "run.json").write_text("")
    with pytest.raises(CrossDNAError, match=r"run\.json is damaged .*start anew"):
        ChunkStore(tmp_path / "w", {"a": 1})


def test_a_folder_that_another_run_removed_is_told(tmp_path):
    store = ChunkStore(tmp_path / "w", {"a": 1})
    shutil.rmtree(tmp_path / "w")
    with pytest.raises(CrossDNAError, match="taken over by another run"):
        store.save(0, {"x": np.arange(9)})
