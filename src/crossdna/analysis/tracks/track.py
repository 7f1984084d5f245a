"""Tracks along a genome: what a model expects at each base, or a head in windows.

A CrossDNA that carries its state reads whole contigs (see `stream`);
any other model reads overlapping windows and the middle of each counts. Results go to
a file of rows on the disk first, so that memory does not grow with the contig and a
killed run goes on where it ended.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from crossdna import alphabet
from crossdna.analysis.inference import (
    asking,
    base_log_probabilities,
    gives_base_probabilities,
    hiding_unit,
    is_causal,
    sequence_logits,
)
from crossdna.analysis.tracks.stream import Streamer, can_stream, masked_sequence
from crossdna.analysis.variants.score import has_head, head_labels
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region

BASE_TRACKS: Final = {
    "probability": "probability of the reference base, 0 to 1",
    "entropy": "entropy of the prediction, 0 to 2 bits; low = the model is sure",
    "alternative": "log-odds of the best other base against the reference base, "
    "natural logarithm; positive = the model expects another base",
}
_WINDOWS_TOGETHER: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackSettings:
    """How a genome is read."""

    mask_spacing: int = 8
    """Every base is predicted while it and every so-manieth other is hidden, in as many
    passes; 0 hides nothing and takes one pass."""
    window: int = 1024
    """Bases in a window, for a head and for models that are not streamed."""
    step: int = 128
    """Bases from one window of a head to the next."""
    piece: int = 65536
    """Bases read at once from a stream; changes memory, not results."""
    strand_average: bool = False
    """Average the predictions from both strands."""
    batch_size: int = 16
    """Windows per forward pass."""

    def __post_init__(self) -> None:
        for name in ("window", "step", "piece", "batch_size"):
            if getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.mask_spacing < 0 or self.mask_spacing == 1:
            raise CrossDNAError(
                f"mask_spacing must be 0 or at least 2, got {self.mask_spacing}"
            )


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


def track_descriptions(model: Any) -> dict[str, str]:
    """Names of the tracks a model gives, and what they are.

    Raises
    ------
    CrossDNAError
        A model whose bases have no probability of their own.
    """
    if not has_head(model):
        if not gives_base_probabilities(model):
            raise CrossDNAError(
                "this model reads byte pairs, so a base has no probability that could "
                "be drawn; crossdna score --scores pll (or ll) compares windows, and a "
                "fine-tuned head has tracks"
            )
        return dict(BASE_TRACKS)
    return {
        f"head_{label}" if label else "head": "logit of the head"
        + (f" for {label}" if label else "")
        for label in head_labels(model)
    }


def reading_mode(model: Any) -> str:
    """``head``, ``stream`` or ``windows``."""
    if has_head(model):
        return "head"
    return "stream" if can_stream(model) else "windows"


def total_steps(model: Any, region: Region, settings: TrackSettings) -> int:
    """How many bases `compute` will report for a region."""
    if has_head(model):
        return len(region)
    strands = 1 + (settings.strand_average and can_stream(model))
    passes = max(1, settings.mask_spacing) if can_stream(model) else 1
    return len(region) * strands * passes


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
    mode = reading_mode(model)
    if mode == "stream":
        _compute_stream(model, genome, region, settings, folder, advance)
    else:
        unit = _head_windows if mode == "head" else _probability_windows
        _compute_windows(model, genome, region, settings, folder, advance, unit)


def _fetch(genome: Genome, region: Region, mirrored: bool = False) -> Any:
    def ahead(start: int, end: int) -> NDArray[np.uint8]:
        return genome.fetch(region.contig, region.start + start, region.start + end)

    def back(start: int, end: int) -> NDArray[np.uint8]:
        length = len(region)
        return alphabet.reverse_complement(ahead(length - end, length - start))

    return back if mirrored else ahead


def _compute_stream(
    model: Any,
    genome: Genome,
    region: Region,
    settings: TrackSettings,
    folder: Path,
    advance: Callable[[int], None],
) -> None:
    streamer = Streamer(model, settings.piece, folder)
    for strand in range(1 + settings.strand_average):
        fetch = _fetch(genome, region, mirrored=bool(strand))
        rows = RowFile(folder / f"strand-{strand}.rows", len(region), 4)
        for rest in range(max(1, settings.mask_spacing)):
            sequence, wanted = masked_sequence(
                fetch, len(region), spacing=settings.mask_spacing, rest=rest
            )
            done = 0
            for start, hidden, keep in streamer.read(sequence, f"{strand}-{rest}"):
                advance(start - done)
                done = start + hidden.shape[1]
                chosen = wanted(start, done)
                with asking(model):
                    where = torch.from_numpy(chosen).to(hidden.device)
                    logits = model.head(hidden[0, where])[:, : alphabet.NUM_BASES]
                    values = logits.float().softmax(-1).cpu().numpy()
                part = rows.read(start, done)
                part[chosen] = values
                rows.write(start, part)
                keep()
                advance(hidden.shape[1])
            advance(len(region) - done)


def _compute_windows(
    model: Any,
    genome: Genome,
    region: Region,
    settings: TrackSettings,
    folder: Path,
    advance: Callable[[int], None],
    unit: Callable[..., tuple[int, int, NDArray[np.float32]]],
) -> None:
    """Work through units of a region; each gives rows of the result file."""
    fetch = _fetch(genome, region)
    width = model.config.num_labels if has_head(model) else alphabet.NUM_BASES
    rows = RowFile(folder / "strand-0.rows", _row_count(model, region, settings), width)
    place = folder / "place.json"
    number, done = json.loads(place.read_text()) if place.exists() else (0, 0)
    advance(done)
    while done < len(region):
        start, behind, values = unit(model, fetch, len(region), settings, number)
        rows.write(start, values)
        number += 1
        with atomic_open(place) as handle:
            json.dump((number, behind), handle)
        advance(behind - done)
        done = behind


def _row_count(model: Any, region: Region, settings: TrackSettings) -> int:
    return -(-len(region) // settings.step) if has_head(model) else len(region)


def _probability_windows(
    model: Any, fetch: Any, length: int, settings: TrackSettings, number: int
) -> tuple[int, int, NDArray[np.float32]]:
    """Predict the bases of one stretch from windows with a quarter around as flanks.

    Bases that share their tokens with k others are hidden k times as far apart. For a
    causal model nothing is hidden: it does not see the base that it predicts.
    """
    window = min(settings.window, length)
    step = max(1, settings.window // 2)
    begin = number * step
    behind = min(begin + step, length)
    start = min(max(0, begin - (settings.window - step) // 2), length - window)
    ids = fetch(start, start + window).astype(np.int64)
    loci = np.arange(start, start + window)
    spacing = 0 if is_causal(model) else settings.mask_spacing * hiding_unit(model)
    passes = np.arange(max(1, spacing))
    bases = ids < alphabet.NUM_BASES
    hidden = bases & (loci % max(1, spacing) == passes[:, None])
    copies = np.where(hidden, alphabet.MASK, ids) if spacing else ids[None]
    logs = [
        base_log_probabilities(
            model,
            torch.from_numpy(copies[row : row + settings.batch_size]).to(model.device),
            strand_average=settings.strand_average,
        )
        for row in range(0, len(copies), settings.batch_size)
    ]
    probabilities = torch.cat(logs).exp().cpu().numpy()
    chosen = np.arange(begin - start, behind - start)
    rows = loci[chosen] % max(1, spacing)
    values = probabilities[rows, chosen].astype(np.float32)
    values[~bases[chosen]] = np.nan
    return begin, behind, values


def _head_windows(
    model: Any, fetch: Any, length: int, settings: TrackSettings, number: int
) -> tuple[int, int, NDArray[np.float32]]:
    """Ask a head about a run of windows, each centred on the bases it stands for."""
    window = min(settings.window, length)
    first = number * _WINDOWS_TOGETHER
    count = min(_WINDOWS_TOGETHER, -(-length // settings.step) - first)
    middles = (first + np.arange(count)) * settings.step + settings.step // 2
    starts = np.clip(middles - window // 2, 0, length - window)
    low = int(starts[0])
    stretch = fetch(low, int(starts[-1]) + window)
    ids = np.stack([stretch[start - low :][:window] for start in starts])
    logits = [
        sequence_logits(
            model,
            torch.from_numpy(ids[row : row + settings.batch_size].astype(np.int64)).to(
                model.device
            ),
            strand_average=settings.strand_average,
        )
        for row in range(0, count, settings.batch_size)
    ]
    values = torch.cat(logits).cpu().numpy().astype(np.float32)
    # A window of gaps says nothing.
    values[(ids >= alphabet.NUM_BASES).mean(1) > 0.5] = np.nan
    return first, min((first + count) * settings.step, length), values


def read_values(
    model: Any,
    genome: Genome,
    region: Region,
    settings: TrackSettings,
    folder: Path,
) -> Iterator[Values]:
    """Read the tracks of a region that `compute` has finished, from left to right."""
    count = _row_count(model, region, settings)
    names = list(track_descriptions(model))
    if has_head(model):
        rows = RowFile(folder / "strand-0.rows", count, len(names))
        for start in range(0, count, settings.piece):
            values = rows.read(start, min(start + settings.piece, count))
            tracks = dict(zip(names, values.T, strict=True))
            position = region.start + start * settings.step
            end = min(position + len(values) * settings.step, region.end)
            yield Values(position, end, settings.step, tracks)
        return
    files = [
        RowFile(folder / f"strand-{strand}.rows", count, alphabet.NUM_BASES)
        for strand in range(1 + (settings.strand_average and can_stream(model)))
    ]
    fetch = _fetch(genome, region)
    for start in range(0, count, settings.piece):
        end = min(start + settings.piece, count)
        mean = files[0].read(start, end)
        if len(files) == 2:
            other = files[1].read(count - end, count - start)
            mean = (mean + other[::-1, ::-1]) / np.float32(2)
        tracks = base_tracks(mean, fetch(start, end))
        yield Values(region.start + start, region.start + end, 1, tracks)


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


class RowFile:
    """Rows of float32 on the disk, read and written by number.

    Parameters
    ----------
    path
        Created when missing.
    count, columns
        Shape of the whole.
    """

    def __init__(self, path: Path, count: int, columns: int) -> None:
        self.path, self.columns = path, columns
        if not path.exists():
            with path.open("wb") as handle:
                handle.truncate(4 * count * columns)

    def read(self, start: int, end: int) -> NDArray[np.float32]:
        """Rows (end - start, columns)."""
        values = np.fromfile(
            self.path,
            np.float32,
            count=(end - start) * self.columns,
            offset=4 * start * self.columns,
        )
        return values.reshape(-1, self.columns)

    def write(self, start: int, values: NDArray[np.float32]) -> None:
        """Put rows at `start`, on the disk when this returns."""
        with self.path.open("r+b") as handle:
            handle.seek(4 * start * self.columns)
            handle.write(np.ascontiguousarray(values, np.float32).tobytes())
            handle.flush()
            os.fsync(handle.fileno())
