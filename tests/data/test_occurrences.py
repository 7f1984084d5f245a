"""Finding sequences in a genome, and DNA that comes twice."""

import numpy as np
import pytest

from crossdna import alphabet
from crossdna.data.genome import Genome
from crossdna.data.occurrences import copies, find_occurrences


@pytest.fixture
def letters():
    return alphabet.decode(np.random.default_rng(5).integers(0, 4, 6000))


def write(path, **contigs):
    path.write_text("".join(f">{name}\n{dna}\n" for name, dna in contigs.items()))
    return Genome.open(path, path.parent / "cache")


def places(regions):
    return [(region.contig, region.start, region.end) for region in regions]


def test_both_strands_and_contigs_are_searched(tmp_path, letters):
    genome = write(tmp_path / "g.fa", one=letters[:3000], two=letters[3000:])
    forward = alphabet.encode(letters[100:170])
    reverse = alphabet.reverse_complement(alphabet.encode(letters[3500:3600]))
    absent = np.random.default_rng(6).integers(0, 4, 80).astype(np.uint8)
    found = find_occurrences(genome, [forward, reverse, absent])
    assert places(found) == [("one", 100, 170), ("two", 500, 600)]


def test_substitutions_do_not_hide_a_sequence(tmp_path, letters):
    genome = write(tmp_path / "g.fa", one=letters)
    changed = alphabet.encode(letters[2000:2200])
    changed[[60, 130]] = (changed[[60, 130]] + 1) % 4
    assert places(find_occurrences(genome, [changed])) == [("one", 2000, 2200)]
    assert find_occurrences(genome, [changed], least=0.9) == []


def test_a_sequence_may_begin_before_the_contig(tmp_path, letters):
    genome = write(tmp_path / "g.fa", one=letters[1000:])
    longer = alphabet.encode(letters[980:1200])
    assert places(find_occurrences(genome, [longer])) == [("one", 0, 200)]


def test_repeats_are_found_where_they_are_whole(tmp_path, letters):
    # A hundred copies of one element: no seed of it is rare.
    element = letters[:120]
    genome = write(tmp_path / "g.fa", one=letters[200:300] + element * 100)
    found = find_occurrences(genome, [alphabet.encode(element)])
    assert places(found) == [("one", 100, 12100)]


def test_short_and_unknown_sequences_are_passed_over(tmp_path, letters):
    genome = write(tmp_path / "g.fa", one=letters)
    short = alphabet.encode(letters[:20])
    unknown = np.full(60, alphabet.N, np.uint8)
    assert find_occurrences(genome, [short, unknown]) == []
    assert find_occurrences(genome, []) == []


def test_dna_that_came_before_is_a_copy(tmp_path, letters):
    first = write(tmp_path / "a.fa", one=letters)
    turned = alphabet.decode(alphabet.reverse_complement(alphabet.encode(letters)))
    new = alphabet.decode(np.random.default_rng(7).integers(0, 4, 2000))
    second = write(tmp_path / "b.fa", two=new + turned[:2000], three=new)
    of_first, of_second = copies([first, second], tile=500)
    assert of_first == []
    covered = dict.fromkeys(("two", "three"), 0)
    for region in of_second:
        covered[region.contig] += len(region)
    # What is new in contig two is a copy in contig three; ends are left in part.
    assert 1400 <= covered["two"] <= 2000
    assert 1400 <= covered["three"] <= 2000
    assert all(region.start >= 2000 for region in of_second if region.contig == "two")
