"""Percentiles of substitutions among random ones of the same kind.

A log-likelihood ratio means little by itself: a transition at a CpG is unlike a
transversion in a gene. So a substitution is compared with substitutions at random
places of the genome that make the same change in the same three bases (either strand),
in the same class of region, and among those with the half whose surroundings are most
alike in their share of G and C.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.analysis.chunks import ChunkStore, run_chunks
from crossdna.analysis.variants.file import AlleleText, allele_texts
from crossdna.data.annotation import CLASSES, REPEAT_CLASSES, repeat_track
from crossdna.data.draws import raw_draws
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crossdna.analysis.variants.file import ScoringRun
    from crossdna.data.annotation import Annotation
    from crossdna.data.genome import Genome

DESCRIPTION: Final = (
    "Percentile of the log-likelihood ratio among random substitutions of the genome "
    "with the same trinucleotide change, class of region and similar GC, 0 to 100; "
    "low = less expected than most of its kind"
)
_STREAM: Final = 201
_DRAWS: Final = 4096
# So many draws for each wanted place, as if a hundred were wanted at least; then a rare
# kind stays as small as it is.
_PATIENCE: Final = 4000
_PLACES: Final = 100
_FEWEST: Final = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSettings:
    """What a substitution is compared with."""

    places: int = _PLACES
    """Random places for each trinucleotide and class of region."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.places < _FEWEST:
            raise CrossDNAError(
                f"percentiles need at least {_FEWEST} places of a kind, got "
                f"{self.places}"
            )


class Kind(NamedTuple):
    """Three bases on the strand where the middle one is C or T, and where they lie."""

    trinucleotide: str
    region: int
    """Class of region."""


class Place(NamedTuple):
    """A base of the genome."""

    contig: str
    position: int
    """0-based."""


class Surroundings:
    """Looks up the kind of a place.

    Parameters
    ----------
    genome
    annotation
        Tells the classes of region; without it, repeats (lower case) and the rest.
    window
        Bases around a place whose share of G and C counts.
    """

    def __init__(
        self, genome: Genome, annotation: Annotation | None, window: int
    ) -> None:
        self.genome, self.annotation, self.window = genome, annotation, window
        self.class_names = CLASSES if annotation is not None else REPEAT_CLASSES

    def kind(self, place: Place) -> Kind | None:
        """Kind of a place; None beside N and at the ends of a contig."""
        contig, position = place
        if not 1 <= position < self.genome.contigs[contig] - 1:
            return None
        ids = self.genome.fetch(contig, position - 1, position + 2)
        if ids.max() >= alphabet.NUM_BASES:
            return None
        if ids[1] in (alphabet.A, alphabet.G):
            ids = alphabet.reverse_complement(ids)
        if self.annotation is None:
            track = repeat_track(self.genome, contig, position, position + 1)
        else:
            track = self.annotation.class_track(contig, position, position + 1)
        return Kind(alphabet.decode(ids), int(track.classes[0]))

    def gc(self, place: Place) -> float:
        """Share of G and C among the bases around a place."""
        low = max(0, place.position - self.window // 2)
        high = min(low + self.window, self.genome.contigs[place.contig])
        ids = self.genome.fetch(place.contig, low, high)
        known = ids < alphabet.NUM_BASES
        return float(np.isin(ids[known], (alphabet.C, alphabet.G)).mean())

    def change(self, place: Place, alt: str) -> str:
        """The new base, on the strand where the old one is C or T."""
        old = self.genome.fetch(place.contig, place.position, place.position + 1)
        new = alphabet.encode(alt)
        if old[0] in (alphabet.A, alphabet.G):
            new = alphabet.reverse_complement(new)
        return alphabet.decode(new)


def draw_places(
    surroundings: Surroundings, wanted: set[Kind], settings: CalibrationSettings
) -> dict[Kind, list[Place]]:
    """Draw places of the wanted kinds from all bases of the genome alike, each once."""
    contigs = list(surroundings.genome.contigs.items())
    ends = np.cumsum([length for _, length in contigs])
    # As keys, so that a place counts once.
    found: dict[Kind, dict[Place, None]] = {kind: {} for kind in sorted(wanted)}
    patience = _PATIENCE * max(_PLACES, settings.places)
    for block in range(-(-patience // _DRAWS)):
        draws = raw_draws(settings.seed, _STREAM, [block], _DRAWS)[0]
        for number in (draws % np.uint64(ends[-1])).astype(np.int64):
            index = int(np.searchsorted(ends, number, side="right"))
            name, length = contigs[index]
            place = Place(name, int(number - (ends[index] - length)))
            kind = surroundings.kind(place)
            if kind in found and len(found[kind]) < settings.places:
                found[kind][place] = None
        if all(len(places) == settings.places for places in found.values()):
            break
    return {kind: list(places) for kind, places in found.items()}


class Calibration:
    """Scores of random substitutions by kind, and percentiles among them."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        # Kind and new base: (nulls, 2) GC and score.
        self._nulls: dict[tuple[Kind, str], NDArray[np.float64]] = {}
        self.rare: list[str] = []
        """Kinds of too few places, whose substitutions get no percentile."""

    def add(self, kind: Kind, places: Sequence[Place], rows: NDArray) -> None:
        """Take the scores (places, 3) of all changes of places of one kind."""
        if len(places) < _FEWEST:
            name = self._surroundings.class_names[kind.region]
            self.rare.append(f"{kind.trinucleotide} in {name} ({len(places)})")
        gc = np.array([self._surroundings.gc(place) for place in places])
        scored: dict[str, list[tuple[float, float]]] = {}
        for place, share, scores in zip(places, gc, rows, strict=True):
            for alt, score in zip(
                _others(self._surroundings, place), scores, strict=True
            ):
                change = self._surroundings.change(place, alt)
                scored.setdefault(change, []).append((share, score))
        for change, pairs in scored.items():
            self._nulls[kind, change] = np.array(pairs)

    def percentiles(
        self, alleles: Sequence[AlleleText], scores: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Percentile (alleles,) of each score; NaN where it has none or no company."""
        found = np.full(len(alleles), np.nan)
        for row in np.flatnonzero(np.isfinite(scores)).tolist():
            allele = alleles[row]
            place = substituted(allele)
            kind = self._surroundings.kind(place.place) if place else None
            if place is None or kind is None:
                continue
            change = self._surroundings.change(place.place, place.alt)
            nulls = self._nulls.get((kind, change))
            if nulls is None or len(nulls) < _FEWEST:
                continue
            distance = np.abs(nulls[:, 0] - self._surroundings.gc(place.place))
            nearest = np.argsort(distance, kind="stable")[
                : max(_FEWEST, len(nulls) // 2)
            ]
            company = nulls[nearest, 1]
            below = (company < scores[row]).mean() + (company == scores[row]).mean() / 2
            found[row] = 100 * below
        return found


class Substituted(NamedTuple):
    """A substitution of one base."""

    place: Place
    alt: str


def substituted(allele: AlleleText) -> Substituted | None:
    """The one base that an allele changes, also when it is written with neighbours."""
    ref, alt = allele.ref.upper(), allele.alt.upper()
    if allele.contig is None or len(ref) != len(alt):
        return None
    different = [
        i for i, pair in enumerate(zip(ref, alt, strict=True)) if len(set(pair)) > 1
    ]
    if len(different) != 1 or set(alt) - set(alphabet.BASES):
        return None
    place = Place(allele.contig, allele.position + different[0])
    return Substituted(place, alt[different[0]])


def _others(surroundings: Surroundings, place: Place) -> list[str]:
    old = surroundings.genome.fetch(place.contig, place.position, place.position + 1)
    return [base for base in alphabet.BASES if base != alphabet.decode(old)]


def calibrate(
    run: ScoringRun,
    surroundings: Surroundings,
    wanted: set[Kind],
    settings: CalibrationSettings,
    work: Path,
    *,
    devices: Sequence[str],
    advance: Callable[[int], None] = lambda substitutions: None,
) -> Calibration:
    """Score random substitutions of every kind that a run has.

    Parameters
    ----------
    wanted
        From `wanted_kinds`.
    work
        Folder for finished chunks.
    advance
        Called with the number of kinds done.

    Raises
    ------
    CrossDNAError
        A run without log-likelihood ratios.
    """
    require_ratios(run)
    places = draw_places(surroundings, wanted, settings)
    identity = run.identity() | {
        "places": settings.places,
        "seed": settings.seed,
        "annotated": surroundings.annotation is not None,
        "drawn": hashlib.sha256(repr(places).encode()).hexdigest(),
    }
    store = ChunkStore(work, identity)
    kinds = list(places)

    def payloads() -> Iterator[tuple[int, list[AlleleText]]]:
        for index, kind in enumerate(kinds):
            yield index, list(_changes(surroundings, places[kind]))

    run_chunks(
        run.job, payloads(), store, devices=devices, done=lambda index: advance(1)
    )
    calibration = Calibration(surroundings)
    for index, kind in enumerate(kinds):
        scores = store.load(index)["llr"].reshape(-1, alphabet.NUM_BASES - 1)
        calibration.add(kind, places[kind], scores)
    return calibration


def require_ratios(run: ScoringRun) -> None:
    """Refuse a run without log-likelihood ratios."""
    if "llr" not in run.columns:
        raise CrossDNAError(
            "percentiles are those of llr, which masked models of bases and k-mers "
            f"give if --scores has it; this run has {', '.join(run.columns)}"
        )


def wanted_kinds(run: ScoringRun, surroundings: Surroundings) -> set[Kind]:
    """Kinds of all substitutions of a run's variants."""
    seen: set[Kind] = set()
    for record in run.file.records():
        for allele in allele_texts(run.scan, record):
            place = substituted(allele)
            kind = surroundings.kind(place.place) if place else None
            if kind is not None:
                seen.add(kind)
    return seen


def _changes(
    surroundings: Surroundings, places: Iterable[Place]
) -> Iterator[AlleleText]:
    for place in places:
        end = place.position + 1
        old = surroundings.genome.fetch(place.contig, place.position, end)
        for alt in _others(surroundings, place):
            yield AlleleText(*place, alphabet.decode(old), alt)


def provenance(settings: CalibrationSettings, annotation: Any) -> str:
    """One line on what percentiles are taken among."""
    classes = "annotated classes" if annotation is not None else "repeat or not"
    return f"{settings.places} places of a kind, {classes}, seed {settings.seed}"
