import gzip
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdna.data.regions import (
    Region,
    by_name,
    complement,
    merge,
    overlap,
    parse_region,
    read_bed,
    resolve_contig,
    subtract,
    whole_contigs,
)
from crossdna.errors import CrossDNAError

CONTIGS = {"chr2": 40, "chr10": 30}


@st.composite
def regions(draw):
    contig = draw(st.sampled_from(list(CONTIGS)))
    start = draw(st.integers(0, CONTIGS[contig] - 1))
    end = draw(st.integers(start + 1, CONTIGS[contig]))
    name = draw(st.sampled_from(["", "train", "valid"]))
    return Region(contig, start, end, name, draw(st.sampled_from("+-")))


sets = st.lists(regions(), max_size=8)


def bases(found):
    """Slow reading of a list of regions: the set of covered bases."""
    return {(r.contig, at) for r in found for at in range(r.start, r.end)}


def assert_canonical(found):
    """Sorted, and a gap of a base or more between neighbours."""
    assert found == sorted(found)
    for before, after in pairwise(found):
        assert before.contig != after.contig or before.end < after.start


@settings(deadline=None)
@given(sets)
def test_merge_covers_the_same_bases(first):
    merged = merge(first)
    assert bases(merged) == bases(first)
    assert_canonical(merged)
    assert merge(merged) == merged
    assert merge(reversed(first)) == merged


@settings(deadline=None)
@given(sets, sets)
def test_overlap_subtract_and_complement_are_set_algebra(first, second):
    common = overlap(first, second)
    assert bases(common) == bases(first) & bases(second)
    assert common == overlap(second, first)
    rest = subtract(first, second)
    assert bases(rest) == bases(first) - bases(second)
    assert_canonical(rest)
    assert not overlap(rest, second)
    assert merge(common + rest) == merge(first)
    outside = complement(first, CONTIGS)
    assert bases(outside) == bases(whole_contigs(CONTIGS)) - bases(first)
    assert complement(outside, CONTIGS) == merge(first)


@settings(deadline=None)
@given(regions())
def test_text_of_a_region_reads_back(region):
    again = parse_region(str(region), CONTIGS)
    place = again.contig, again.start, again.end
    assert place == (region.contig, region.start, region.end)
    assert len(again) == region.end - region.start


def test_parse_region_counts_from_one_and_includes_the_last():
    contigs = {"chr1": 5000, "HLA:01:02": 9}
    assert parse_region("chr1:1,001-2,000", contigs) == Region("chr1", 1000, 2000)
    assert parse_region("chr1:7", contigs) == Region("chr1", 6, 7)
    assert parse_region("chr1", contigs) == Region("chr1", 0, 5000)
    assert parse_region("HLA:01:02", contigs) == Region("HLA:01:02", 0, 9)
    assert parse_region("HLA:01:02:3-9", contigs) == Region("HLA:01:02", 2, 9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("chr1:0-5", "positions count from 1"),
        ("chr1:9-5", "first is not after the last"),
        ("chr1:5-51", "beyond the end of chr1 .50 bases"),
        ("chr1:a-b", "write it as chr1:1001-2000"),
        ("chr1:-5", "write it as"),
        ("chr1:,-,", "positions count from 1"),
        ("1:1-5", "did you mean 'chr1'"),
        ("1", "did you mean 'chr1'"),
        ("chr1:", "write it as"),
    ],
)
def test_parse_region_refuses(text, said):
    with pytest.raises(CrossDNAError, match=f"region {text}: .*{said}"):
        parse_region(text, {"chr1": 50})


@pytest.mark.parametrize(
    ("start", "end", "strand"), [(-1, 5, "+"), (5, 5, "+"), (6, 5, "+"), (0, 1, ".")]
)
def test_regions_are_valid_from_birth(start, end, strand):
    with pytest.raises(CrossDNAError):
        Region("a", start, end, "", strand)


BED = """\
browser position chr2:1-10
track name=splits
# comment
chr2\t0\t10\ttrain

chr2 10 20 valid 0 -
chr10\t5\t30\ttrain\t3.5\t.\tmore
"""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_read_bed(write, packed, newline):
    content = BED.replace("\n", newline).encode()
    path = write("splits.bed", gzip.compress(content) if packed else content)
    found = read_bed(path, CONTIGS)
    assert found == [
        Region("chr2", 0, 10, "train"),
        Region("chr2", 10, 20, "valid", "-"),
        Region("chr10", 5, 30, "train"),
    ]
    splits = by_name(found)
    assert splits == {"train": [found[0], found[2]], "valid": [found[1]]}


def test_contig_named_like_a_track_line_is_read(write):
    path = write("a.bed", "track1 0 2\n")
    assert read_bed(path, {"track1": 5}) == [Region("track1", 0, 2)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("chr2\t0\t41", "chr2:1-41 goes beyond the end of chr2 .40 bases"),
        ("chr2\t5\t5", "start 5 is not before end 5"),
        ("chr2\t9\t5", "start 9 is not before end 5"),
        ("chr2\t-1\t5", "start -1 is negative"),
        ("chr2\t1.5\t5", "start '1.5' and end '5' must be whole numbers"),
        ("chr2\t5", "expected contig, start and end"),
        ("2\t0\t5", "no contig '2'; did you mean 'chr2'"),
        ("chr2\t0\t5\tx\t0\t?", "strand '[?]' is not"),
    ],
)
def test_bad_bed_says_file_and_line(write, line, said):
    path = write("bad.bed", f"# a\nchr2\t0\t5\n{line}\n")
    with pytest.raises(CrossDNAError, match=rf"bad\.bed:3: .*{said}"):
        read_bed(path, CONTIGS)


def test_bed_without_regions_and_bad_files(write, tmp_path):
    with pytest.raises(CrossDNAError, match="no regions"):
        read_bed(write("empty.bed", "# nothing\n"), CONTIGS)
    with pytest.raises(CrossDNAError, match="no such file"):
        read_bed(tmp_path / "none.bed", CONTIGS)
    cut = write("cut.bed.gz", gzip.compress(b"chr2\t0\t5\n" * 99)[:-9])
    with pytest.raises(CrossDNAError, match="truncated gzip"):
        read_bed(cut, CONTIGS)


def test_resolve_contig_lists_what_there_is():
    many = {f"scaffold{i}": 1 for i in range(9)}
    with pytest.raises(CrossDNAError, match=r"it has scaffold0, .*scaffold4, \.\.\.$"):
        resolve_contig("X", many, "genome.fa")


def test_many_regions_are_quick(rng):
    starts = np.sort(rng.choice(10_000_000, 100_000, replace=False)).tolist()
    many = [Region("a", start, start + 30) for start in starts]
    left = subtract([Region("a", 0, 10_000_030)], many)
    covered = np.zeros(10_000_030, bool)
    for start in starts:
        covered[start : start + 30] = True
    assert sum(map(len, left)) == (~covered).sum()
