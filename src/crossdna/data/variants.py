"""Variants: alleles checked against a genome, normalised, and placed in windows.

Positions are 0-based here; files count from 1. An allele is scored in its shortest
form: bases that reference and alternate share at either end are dropped, and a pure
insertion or deletion is moved as far left as the sequence allows, so that every way of
writing a variant gives the same windows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from crossdna.data.genome import Genome

REASONS: Final = {
    "spanning_deletion": "the allele * stands for a deletion of another record",
    "symbolic": "a symbolic allele or breakend has no sequence",
    "not_acgt": "an allele, or the genome there, has letters other than A C G T",
    "same_as_reference": "the alternate allele is the reference allele",
    "too_long": "an allele is longer than a quarter of the window",
    "reference_mismatch": "REF is not what the genome has there",
    "outside_contig": "the position is not on the contig",
    "missing_contig": "the genome does not have the contig",
    "no_such_score": "none of the chosen scores applies to this kind of variant, such "
    "as llr to an insertion",
}
"""Why an allele is not scored: the value in files, and what it means."""

# A window starts at a multiple of this share of its length, so that variants close to
# each other share their reference window whatever else is in the file.
_GRID_SHARE: Final = 16
_ALLELE_SHARE: Final = 4
_MITOCHONDRIA: Final = ("chrM", "MT", "M", "chrMT")


class Allele(NamedTuple):
    """One alternate allele, in its shortest and leftmost form."""

    contig: str
    """The genome's name of the contig."""
    position: int
    """0-based; of the first base that changes, or that follows an insertion."""
    reference: str
    """Upper case; empty for an insertion."""
    alternate: str
    """Upper case; empty for a deletion."""
    skip: str = ""
    """One of `REASONS` when the allele cannot be scored; the rest is as given then."""

    @property
    def is_substitution(self) -> bool:
        """Whether one base becomes another."""
        return len(self.reference) == len(self.alternate) == 1


class Window(NamedTuple):
    """A stretch of the genome or of the genome with an allele in it."""

    ids: NDArray[np.uint8]
    """(length,)"""
    loci: NDArray[np.int64]
    """(length,): the genome position of each base; inserted bases count on from the
    position of the variant."""


class WindowPair(NamedTuple):
    """The same locus with the reference and with the alternate allele, equally long."""

    reference: Window
    alternate: Window
    offset: int
    """0-based position of the variant in the reference window."""


def match_contigs(
    names: Iterable[str], contigs: Mapping[str, int]
) -> dict[str, str | None]:
    """Find each name in a genome, with or without ``chr`` and whatever M is called.

    Returns
    -------
    dict
        The genome's name, or None where the genome has no such contig.
    """
    return {name: _match_contig(name, contigs) for name in names}


def _match_contig(name: str, contigs: Mapping[str, int]) -> str | None:
    bare = name[3:] if name.startswith("chr") else name
    spellings = [name, bare, f"chr{bare}"]
    if name in _MITOCHONDRIA:
        spellings += _MITOCHONDRIA
    return next((spelling for spelling in spellings if spelling in contigs), None)


@dataclass
class ContigTally:
    """REF alleles of one contig compared with the genome."""

    records: int = 0
    mismatches: int = 0
    first_line: int = 0
    """Line of the first mismatch."""
    outside: int = 0
    """Records that lie beyond an end of the contig; not among `records`."""
    first_outside: int = 0
    """Line of the first of them."""
    shifts: Counter[int] = field(default_factory=Counter)
    """Of the mismatches, how many would match this many bases further right."""


def _on_contig(genome: Genome, contig: str, position: int, ref: str) -> bool:
    """Whether all of `ref` lies on the contig."""
    return 0 <= position <= genome.contigs[contig] - len(ref)


def reference_matches(genome: Genome, contig: str, position: int, ref: str) -> bool:
    """Whether the genome has the bases `ref` at `position`; not outside the contig."""
    if not _on_contig(genome, contig, position, ref):
        return False
    return _compare(genome, contig, position, ref) == ""


def _compare(genome: Genome, contig: str, position: int, ref: str) -> str:
    """Why a REF on the contig is not what the genome has there; empty if it is."""
    found = genome.fetch(contig, position, position + len(ref))
    if (found >= alphabet.NUM_BASES).any():
        return "not_acgt"
    return "" if np.array_equal(found, alphabet.encode(ref)) else "reference_mismatch"


def tally_reference(
    tally: ContigTally, genome: Genome, contig: str, position: int, ref: str, line: int
) -> None:
    """Count a record, and if its REF is wrong, whether a neighbouring place has it.

    A REF that leaves bases open, as structural variants have it, says nothing, nor does
    one where the genome does.
    """
    if set(ref.upper()) - set(alphabet.BASES):
        return
    if not _on_contig(genome, contig, position, ref):
        tally.outside += 1
        tally.first_outside = tally.first_outside or line
        return
    reason = _compare(genome, contig, position, ref)
    if reason == "not_acgt":
        return
    tally.records += 1
    if not reason:
        return
    tally.mismatches += 1
    tally.first_line = tally.first_line or line
    for shift in (-1, 1):
        tally.shifts[shift] += reference_matches(genome, contig, position + shift, ref)


def mismatch_hint(tally: ContigTally) -> str:
    """Say what a share of wrong REF alleles points to; empty when there is none."""
    if not tally.mismatches:
        return ""
    shift, matching = max(tally.shifts.items(), key=lambda item: item[1])
    # By chance a neighbouring base is the same in a quarter of the cases or a bit more.
    if matching >= 0.9 * tally.mismatches and tally.mismatches >= 4:
        return f"they match {shift:+d} base: do the positions count from 0?"
    if tally.mismatches >= 0.1 * tally.records:
        return (
            "is the genome another assembly (hg19, hg38, T2T)? Then the rest matches "
            "by chance, and its scores mean nothing"
        )
    return "are these records from another release of the assembly?"


def read_allele(
    genome: Genome, contig: str | None, position: int, ref: str, alt: str, window: int
) -> Allele:
    """Check one alternate allele and bring it into its shortest, leftmost form.

    Parameters
    ----------
    contig
        The genome's name, or None where it has no such contig.
    position
        0-based.
    ref, alt
        As in the file, any case.
    window
        Bases of the windows it will be scored in; limits how long an allele may be.
    """
    if reason := _refusal(genome, contig, position, ref, alt):
        return Allele(contig or "", position, ref, alt, reason)
    assert contig is not None
    allele = normalise(genome, contig, position, ref.upper(), alt.upper())
    contig_length = genome.contigs[contig]
    longest = max(len(allele.reference), len(allele.alternate))
    changed = len(allele.alternate) - len(allele.reference)
    usable = min(window, contig_length, contig_length + changed)
    if usable < 1 or longest > max(1, usable // _ALLELE_SHARE):
        return allele._replace(skip="too_long")
    return allele


def _refusal(
    genome: Genome, contig: str | None, position: int, ref: str, alt: str
) -> str:
    if contig is None:
        return "missing_contig"
    if alt == "*":
        return "spanning_deletion"
    if set(alt) & set("<>[]."):
        return "symbolic"
    if not _on_contig(genome, contig, position, ref):
        return "outside_contig"
    if (set(ref.upper()) | set(alt.upper())) - set(alphabet.BASES):
        return "not_acgt"
    if reason := _compare(genome, contig, position, ref):
        return reason
    if ref.upper() == alt.upper():
        return "same_as_reference"
    return ""


def normalise(
    genome: Genome, contig: str, position: int, reference: str, alternate: str
) -> Allele:
    """Drop what both alleles share and move an insertion or deletion to the left.

    Tan, Abecasis and Kang, Unified representation of genetic variants (2015), without
    the anchor base that files need.
    """
    end = 0
    shortest = min(len(reference), len(alternate))
    while end < shortest and reference[-1 - end] == alternate[-1 - end]:
        end += 1
    reference, alternate = (
        reference[: len(reference) - end],
        alternate[: len(alternate) - end],
    )
    start, shortest = 0, min(len(reference), len(alternate))
    while start < shortest and reference[start] == alternate[start]:
        start += 1
    position, reference, alternate = (
        position + start,
        reference[start:],
        alternate[start:],
    )
    if reference and alternate:
        return Allele(contig, position, reference, alternate)
    shift = _left_shift(genome, contig, position, reference or alternate)
    moved = reference or alternate
    turned = shift % len(moved)
    moved = moved[len(moved) - turned :] + moved[: len(moved) - turned]
    # Beyond one turn the bases passed over repeat the allele, so turning it is enough.
    if reference:
        return Allele(contig, position - shift, moved, "")
    return Allele(contig, position - shift, "", moved)


def _left_shift(genome: Genome, contig: str, position: int, moved: str) -> int:
    """How far left the bases `moved`, inserted or deleted at `position`, can go."""
    ids = alphabet.encode(moved)
    shift, stride = 0, 64
    while shift < position:
        step = min(stride, position - shift)
        end = position - shift
        before = genome.fetch(contig, end - step, end)[::-1]
        # The base passed over at distance d equals the allele's base d from its end.
        expected = ids[-1 - (np.arange(shift, shift + step) % len(ids))]
        different = np.flatnonzero(before != expected)
        if different.size:
            return shift + int(different[0])
        shift, stride = shift + step, 2 * stride
    return shift


def window_pair(genome: Genome, allele: Allele, length: int) -> WindowPair:
    """Give an allele's two windows, made by replacement in the genome.

    Both have `length` bases: an alternate window with a deletion has more of the flank
    to its right. Away from the ends of the contig both start at the same place, at most
    half a window and a sixteenth left of the variant. Where the contig ends too early
    for that, both end with it; on a contig shorter than a window both are as long as
    the shorter of contig and changed contig.

    Raises
    ------
    CrossDNAError
        An allele that was not to be scored.
    """
    if allele.skip:
        raise CrossDNAError(f"an allele that is {allele.skip} has no windows")
    size = genome.contigs[allele.contig]
    changed = size + len(allele.alternate) - len(allele.reference)
    length = min(length, size, changed)
    grid = max(1, length // _GRID_SHARE)
    start = max(0, (allele.position - length // 2) // grid * grid)
    first, second = start, start
    if start + length > min(size, changed) or not _inside(allele, start, length):
        first, second = size - length, changed - length
    reference = Window(
        genome.fetch(allele.contig, first, first + length),
        np.arange(first, first + length),
    )
    alternate = _changed_window(genome, allele, second, length)
    return WindowPair(reference, alternate, allele.position - first)


def _inside(allele: Allele, start: int, length: int) -> bool:
    end = allele.position + max(len(allele.reference), len(allele.alternate))
    return end <= start + length


def _changed_window(genome: Genome, allele: Allele, start: int, length: int) -> Window:
    """Bases `start` to `start + length` of the contig with the allele in it."""
    contig, position = allele.contig, allele.position
    left = genome.fetch(contig, start, position)
    middle = alphabet.encode(allele.alternate)
    behind = position + len(allele.reference)
    rest = length - len(left) - len(middle)
    right = genome.fetch(contig, behind, behind + rest)
    loci = [
        np.arange(start, position),
        np.arange(position, position + len(middle)),
        np.arange(behind, behind + rest),
    ]
    return Window(np.concatenate([left, middle, right]), np.concatenate(loci))
