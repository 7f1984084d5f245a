"""Tracks on the disk, read back by others."""

import gzip

import numpy as np
import pytest

from crossdna.data.tracks import PeakFinder, open_track, shortest, write_peaks
from crossdna.errors import CrossDNAError

CONTIGS = {"b": 50, "a": 30}
NAN = np.nan


def values(*numbers):
    return np.array(numbers, np.float32)


def fill(writer):
    writer.add("b", 3, 7, values(0.5, NAN, -1, 2), 1)
    writer.add("b", 10, 33, values(1, 2, 3), 10)
    writer.add("a", 0, 2, values(NAN, NAN), 1)
    writer.add("a", 28, 30, values(7, 8), 1)


EXPECTED = {
    "b": [
        (3, 4, 0.5),
        (5, 6, -1.0),
        (6, 7, 2.0),
        (10, 20, 1.0),
        (20, 30, 2.0),
        (30, 33, 3.0),
    ],
    "a": [(28, 29, 7.0), (29, 30, 8.0)],
}


def test_bigwig(tmp_path):
    bigwig = pytest.importorskip("pyBigWig", reason="pyBigWig is not installed")
    with open_track(tmp_path / "t.bw", CONTIGS) as writer:
        fill(writer)
    with bigwig.open(str(tmp_path / "t.bw")) as handle:
        assert handle.chroms() == CONTIGS
        assert {name: handle.intervals(name) for name in CONTIGS} == {
            name: tuple(rows) for name, rows in EXPECTED.items()
        }


@pytest.mark.parametrize("name", ["t.bedGraph", "t.bedGraph.gz"])
def test_bedgraph(tmp_path, name):
    with open_track(tmp_path / name, CONTIGS) as writer:
        fill(writer)
    content = (tmp_path / name).read_bytes()
    text = (gzip.decompress(content) if name.endswith("gz") else content).decode()
    rows = [line.split("\t") for line in text.splitlines()]
    found = [(c, int(s), int(e), float(v)) for c, s, e, v in rows]
    assert found == [(c, *row) for c, rows in EXPECTED.items() for row in rows]


def test_other_suffixes_and_failures(tmp_path):
    with (
        pytest.raises(CrossDNAError, match=r"tracks are \.bw"),
        open_track(tmp_path / "t.wig", CONTIGS),
    ):
        pass
    with (
        pytest.raises(KeyError),
        open_track(tmp_path / "t.bedGraph", CONTIGS) as writer,
    ):
        writer.add("b", 3, 4, {}["none"], 1)
    assert list(tmp_path.iterdir()) == []


def test_peaks_do_not_end_with_a_piece(tmp_path):
    finder = PeakFinder(1.0, minimum=2)
    finder.add("b", 0, 5, values(0, 1, 2, 0.5, 1), 1)
    finder.add("b", 5, 8, values(3, 1, NAN), 1)
    finder.add("b", 8, 10, values(1, 0), 1)
    finder.add("a", 10, 28, values(1, 5), 10)
    peaks = finder.finish()
    assert [tuple(peak) for peak in peaks] == [
        ("b", 1, 3, 2, 2.0),
        ("b", 4, 7, 5, 3.0),
        ("a", 10, 28, 25, 5.0),
    ]
    write_peaks(tmp_path / "p.bed", peaks, "head >= 1")
    lines = (tmp_path / "p.bed").read_text().splitlines()
    assert lines[0] == "# head >= 1"
    assert lines[2] == "b\t4\t7\tpeak_2\t0\t.\t3\t-1\t-1\t1"


def test_a_summit_lies_in_its_peak():
    finder = PeakFinder(0.5)
    finder.add("c", 0, 130, np.array([0, 1], np.float32), 100)
    (peak,) = finder.finish()
    assert peak.start == 100
    assert peak.summit == 129


def test_numbers_keep_what_single_precision_has():
    values = np.float32([310.15, 310.15003, -2.99975, 1e-9, 0.1, 0, 1, 12345678])
    text = [shortest(value) for value in values]
    assert [np.float32(float(one)) for one in text] == values.tolist()
    assert text[-3:-1] == ["0", "1"]
    assert text[4] == "0.1"
