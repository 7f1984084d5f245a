"""What a generated sequence must be, as an automaton that knows every dead end.

A template says which bases each position may have, motifs (IUPAC letters) must or must
not occur, and the share of G and C lies in a range. All of it together is a finite
automaton whose state is the motif matches under way, the required motifs seen, and the
count of G and C. One sweep from the right marks from where the end can still be
reached. A sampler that only goes where the mark stands ends in a sequence that meets
every constraint, and where nothing does, that is known before anything is sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.analysis.generation.sampling import draw_sequence
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

# Bases that each letter stands for (NC-IUB 1984).
IUPAC_BASES: Final = {
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "S": "CG",
    "W": "AT", "K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG",
    "N": "ACGT",
}  # fmt: skip
_MOST_STATES: Final = 5000
_MOST_CELLS: Final = 50_000_000

# Which bases a motif takes at each place.
Pattern = tuple[frozenset[int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraints:
    """What every generated sequence must be.

    Attributes
    ----------
    template : str
        One IUPAC letter per base: N is free, A is A.
    gc : (float, float) or None
        Least and greatest share of G and C in the whole sequence, both included.
    contain, avoid : tuple of str
        Motifs in IUPAC letters that must, or must not, occur on either strand.
    """

    template: str
    gc: tuple[float, float] | None = None
    contain: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()

    def reverse_complement(self) -> Constraints:
        """Give the same constraints on the other strand; only the template turns."""
        turned = [
            _letter({3 - base for base in choice})
            for choice in reversed(pattern(self.template, "the template"))
        ]
        return replace(self, template="".join(turned))


def pattern(letters: str, name: str) -> Pattern:
    """Read IUPAC letters.

    Raises
    ------
    CrossDNAError
        No letter, or one that stands for no base.
    """
    if not letters:
        raise CrossDNAError(f"{name} is empty")
    for place, letter in enumerate(letters.upper(), 1):
        if letter not in IUPAC_BASES:
            raise CrossDNAError(
                f"{name}: {letter!r} at position {place} is no IUPAC letter of DNA"
            )
    return tuple(
        frozenset(alphabet.BASES.index(base) for base in IUPAC_BASES[letter])
        for letter in letters.upper()
    )


def _letter(bases: Iterable[int]) -> str:
    """The IUPAC letter of some bases."""
    letters = "".join(alphabet.BASES[base] for base in sorted(bases))
    return next(key for key, value in IUPAC_BASES.items() if value == letters)


class _Automaton(NamedTuple):
    steps: NDArray[np.int64]
    """(states, 4): the next state; the last state is the dead one."""
    accepts: NDArray[np.bool_]
    """(states,): whether every required motif has been seen."""


class Plan:
    """Where every constraint can still be met.

    Attributes
    ----------
    allowed : (length, 4) bool
        Bases that the template takes at each position.
    steps : (states, 4)
        The state after a base; the last state is the dead one.
    reach : (length + 1, states, counts) bool
        Whether a sequence that is in this state, with so many G and C so far, can be
        finished. Without a range for GC there is a single count.

    Raises
    ------
    CrossDNAError
        A motif or a range that makes no sense, constraints that no sequence meets, or
        so many of them that the table would not fit.
    """

    def __init__(self, constraints: Constraints) -> None:
        self.constraints = constraints
        choices = pattern(constraints.template, "the template")
        self.length = len(choices)
        self.allowed = np.array(
            [[base in choice for base in range(4)] for choice in choices]
        )
        automaton = _automaton(constraints.contain, constraints.avoid)
        self.steps = automaton.steps
        least, most = _gc_counts(constraints.gc, self.length)
        counts = 1 if constraints.gc is None else most + 1
        self.gc_step = np.array([0, 1, 1, 0]) * (constraints.gc is not None)
        cells = (self.length + 1) * len(self.steps) * counts
        if cells > _MOST_CELLS:
            raise CrossDNAError(
                f"{self.length} bases under these constraints need a table of "
                f"{cells:,} cells (at most {_MOST_CELLS:,}); take a shorter sequence, "
                "fewer motifs or no range for GC"
            )
        self.reach = np.zeros((self.length + 1, len(self.steps), counts), np.bool_)
        ends = np.arange(counts) >= least
        self.reach[-1] = automaton.accepts[:, None] & ends
        for position in reversed(range(self.length)):
            here = self.reach[position]
            for base in np.flatnonzero(self.allowed[position]):
                after = self.reach[position + 1][self.steps[:, base]]
                step = int(self.gc_step[base])
                here[:, : after.shape[1] - step] |= after[:, step:]

    def lead_on(
        self, words: NDArray[np.int64], position: int, state: int, count: int
    ) -> NDArray[np.bool_]:
        """Whether the end can be reached after each word, (words,) bool.

        Parameters
        ----------
        words : (words, longest)
            Bases; -1 behind the end of a word.
        position, state, count
            Of the next base; the state and the G and C before it.
        """
        ends = position + (words >= 0).sum(1)
        good = ends <= self.length
        states = np.full(len(words), state)
        counts = np.full(len(words), count)
        for place in range(words.shape[1]):
            base = words[:, place]
            inside = good & (base >= 0)
            here = min(position + place, self.length - 1)
            good &= ~inside | self.allowed[here, base]
            states = np.where(inside, self.steps[states, base], states)
            counts = np.where(inside, counts + self.gc_step[base], counts)
        most = self.reach.shape[2] - 1
        ends = np.minimum(ends, self.length)
        found = self.reach[ends, states, np.minimum(counts, most)]
        return good & (counts <= most) & found

    def after(self, word: NDArray[np.int64], state: int, count: int) -> tuple[int, int]:
        """State and number of G and C behind a word (bases,)."""
        for base in word:
            state, count = int(self.steps[state, base]), count + int(self.gc_step[base])
        return state, count

    def place_motifs(self, random: np.random.Generator) -> Plan:
        """Give every required motif a place in the template, drawn at random.

        Read from left to right, a model that seldom writes a motif would write it where
        it must at last: at the end.
        """
        if not self.constraints.contain:
            return self
        blind = np.full((self.length, alphabet.NUM_BASES), 0.25)
        sample = draw_sequence(self, blind, random)
        allowed = [set(np.flatnonzero(row).tolist()) for row in self.allowed]
        for motif in self.constraints.contain:
            found = [
                (start, choice)
                for choice in _both_strands(motif, "motif")
                for start in range(self.length - len(choice) + 1)
                if all(sample[start + i] in bases for i, bases in enumerate(choice))
            ]
            start, choice = found[random.integers(len(found))]
            for place, bases in enumerate(choice, start):
                allowed[place] &= bases
        template = "".join(_letter(bases) for bases in allowed)
        return Plan(replace(self.constraints, template=template))

    def require_possible(self) -> None:
        """Refuse constraints that no sequence meets, and say which one is in the way.

        Raises
        ------
        CrossDNAError
            No sequence meets them.
        """
        if self.reach[0, 0, 0]:
            return
        own = self.constraints
        parts = {"gc": own.gc, "contain": own.contain, "avoid": own.avoid}
        hints = []
        for name in [name for name, value in parts.items() if value]:
            kept = {key: value for key, value in parts.items() if key != name}
            fewer = Plan(Constraints(template=own.template, **kept))  # type: ignore[arg-type]
            if fewer.reach[0, 0, 0]:
                hints.append(name)
        why = f"; it would go without {' or without '.join(hints)}" if hints else ""
        raise CrossDNAError(
            f"no sequence of {self.length} bases meets all constraints{why}"
        )


def _gc_counts(gc: tuple[float, float] | None, length: int) -> tuple[int, int]:
    """Least and greatest number of G and C."""
    if gc is None:
        return 0, length
    low, high = gc
    if not 0 <= low <= high <= 1:
        raise CrossDNAError(
            f"the range of GC is {low:g} to {high:g}; give two shares from 0 to 1, "
            "the smaller one first"
        )
    # A share such as 0.3 of 10 bases is 3 of them, whatever its last binary digit.
    least = math.ceil(low * length - 1e-9)
    most = math.floor(high * length + 1e-9)
    if least > most:
        raise CrossDNAError(
            f"no number of G and C in {length} bases is a share of {low:g} to {high:g}"
        )
    return least, most


def _both_strands(letters: str, name: str) -> list[Pattern]:
    ahead = pattern(letters, name)
    back = tuple(frozenset(3 - base for base in choice) for choice in reversed(ahead))
    return list(dict.fromkeys([ahead, back]))


def _automaton(contain: Sequence[str], avoid: Sequence[str]) -> _Automaton:
    """Subset construction over all motifs at once.

    A state holds which places of which motifs are matched so far, and which required
    motifs are still to be seen.
    """
    wanted = [_both_strands(motif, f"motif {motif!r}") for motif in contain]
    shunned = [p for motif in avoid for p in _both_strands(motif, f"motif {motif!r}")]
    start = (frozenset[tuple[Pattern, int]](), frozenset(range(len(wanted))))
    numbers = {start: 0}
    waiting, rows = [start], []
    while waiting:
        matches, missing = waiting.pop(0)
        row = []
        live = [*shunned, *(p for index in missing for p in wanted[index])]
        for base in range(alphabet.NUM_BASES):
            begun = [(p, 0) for p in live]
            grown = {
                (p, done + 1)
                for p, done in [*matches, *begun]
                if base in p[done] and p in live
            }
            full = {p for p, done in grown if done == len(p)}
            if full & set(shunned):
                row.append(-1)
                continue
            still = frozenset(i for i in missing if not full & set(wanted[i]))
            kept = {*shunned, *(p for i in still for p in wanted[i])}
            partial = frozenset((p, n) for p, n in grown if n < len(p) and p in kept)
            after = (partial, still)
            if after not in numbers:
                numbers[after] = len(numbers)
                waiting.append(after)
            row.append(numbers[after])
        rows.append(row)
        if len(numbers) > _MOST_STATES:
            raise CrossDNAError(
                "the motifs have too many ways to overlap; take fewer of them, or "
                "shorter ones with fewer ambiguous letters"
            )
    dead = len(rows)
    steps = np.array([*rows, [dead] * alphabet.NUM_BASES])
    steps[steps < 0] = dead
    accepts = [not missing for _, missing in numbers]
    return _Automaton(steps, np.array([*accepts, False]))
