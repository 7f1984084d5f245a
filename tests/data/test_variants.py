"""Alleles and windows against direct construction of the changed contig."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdna import alphabet
from crossdna.data.genome import Genome
from crossdna.data.variants import (
    ContigTally,
    match_contigs,
    mismatch_hint,
    normalise,
    read_allele,
    reference_matches,
    tally_reference,
    window_pair,
)
from crossdna.errors import CrossDNAError


def open_genome(folder, **contigs):
    path = folder / "g.fa"
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
    return Genome.open(path, cache=folder / "cache")


def changed_contig(bases, position, ref, alt):
    return bases[:position] + alt + bases[position + len(ref) :]


def slow_normalise(bases, position, ref, alt):
    """One base at a time, on the anchored form, as the paper describes."""
    while True:
        if ref and alt and ref[-1] == alt[-1]:
            ref, alt = ref[:-1], alt[:-1]
        elif (not ref or not alt) and position > 0:
            position -= 1
            ref, alt = bases[position] + ref, bases[position] + alt
            if ref[-1] != alt[-1]:
                break
        else:
            break
    while ref and alt and ref[0] == alt[0]:
        ref, alt, position = ref[1:], alt[1:], position + 1
    return position, ref, alt


@st.composite
def variants(draw):
    """A repetitive contig and a variant on it."""
    alphabet_used = draw(st.sampled_from(["A", "AC", "ACGT"]))
    bases = draw(st.text(alphabet_used, min_size=8, max_size=60))
    position = draw(st.integers(0, len(bases) - 1))
    length = draw(st.integers(1, min(5, len(bases) - position)))
    ref = bases[position : position + length]
    alt = draw(
        st.text(alphabet_used, min_size=1, max_size=5).filter(lambda a: a != ref)
    )
    return bases, position, ref, alt


@pytest.fixture
def make_genome(tmp_path):
    """Genomes whose caches do not mix."""
    number = iter(range(10**6))

    def make(**contigs):
        folder = tmp_path / str(next(number))
        folder.mkdir()
        return open_genome(folder, **contigs)

    return make


same_folder = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@same_folder
@given(variants())
def test_normalised_as_one_base_at_a_time(make_genome, variant):
    bases, position, ref, alt = variant
    genome = make_genome(c=bases)
    found = normalise(genome, "c", position, ref, alt)
    assert (found.position, found.reference, found.alternate) == slow_normalise(
        bases, position, ref, alt
    )
    assert changed_contig(bases, position, ref, alt) == changed_contig(
        bases, found.position, found.reference, found.alternate
    )


@same_folder
@given(variants(), st.integers(8, 80))
def test_windows_as_cut_from_the_changed_contig(make_genome, variant, length):
    bases, position, ref, alt = variant
    genome = make_genome(c=bases)
    allele = read_allele(genome, "c", position, ref, alt, length)
    if allele.skip:
        assert allele.skip == "too_long"
        return
    pair = window_pair(genome, allele, length)
    changed = changed_contig(bases, position, ref, alt)
    shorter = min(length, len(bases), len(changed))
    reference, alternate = map(
        alphabet.decode, (pair.reference.ids, pair.alternate.ids)
    )
    assert len(reference) == len(alternate) == shorter
    start = allele.position - pair.offset
    assert bases[start : start + shorter] == reference
    # The window of the changed contig starts at the same place or ends with the contig.
    places = {start, len(changed) - shorter}
    assert alternate in {changed[place : place + shorter] for place in places}
    assert list(pair.reference.loci) == list(range(start, start + shorter))
    kept = [i for i, locus in enumerate(pair.alternate.loci) if locus < allele.position]
    assert [bases[locus] for locus in pair.alternate.loci[kept]] == list(
        alternate[: len(kept)]
    )
    right = len(kept) + len(allele.alternate)
    assert [bases[locus] for locus in pair.alternate.loci[right:]] == list(
        alternate[right:]
    )


def test_windows_of_neighbours_are_shared_and_central(make_genome, rng):
    bases = alphabet.decode(rng.integers(0, 4, 4000, dtype=np.uint8))
    genome = make_genome(c=bases)
    starts = []
    for position in range(2000, 2032):
        alt = "A" if bases[position] != "A" else "C"
        allele = read_allele(genome, "c", position, bases[position], alt, 512)
        pair = window_pair(genome, allele, 512)
        assert 256 <= pair.offset < 256 + 32
        starts.append(position - pair.offset)
        assert pair.alternate.ids[pair.offset] == alphabet.encode(alt)[0]
        assert (pair.reference.ids != pair.alternate.ids).sum() == 1
    assert len(set(starts)) <= 2


def test_every_spelling_of_an_indel_gives_the_same_windows(make_genome):
    bases = "GATTACAACGT" + "CACACACACA" + "TTGACCGT" * 4
    genome = make_genome(c=bases)
    # Deletions of one CA unit, written at three places and with a needless long anchor.
    spellings = [(10, "TCA", "T"), (12, "ACA", "A"), (18, "ACA", "A")]
    spellings.append((8, bases[8:17], bases[8:15]))
    alleles = [read_allele(genome, "c", p, r, a, 40) for p, r, a in spellings]
    assert len(set(alleles)) == 1
    assert alleles[0][1:4] == (11, "CA", "")


@pytest.mark.parametrize(
    ("position", "ref", "alt", "reason"),
    [
        (4, "A", "*", "spanning_deletion"),
        (4, "A", "<DEL>", "symbolic"),
        (4, "A", "A[chr2:5[", "symbolic"),
        (4, "A", "N", "not_acgt"),
        (2, "N", "A", "not_acgt"),
        (2, "A", "C", "not_acgt"),
        (4, "N", "ACG", "not_acgt"),
        (4, "R", "A", "not_acgt"),
        (4, "A", "a", "same_as_reference"),
        (4, "C", "A", "reference_mismatch"),
        (99, "A", "C", "outside_contig"),
        (-1, "N", "C", "outside_contig"),
        (4, "A", "ACGTACGTACGT", "too_long"),
    ],
)
def test_reasons(make_genome, position, ref, alt, reason):
    genome = make_genome(c="CCNNACGTACGTTTGACCA")
    assert read_allele(genome, "c", position, ref, alt, 16).skip == reason
    assert read_allele(genome, None, 4, "A", "C", 16).skip == "missing_contig"
    allele = read_allele(genome, "c", position, ref, alt, 16)
    with pytest.raises(CrossDNAError, match=reason):
        window_pair(genome, allele, 16)


def test_contig_names():
    contigs = {"chr1": 10, "2": 10, "chrM": 10}
    assert match_contigs(["1", "chr1", "chr2", "MT", "chrUn"], contigs) == {
        "1": "chr1",
        "chr1": "chr1",
        "chr2": "2",
        "MT": "chrM",
        "chrUn": None,
    }


def test_hints(make_genome, rng):
    bases = alphabet.decode(rng.integers(0, 4, 400, dtype=np.uint8))
    genome = make_genome(c=bases)
    good, shifted, foreign = ContigTally(), ContigTally(), ContigTally()
    other = alphabet.decode(rng.integers(0, 4, 400, dtype=np.uint8))
    for place in range(10, 300):
        tally_reference(good, genome, "c", place, bases[place].lower(), place)
        tally_reference(shifted, genome, "c", place - 1, bases[place], place)
        tally_reference(foreign, genome, "c", place, other[place], place)
    assert good.mismatches == 0
    assert mismatch_hint(good) == ""
    assert "+1 base" in mismatch_hint(shifted)
    assert "assembly" in mismatch_hint(foreign)
    assert reference_matches(genome, "c", 399, bases[399:] + "A") is False


def test_records_that_leave_bases_open_are_not_told_apart_from_the_genome(make_genome):
    genome = make_genome(c="CCNNACGTACGTTTGACCA")
    tally = ContigTally()
    for place, ref in ((2, "A"), (4, "N"), (4, "R"), (1, "CA")):
        tally_reference(tally, genome, "c", place, ref, place)
        assert read_allele(genome, "c", place, ref, "CCC", 16).skip == "not_acgt"
    assert (tally.records, tally.mismatches) == (0, 0)
