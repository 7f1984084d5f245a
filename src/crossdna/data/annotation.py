"""Region classes of every base, from a GFF3 or GTF file and from lower-case repeats."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from crossdna.data.fasta import open_lines
from crossdna.data.regions import Region, check_region, resolve_contig
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from crossdna.data.genome import Genome

CLASSES: Final = ("intergenic", "other genic", "intron", "repeat", "UTR", "CDS")
INTERGENIC, OTHER_GENIC, INTRON, REPEAT, UTR, CDS = range(len(CLASSES))
REPEAT_CLASSES: Final = ("unique", "repeat")

_CODING: Final = frozenset({"CDS", "stop_codon"})
_UNTRANSLATED: Final = frozenset(
    {"five_prime_UTR", "three_prime_UTR", "five_prime_utr", "three_prime_utr", "UTR"}
    | {"5UTR", "3UTR"}
)
_GENIC: Final = frozenset(
    {"gene", "pseudogene", "ncRNA_gene", "transcript", "primary_transcript", "mRNA"}
    | {"tRNA", "rRNA", "ncRNA", "snRNA", "snoRNA", "miRNA", "tmRNA", "lnc_RNA"}
    | {"antisense_RNA", "telomerase_RNA", "SRP_RNA", "RNase_P_RNA", "RNase_MRP_RNA"}
    | {"pseudogenic_transcript", "transposable_element_gene"}
)
_WANTED: Final = _CODING | _UNTRANSLATED | _GENIC | {"exon"}
_PARENT: Final = re.compile(r"(?:^|;)\s*Parent=([^;]+)")
_TRANSCRIPT_ID: Final = re.compile(r'(?:^|;)\s*transcript_id "([^"]+)"')


class ClassTrack(NamedTuple):
    """The class of every base of a stretch."""

    classes: NDArray[np.uint8]
    """(length,) index into `names`."""
    names: tuple[str, ...]


class _Feature(NamedTuple):
    """What is kept of a line."""

    kind: str
    start: int
    end: int
    parents: tuple[str, ...]


class _Layer(NamedTuple):
    """Stretches of one class."""

    value: int
    spans: NDArray[np.int64]
    """(stretches, 2) 0-based start and end, by start."""
    reach: NDArray[np.int64]
    """(stretches,) how far any of the stretches so far goes."""

    @classmethod
    def of(cls, value: int, spans: Iterable[tuple[int, int]]) -> _Layer:
        """Sort stretches, each once."""
        ordered = np.array(sorted(set(spans)), np.int64).reshape(-1, 2)
        return cls(value, ordered, np.maximum.accumulate(ordered[:, 1]))

    def within(self, start: int, end: int) -> NDArray[np.int64]:
        """Stretches that have bases from `start` to `end`."""
        first = np.searchsorted(self.reach, start, side="right")
        last = np.searchsorted(self.spans[:, 0], end, side="left")
        found = self.spans[first:last]
        return found[found[:, 1] > start]


class _Layers(NamedTuple):
    """What to paint on one contig, lowest priority first."""

    below_repeats: tuple[_Layer, ...]
    above_repeats: tuple[_Layer, ...]


@dataclass(frozen=True)
class Annotation:
    """Genes of a genome; open one with `Annotation.read`."""

    genome: Genome
    foreign_contigs: tuple[str, ...]
    """Contigs that the file annotates and the genome does not have."""
    _layers: dict[str, _Layers] = field(repr=False)

    @classmethod
    def read(cls, path: str | Path, genome: Genome) -> Annotation:
        """Read a GFF3 or GTF file, plain or gzip.

        Raises
        ------
        CrossDNAError
            With file and line: too few columns, positions that are no numbers or beyond
            the contig; or no feature on any contig of the genome.
        """
        path = Path(path)
        features, foreign = _read_features(path, genome.contigs)
        if not features:
            if foreign:
                resolve_contig(foreign[0], genome.contigs, str(path))
            raise CrossDNAError(f"{path}: no genes, exons or CDS in this annotation")
        layers = {contig: _sorted_layers(found) for contig, found in features.items()}
        return cls(genome, foreign, layers)

    def annotates(self, contig: str) -> bool:
        """Whether the file has features on a contig of the genome."""
        return contig in self._layers

    def class_track(
        self, contig: str, start: int = 0, end: int | None = None
    ) -> ClassTrack:
        """Class of every base of a contig, or of its bases `start` to `end`.

        Where several apply, the first of this list holds: CDS; UTR (annotated, or an
        exon of a coding transcript outside its CDS); exon of a non-coding transcript
        (other genic); repeat (lower case); intron (between the exons of one
        transcript); rest of a gene (other genic); intergenic.
        """
        end = self.genome.contigs[self.genome.resolve(contig)] if end is None else end
        repeats = self.genome.fetch_softmask(contig, start, end)
        classes = np.full(end - start, INTERGENIC, np.uint8)
        layers = self._layers.get(contig, _Layers((), ()))
        _paint(classes, layers.below_repeats, start)
        classes[repeats] = REPEAT
        _paint(classes, layers.above_repeats, start)
        return ClassTrack(classes, CLASSES)


def repeat_track(
    genome: Genome, contig: str, start: int = 0, end: int | None = None
) -> ClassTrack:
    """Tell lower-case (repeat) from upper-case (unique) bases; needs no annotation."""
    end = genome.contigs[genome.resolve(contig)] if end is None else end
    repeats = genome.fetch_softmask(contig, start, end)
    return ClassTrack(repeats.view(np.uint8), REPEAT_CLASSES)


def _paint(classes: NDArray[np.uint8], layers: Iterable[_Layer], start: int) -> None:
    for layer in layers:
        found = layer.within(start, start + len(classes)) - start
        for begin, end in found.clip(0).tolist():
            classes[begin:end] = layer.value


def _read_features(
    path: Path, contigs: Mapping[str, int]
) -> tuple[dict[str, list[_Feature]], tuple[str, ...]]:
    """Features by contig, and the contigs that the genome does not have."""
    features: dict[str, list[_Feature]] = {}
    foreign: dict[str, None] = {}
    circular: set[str] = set()
    for number, line in enumerate(open_lines(path), 1):
        if line.startswith("##FASTA"):
            break
        if line.startswith("#") or not line.strip():
            continue
        where = f"{path}:{number}"
        contig, kind, start, end, attributes = _parse(line, where)
        if "Is_circular=true" in attributes:
            circular.add(contig)
        if kind not in _WANTED:
            continue
        if contig not in contigs:
            foreign[contig] = None
            continue
        parts = [_Feature(kind, start, end, _parents(kind, attributes))]
        if end > contigs[contig]:
            if contig in circular:
                parts = _unrolled(parts[0], contigs[contig])
            for part in parts:
                check_region(Region(contig, part.start, part.end), contigs, where)
        features.setdefault(contig, []).extend(parts)
    return features, tuple(foreign)


class _Row(NamedTuple):
    """A line of the file; positions 0-based half-open."""

    contig: str
    kind: str
    start: int
    end: int
    attributes: str


def _parse(line: str, where: str) -> _Row:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) < 9:
        raise CrossDNAError(
            f"{where}: expected the nine tab-separated columns of GFF3 or GTF, "
            f"got {len(fields)}"
        )
    first, last = fields[3:5]
    try:
        start, end = int(first) - 1, int(last)
    except ValueError:
        raise CrossDNAError(
            f"{where}: start {first!r} and end {last!r} must be whole numbers"
        ) from None
    if not 0 <= start < end:
        raise CrossDNAError(
            f"{where}: start {first} and end {last} are no 1-based range"
        )
    return _Row(fields[0], fields[2], start, end, fields[8])


def _parents(kind: str, attributes: str) -> tuple[str, ...]:
    """Transcripts that an exon or a CDS belongs to."""
    if kind != "exon" and kind not in _CODING:
        return ()
    if match := _PARENT.search(attributes):
        return tuple(match[1].split(","))
    match = _TRANSCRIPT_ID.search(attributes)
    return (match[1],) if match else ()


def _unrolled(feature: _Feature, length: int) -> list[_Feature]:
    """Cut a feature that crosses the origin of a circular contig.

    GFF3 counts on beyond the contig's end there. The parts lose their parents: the way
    round the circle between them is no intron.
    """
    kind, start, end, _ = feature
    if not start < length < end:
        return [feature]
    return [_Feature(kind, start, length, ()), _Feature(kind, 0, end - length, ())]


def _sorted_layers(features: list[_Feature]) -> _Layers:
    """Sort the features of one contig into layers, from the lowest priority up."""
    exons: dict[str, list[tuple[int, int]]] = {}
    coding: dict[str, list[tuple[int, int]]] = {}
    spans: dict[str, list[tuple[int, int]]] = {"gene": [], "CDS": [], "UTR": []}
    for kind, start, end, parents in features:
        where = "CDS" if kind in _CODING else "UTR" if kind in _UNTRANSLATED else "gene"
        spans[where].append((start, end))
        if kind == "exon" or kind in _CODING:
            transcripts = exons if kind == "exon" else coding
            for parent in parents:
                transcripts.setdefault(parent, []).append((start, end))
    # Transcripts without exon rows (bacteria, some GTF) are known by their CDS alone.
    introns = [
        gap
        for parent in exons.keys() | coding.keys()
        for gap in _gaps(exons.get(parent) or coding[parent])
    ]
    outer = [span for name in exons.keys() & coding.keys() for span in exons[name]]
    other = [span for name in exons.keys() - coding.keys() for span in exons[name]]
    return _Layers(
        (_Layer.of(OTHER_GENIC, spans["gene"]), _Layer.of(INTRON, introns)),
        (
            _Layer.of(OTHER_GENIC, other),
            _Layer.of(UTR, outer + spans["UTR"]),
            _Layer.of(CDS, spans["CDS"]),
        ),
    )


def _gaps(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches between consecutive spans that do not touch."""
    ordered = sorted(spans)
    return [
        (before[1], after[0])
        for before, after in pairwise(ordered)
        if before[1] < after[0]
    ]
