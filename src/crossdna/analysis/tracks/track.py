"""Tracks along a genome: predictions at each base, heads, and embeddings by bin.

A CrossDNA that carries its state reads whole contigs (see `stream`);
any other model reads overlapping windows and the middle of each counts. Results go to
a file of rows on the disk first, so that memory does not grow with the contig and a
killed run goes on where it ended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from crossdna import alphabet
from crossdna.analysis.heads import read_head
from crossdna.analysis.inference import (
    asking,
    embedding_size,
    gives_base_probabilities,
)
from crossdna.analysis.tracks.bins import BinFile, averaged
from crossdna.analysis.tracks.rows import RowFile
from crossdna.analysis.tracks.stream import Streamer, can_stream, masked_sequence
from crossdna.analysis.tracks.windows import (
    bin_windows,
    head_windows,
    probability_windows,
    token_windows,
)
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open
from crossdna.models.record import has_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from crossdna.analysis.tracks.bins import Components, Means
    from crossdna.analysis.tracks.settings import TrackSettings
    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region

BASE_TRACKS: Final = {
    "probability": "probability of the reference base, 0 to 1",
    "entropy": "entropy of the prediction, 0 to 2 bits; low = the model is sure",
    "alternative": "log-odds of the best other base against the reference base, "
    "natural logarithm; positive = the model expects another base",
}


class Values(NamedTuple):
    """A stretch of all tracks."""

    start: int
    """0-based position of the first value."""
    end: int
    """Where the last value ends."""
    span: int
    """Bases that each value stands for."""
    tracks: dict[str, NDArray[np.float32]]
    """Name to (values,); NaN where there is none."""


class Reading(NamedTuple):
    """What a model is asked for, and how."""

    kind: str
    """``probability`` or ``per-base``: a value for each base; ``head``: one for each
    window; ``embedding``: one for each bin."""
    streamed: bool
    """Whether regions are read as one sequence, not in windows."""

    @property
    def mode(self) -> str:
        """In a word, for the file that says how tracks were made."""
        if self.kind == "head":
            return "head"
        return "stream" if self.streamed else "windows"


def reading_of(model: Any, settings: TrackSettings) -> Reading:
    """Find out what a model is asked for.

    Raises
    ------
    CrossDNAError
        A model whose bases have no probability of their own.
    """
    if settings.bin:
        return Reading("embedding", can_stream(model))
    if has_head(model):
        return Reading("head", False)
    if type(model).__name__.endswith("ForTokenClassification"):
        return Reading("per-base", can_stream(model))
    if not gives_base_probabilities(model):
        raise CrossDNAError(
            "this model reads byte pairs, so a base has no probability that could "
            "be drawn; crossdna score --scores pll (or ll) compares windows, a "
            "fine-tuned head has tracks, and --embeddings has bins"
        )
    return Reading("probability", can_stream(model))


def track_descriptions(model: Any, settings: TrackSettings) -> dict[str, str]:
    """Names of the tracks a model gives, and what they are.

    Raises
    ------
    CrossDNAError
        A model whose bases have no probability of their own.
    """
    kind = reading_of(model, settings).kind
    if kind == "probability":
        return dict(BASE_TRACKS)
    if kind == "embedding":
        return {
            f"component_{number}": f"principal component {number} of the mean "
            f"embeddings of bins of {settings.bin} bases"
            for number in range(1, settings.components + 1)
        }
    head = read_head(model)
    return {
        f"head_{label}" if label else "head": head.meaning(label)
        for label in head.labels
    }


def total_steps(model: Any, region: Region, settings: TrackSettings) -> int:
    """How many bases `compute` will report for a region."""
    reading = reading_of(model, settings)
    if not reading.streamed:
        return len(region)
    strands = len(_strands(model, settings))
    return len(region) * strands * _passes(reading, settings)


def _passes(reading: Reading, settings: TrackSettings) -> int:
    return max(1, settings.mask_spacing) if reading.kind == "probability" else 1


def compute(
    model: Any,
    genome: Genome,
    region: Region,
    settings: TrackSettings,
    folder: Path,
    advance: Callable[[int], None] = lambda bases: None,
) -> None:
    """Read a region and leave the results in `folder`; goes on where it ended.

    The region is read by itself: nothing around it is seen.

    Parameters
    ----------
    advance
        Called with the number of bases done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reading = reading_of(model, settings)
    if not reading.streamed:
        _compute_windows(model, genome, region, settings, folder, advance)
        return
    # A bin lies in two pieces at most.
    streamer = Streamer(model, max(settings.piece, settings.bin), folder)
    for strand in _strands(model, settings):
        taker = _Taker(model, genome, region, settings, folder, strand)
        for rest in range(_passes(reading, settings)):
            spacing = settings.mask_spacing if reading.kind == "probability" else 0
            sequence, wanted = masked_sequence(
                taker.fetch, len(region), spacing=spacing, rest=rest
            )
            done = 0
            for start, hidden, keep in streamer.read(sequence, f"{strand}-{rest}"):
                advance(start - done)
                done = start + hidden.shape[1]
                taker.take(start, hidden[0], wanted(start, done))
                keep()
                advance(hidden.shape[1])
            advance(len(region) - done)


class _Taker:
    """Turns the representation of a piece of one strand into rows on the disk."""

    def __init__(
        self,
        model: Any,
        genome: Genome,
        region: Region,
        settings: TrackSettings,
        folder: Path,
        strand: int,
    ) -> None:
        self.model, self.length, self.strand = model, len(region), strand
        self.kind = reading_of(model, settings).kind
        self.fetch = _fetch(genome, region, mirrored=bool(strand))
        if self.kind == "embedding":
            self.bins = _bin_file(model, region, settings, folder, strand)
        else:
            self.rows = _row_file(model, region, settings, folder, strand)

    def take(self, start: int, hidden: Tensor, chosen: NDArray[np.bool_]) -> None:
        """Take bases (length, d_model) from `start` on, in the strand's order.

        `chosen` are those that count; a base's other rows are left as they are.
        """
        end = start + len(hidden)
        if self.kind == "embedding":
            vectors = hidden.float().cpu().numpy()
            if self.strand:
                vectors, chosen = vectors[::-1], chosen[::-1]
                start = self.length - end
            self.bins.add(start, vectors, chosen)
            return
        part = self.rows.read(start, end)
        if self.kind == "per-base":
            part[~chosen] = np.nan
        with asking(self.model):
            where = torch.from_numpy(chosen).to(hidden.device)
            logits = self.model.head(hidden[where]).float()
            if self.kind == "probability":
                logits = logits[:, : alphabet.NUM_BASES].softmax(-1)
            part[chosen] = logits.cpu().numpy()
        self.rows.write(start, part)


def _fetch(genome: Genome, region: Region, mirrored: bool = False) -> Any:
    def ahead(start: int, end: int) -> NDArray[np.uint8]:
        return genome.fetch(region.contig, region.start + start, region.start + end)

    def back(start: int, end: int) -> NDArray[np.uint8]:
        length = len(region)
        return alphabet.reverse_complement(ahead(length - end, length - start))

    return back if mirrored else ahead


def _compute_windows(
    model: Any,
    genome: Genome,
    region: Region,
    settings: TrackSettings,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    """Work through units of a region; each gives rows of the result file."""
    kind = reading_of(model, settings).kind
    unit = {
        "probability": probability_windows,
        "per-base": token_windows,
        "head": head_windows,
        "embedding": bin_windows,
    }[kind]
    fetch = _fetch(genome, region)
    bins = rows = None
    if kind == "embedding":
        bins = _bin_file(model, region, settings, folder, 0)
    else:
        rows = _row_file(model, region, settings, folder, 0)
    place = folder / "place.json"
    number, done = json.loads(place.read_text()) if place.exists() else (0, 0)
    advance(done)
    while done < len(region):
        found = unit(model, fetch, len(region), settings, number)
        if bins is not None:
            known = fetch(found.start, found.done) < alphabet.NUM_BASES
            bins.add(found.start, found.values, known)
        elif rows is not None:
            rows.write(found.start, found.values)
        number += 1
        with atomic_open(place) as handle:
            json.dump((number, found.done), handle)
        advance(found.done - done)
        done = found.done


def _row_file(
    model: Any, region: Region, settings: TrackSettings, folder: Path, strand: int
) -> RowFile:
    kind = reading_of(model, settings).kind
    count = -(-len(region) // settings.step) if kind == "head" else len(region)
    width = alphabet.NUM_BASES if kind == "probability" else model.config.num_labels
    return RowFile(folder / f"strand-{strand}.rows", count, width)


def _bin_file(
    model: Any, region: Region, settings: TrackSettings, folder: Path, strand: int
) -> BinFile:
    path = folder / f"strand-{strand}.bins"
    width = embedding_size(model.config)
    return BinFile(path, len(region), settings.bin, width)


def _strands(model: Any, settings: TrackSettings) -> tuple[int, ...]:
    """Strands with a file each: 0 forward, 1 reverse.

    Windows are turned, and averaged, as they are read.
    """
    if not reading_of(model, settings).streamed:
        return (0,)
    return {"+": (0,), "-": (1,), "both": (0, 1)}[settings.strand]


def read_bins(
    model: Any, region: Region, settings: TrackSettings, folder: Path
) -> Iterator[Means]:
    """Read the bins of a region that `compute` has finished, from left to right."""
    return averaged(
        [
            _bin_file(model, region, settings, folder, strand)
            for strand in _strands(model, settings)
        ]
    )


def component_values(
    parts: Iterator[Means], components: Components, region: Region, size: int
) -> Iterator[Values]:
    """Tracks of principal components from the bins of a region."""
    for part in parts:
        start = region.start + part.first * size
        end = min(start + size * len(part.bases), region.end)
        columns = components.project(part.vectors).T
        tracks = {f"component_{i}": column for i, column in enumerate(columns, 1)}
        yield Values(start, end, size, tracks)


def read_values(
    model: Any,
    genome: Genome,
    region: Region,
    settings: TrackSettings,
    folder: Path,
) -> Iterator[Values]:
    """Read the tracks of a region that `compute` has finished, from left to right.

    Bins have `read_bins` and `component_values`.
    """
    kind = reading_of(model, settings).kind
    names, head = list(track_descriptions(model, settings)), read_head(model)
    span = settings.step if kind == "head" else 1
    files = {
        strand: _row_file(model, region, settings, folder, strand)
        for strand in _strands(model, settings)
    }
    count = -(-len(region) // span)
    fetch = _fetch(genome, region)
    for start in range(0, count, settings.piece):
        end = min(start + settings.piece, count)
        found = []
        for strand, rows in files.items():
            if not strand:
                found.append(rows.read(start, end))
                continue
            other = rows.read(count - end, count - start)[::-1]
            # The complement of A C G T is their order turned round; labels stay.
            found.append(other[:, ::-1] if kind == "probability" else other)
        mean = np.mean(found, axis=0)
        if kind == "probability":
            tracks = base_tracks(mean, fetch(start, end))
        else:
            said = head.outputs(torch.from_numpy(mean))
            tracks = dict(zip(names, said.T.numpy(), strict=True))
        position = region.start + start * span
        stop = min(position + len(mean) * span, region.end)
        yield Values(position, stop, span, tracks)


def base_tracks(
    probabilities: NDArray[np.float32], ids: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    """Tracks (length,) from probabilities (length, 4) and bases; NaN at N."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(probabilities)
        entropy = -(probabilities * logs).sum(1) / np.float32(np.log(2))
        known = ids < alphabet.NUM_BASES
        at = np.arange(len(ids)), np.where(known, ids, 0)
        own = logs[at]
        others = logs.copy()
        others[at] = -np.inf
        best = others.max(1)
        tracks = {
            "probability": np.exp(own),
            "entropy": entropy,
            "alternative": best - own,
        }
    return {name: np.where(known, values, np.nan) for name, values in tracks.items()}
