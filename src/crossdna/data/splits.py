"""Splitting labelled sequences so that relatives stay on one side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from crossdna.data import loci, mmseqs, similarity
from crossdna.data.labelled import class_strata
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.data.labelled import LabelledSet

SPLITS: Final = ("train", "valid", "test")
By = Literal["auto", "contig", "similarity", "mmseqs"]
ROWS_PER_CONTIG: Final = 3
"""On average, from which on a contig in names is taken for a chromosome: names such as
transcript7:1-70 have one for every sequence or two."""


class SplitResult(NamedTuple):
    """Which split each row belongs to.

    Attributes
    ----------
    split : (rows,) of str
        train, valid or test.
    by : str
        What kept together: contig, similarity or mmseqs.
    groups : (rows,) int64
        Number of the contig or cluster of each row.
    """

    split: NDArray[np.str_]
    by: str
    groups: NDArray[np.int64]

    def rows(self, name: str) -> NDArray[np.int64]:
        """Rows of a split, in file order."""
        return np.flatnonzero(self.split == name)


def split_labelled(
    data: LabelledSet,
    *,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    by: By = "auto",
    threshold: float = similarity.THRESHOLD,
    seed: int = 0,
) -> SplitResult:
    """Split by chromosome when coordinates are known, else by sequence similarity.

    Parameters
    ----------
    shares
        Of train, valid and test; a share of 0 leaves a split out.
    by
        ``"auto"`` takes chromosomes when each row has coordinates on at least as many
        as there are splits; where the coordinates are from names, only if they hold
        `ROWS_PER_CONTIG` rows on average.
    threshold
        Of the similarity; see `crossdna.data.similarity`.

    Raises
    ------
    CrossDNAError
        No coordinates, or so few groups that a split would be empty or lack a class.
    """
    wanted = [share > 0 for share in shares]
    contigs = _contigs(data)
    if by == "auto":
        chosen = contigs is not None and _are_chromosomes(data, contigs, sum(wanted))
        by = "contig" if chosen else "similarity"
    if by == "contig":
        if contigs is None:
            raise CrossDNAError(
                f"{data.table.source}: no coordinates to split by; columns such as "
                "chrom, start and end are needed"
            )
        groups = contigs
    elif by == "mmseqs":
        groups = mmseqs.mmseqs_cluster(data.table.ids)
    else:
        groups = similarity.cluster(data.table.ids, threshold=threshold)
    split = assign_groups(groups, class_strata(data), shares, seed=seed)
    _require_all(data, split, shares, by, len(np.unique(groups)))
    return SplitResult(split, by, groups)


def assign_groups(
    groups: NDArray[np.int64],
    strata: NDArray[np.int64],
    shares: Sequence[float],
    *,
    seed: int = 0,
) -> NDArray[np.str_]:
    """Give whole groups to splits so that sizes and class balance come near `shares`.

    Greedy, largest group first, in an order that the seed decides among equals: a group
    goes where it lessens the squared distance to the wanted class counts most. The last
    groups go to splits that have none.

    Parameters
    ----------
    groups, strata : (rows,) int64
        Group and class of each row.
    shares : (splits,)

    Returns
    -------
    (rows,) of str
    """
    part = np.asarray(shares, float) / sum(shares)
    _, groups = np.unique(groups, return_inverse=True)
    classes, strata = np.unique(strata, return_inverse=True)
    counts = np.zeros((groups.max() + 1, len(classes)))
    np.add.at(counts, (groups, strata), 1)
    target = part[:, None] * counts.sum(0)
    scale = np.maximum(target, 1e-9)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    filled = np.zeros_like(target)
    assigned = np.zeros(len(counts), np.int64)
    wanted = part > 0
    for place, group in enumerate(order):
        empty = wanted & (filled.sum(1) == 0)
        allowed = empty if empty.sum() >= len(order) - place else wanted
        # The change of sum((filled - target)^2 / target) if the group goes there.
        added = counts[group]
        change = (added * (added + 2 * (filled - target)) / scale).sum(1)
        best = int(np.where(allowed, change, np.inf).argmin())
        assigned[group] = best
        filled[best] += added
    return np.array(SPLITS)[assigned[groups]]


def _contigs(data: LabelledSet) -> NDArray[np.int64] | None:
    regions = data.table.regions
    if regions is None:
        return None
    names = [region.contig for region in regions]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def _are_chromosomes(
    data: LabelledSet, contigs: NDArray[np.int64], fewest: int
) -> bool:
    """Whether to part by contigs: there are so many, and they seem no row's own."""
    number = len(np.unique(contigs))
    if number < fewest:
        return False
    columns = (loci.CONTIG_NAMES, loci.START_NAMES, loci.END_NAMES)
    told = all(loci.find_column(data.table.columns, names) for names in columns)
    return told or len(contigs) >= ROWS_PER_CONTIG * number


def _require_all(
    data: LabelledSet,
    split: NDArray[np.str_],
    shares: Sequence[float],
    by: str,
    groups: int,
) -> None:
    strata = class_strata(data)
    every = len(np.unique(strata))
    for name, share in zip(SPLITS, shares, strict=True):
        found = len(np.unique(strata[split == name]))
        if share > 0 and found < every:
            lack = "no rows" if not found else f"only {found} of {every} classes"
            raise CrossDNAError(
                f"{data.table.source}: splitting {len(split)} rows by {by} "
                f"({groups} groups) leaves {lack} for {name}; give --valid and --test "
                "files, or another --by or --similarity"
            )
