"""In-silico mutagenesis: what every base of a locus does.

Each substitution (and deletion) has exactly the score that the variant gets from
`crossdna.analysis.variants.score`: neighbouring positions share a window and are read
together, so that a CrossDNA reads each edit only from where it differs.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.analysis.heads import read_head
from crossdna.analysis.inference import gives_base_probabilities, is_causal
from crossdna.analysis.variants.score import (
    model_task,
    score_alleles,
    score_names,
)
from crossdna.data.variants import read_allele
from crossdna.errors import CrossDNAError
from crossdna.models.record import has_head

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crossdna.analysis.variants.score import ScoreSettings
    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region

# Positions that are scored together at least.
_TOGETHER = 64


class Mutagenesis(NamedTuple):
    """Scores of all changes of single bases of a region, forward strand."""

    region: Region
    ids: NDArray[np.uint8]
    """(length,): the reference bases."""
    columns: tuple[str, ...]
    """What the last axis of the scores is: one for each output of a head."""
    substitutions: NDArray[np.float64]
    """(length, 4, columns): score of A C G T there; 0 for the reference, NaN at N."""
    deletions: NDArray[np.float64] | None
    """(length, columns), when asked for; NaN at N."""
    heads: tuple[str, ...] = ()
    """Of a model with a head what each column is the change of."""

    def importance(self, column: int = 0) -> NDArray[np.float64]:
        """(length,): mean score of the reference base against the other three.

        Positive where a substitution lowers the score.
        """
        others = self.substitutions[:, :, column].sum(1) / (alphabet.NUM_BASES - 1)
        return -others


def mutagenesis_scores(model: Any, *, deletions: bool) -> tuple[str, ...]:
    """Which scores a model gives for substitutions and deletions.

    ``head``; of a causal model ``ll``; of a masked one ``llr`` (and ``pll`` for
    deletions), or ``pll`` where single bases have no probability.

    Raises
    ------
    CrossDNAError
        A model that gives none of them.
    """
    if model_task(model) == "embedding":
        raise CrossDNAError(
            f"a {type(model).__name__} has no score to change; use a language model or "
            "one that predicts per sequence (a per-base head: crossdna track)"
        )
    if has_head(model):
        return ("head",)
    if is_causal(model):
        return ("ll",)
    if not gives_base_probabilities(model):
        return ("pll",)
    return ("llr", "pll") if deletions else ("llr",)


def mutagenesis(
    model: Any,
    genome: Genome,
    region: Region,
    settings: ScoreSettings,
    *,
    deletions: bool = False,
    advance: Callable[[int], None] = lambda positions: None,
) -> Mutagenesis:
    """Score every substitution (and single-base deletion) of a region.

    Parameters
    ----------
    region
        0-based, half-open; on strand + whatever it says.
    settings
        With the scores of `mutagenesis_scores`.
    advance
        Called with the number of positions done.

    Raises
    ------
    CrossDNAError
        Scores that this does not fit.
    """
    if settings.scores != mutagenesis_scores(model, deletions=deletions):
        raise CrossDNAError(
            f"mutagenesis with this model takes the scores "
            f"{mutagenesis_scores(model, deletions=deletions)}, not {settings.scores}"
        )
    ids = genome.fetch(region.contig, region.start, region.end)
    names = list(score_names(model, settings.scores))
    substituted = names[:1] if "llr" in names else names
    deleted = ["pll"] if "llr" in names else names
    shape = len(region), alphabet.NUM_BASES, len(substituted)
    scores = np.full(shape, np.nan)
    gone = np.full((len(region), len(deleted)), np.nan) if deletions else None
    for positions in _pieces(region, settings.window, genome):
        bases = alphabet.decode(ids[positions[0] - region.start :][: len(positions)])
        changes = [
            (position, base, alt)
            for position, base in zip(positions, bases, strict=True)
            if base != "N"
            for alt in (*alphabet.BASES, *(("-",) if deletions else ()))
            if alt != base
        ]
        alleles = [
            read_allele(
                genome,
                region.contig,
                position,
                base,
                alt.replace("-", ""),
                settings.window,
            )
            for position, base, alt in changes
        ]
        found = score_alleles(model, genome, alleles, settings)
        for row, (position, base, alt) in enumerate(changes):
            place = position - region.start
            scores[place, alphabet.BASES.index(base)] = 0
            if alt != "-":
                at = place, alphabet.BASES.index(alt)
                scores[at] = [found[name][row] for name in substituted]
            elif gone is not None:
                gone[place] = [found[name][row] for name in deleted]
        advance(len(positions))
    head = read_head(model) if has_head(model) else None
    said = tuple(map(head.what, head.labels)) if head else ()
    return Mutagenesis(region, ids, tuple(substituted), scores, gone, said)


def _pieces(region: Region, window: int, genome: Genome) -> list[list[int]]:
    """Runs of positions; none parts positions that share a window."""
    length = min(window, genome.contigs[region.contig])
    # The step between windows, see `crossdna.data.variants.window_pair`.
    step = max(1, length // 16)
    step *= -(-_TOGETHER // step)
    positions = range(region.start, region.end)
    return [
        list(piece)
        for _, piece in groupby(positions, key=lambda p: (p - length // 2) // step)
    ]


def table(results: Sequence[Mutagenesis]) -> dict[str, list[Any]]:
    """One row for each change: chrom, pos (1-based), ref, alt (``-``: none), scores."""
    first = results[0]
    names = ["chrom", "pos", "ref", "alt", *map(_column, first.columns)]
    rows: dict[str, list[Any]] = {name: [] for name in names}
    for result in results:
        for place, base in enumerate(alphabet.decode(result.ids)):
            changes = [
                (alt, result.substitutions[place, index])
                for index, alt in enumerate(alphabet.BASES)
                if alt != base
            ]
            if result.deletions is not None:
                changes.append(("-", result.deletions[place]))
            for alt, values in changes:
                position = result.region.start + place + 1
                row = [result.region.contig, position, base, alt]
                row += [None if np.isnan(value) else float(value) for value in values]
                for name, value in zip(names, row, strict=True):
                    rows[name].append(value)
    return rows


def _column(name: str) -> str:
    """Substitutions and deletions have different scores of a masked model."""
    return "score" if name == "llr" else name
