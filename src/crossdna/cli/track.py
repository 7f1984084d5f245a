"""``crossdna track``: what a model says along chromosomes, for genome browsers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.model_options import (
    CHECKPOINT,
    add_device_option,
    add_execution_options,
    add_strand_option,
    add_trust_option,
    chosen_window,
    load_chosen,
)
from crossdna.cli.numbers import at_least, count

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Any

    from transformers import PreTrainedModel

    from crossdna.analysis.inference import Task
    from crossdna.analysis.tracks.settings import TrackSettings
    from crossdna.analysis.tracks.track import Values
    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region
    from crossdna.data.tracks import PeakFinder

FORMATS = ("bw", "bedGraph", "bedGraph.gz")
FILE_SUFFIXES = {".bw", ".bigwig", ".bigWig", ".bedGraph", ".bedgraph", ".bed", ".gz"}
WORK = "tracks.work"
"""In the output directory while a run is unfinished."""
DESCRIPTION = "tracks.json"
"""How the tracks in the output directory were made."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    _add_input(parser)
    _add_output(parser.add_argument_group("what is written"))
    _add_reading(parser.add_argument_group("how the genome is read"))
    add_execution_options(parser)
    add_trust_option(parser)


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--genome", type=Path, nargs="+", required=True, help="FASTA, plain or gzip"
    )
    parser.add_argument(
        "--region",
        nargs="+",
        default=[],
        metavar="CHR:FROM-TO",
        help="1-based and inclusive, or a contig; default: everything",
    )
    parser.add_argument("--regions", type=Path, metavar="BED", help="0-based")
    parser.add_argument("--output", type=Path, required=True, help="directory to fill")


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--format",
        choices=FORMATS,
        default="bw",
        help="(%(default)s)",
    )
    group.add_argument(
        "--zooms",
        type=at_least(0),
        default=10,
        help="summary levels in a bigWig; 0: none, and memory that does not grow with "
        "the contig while the file is closed (%(default)s)",
    )
    group.add_argument(
        "--peaks",
        nargs="+",
        default=[],
        metavar="TRACK:THRESHOLD",
        help="also write where a track is at or above a threshold, as BED",
    )
    group.add_argument(
        "--peak-length", type=count, default=1, help="shortest peak (%(default)s)"
    )
    group.add_argument(
        "--embeddings",
        type=at_least(0),
        default=0,
        metavar="BASES",
        help="mean embeddings of bins of so many bases (embeddings.parquet), and their "
        "principal components as tracks, instead of predictions (default: predictions)",
    )
    group.add_argument(
        "--components",
        type=count,
        default=3,
        help="principal components for --embeddings (%(default)s)",
    )
    group.add_argument(
        "--browser",
        action="store_true",
        help="also write browser.html: a genome browser with the tracks, in one file",
    )
    group.add_argument(
        "--annotation",
        type=Path,
        help="GFF3, GTF or BED to be shown by --browser",
    )


def _add_reading(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--mask-spacing",
        type=at_least(0),
        default=8,
        help="predict each base while one in so many is hidden, in as many passes; "
        "0: one pass, nothing hidden (%(default)s)",
    )
    group.add_argument(
        "--window",
        type=count,
        help="bases in a window, for a head or a model that cannot be streamed (1024, "
        "or the length that the head was trained on; no more than the model reads at "
        "once)",
    )
    group.add_argument(
        "--step",
        type=count,
        default=128,
        help="bases between a head's windows (%(default)s)",
    )
    group.add_argument(
        "--piece", type=count, default=65536, help="bases read at once (%(default)s)"
    )
    add_strand_option(group, default="+")
    group.add_argument(
        "--batch-size", type=count, default=16, help="windows at a time (%(default)s)"
    )
    add_device_option(group)


def run(arguments: argparse.Namespace) -> int:
    """Compute, going on where a killed run ended; write the tracks and peaks."""
    from crossdna.analysis.chunks import ChunkStore
    from crossdna.analysis.tracks.browser import require_browsable
    from crossdna.analysis.tracks.track import (
        compute,
        total_steps,
        track_descriptions,
    )
    from crossdna.cli.progress import progress
    from crossdna.data.genome import Genome
    from crossdna.errors import CrossDNAError
    from crossdna.files import create_directory

    if arguments.output.suffix in FILE_SUFFIXES:
        raise CrossDNAError(
            f"--output {arguments.output} looks like a file, but several tracks are "
            "written: give a directory, and the kind of files with --format"
        )
    genome = Genome.open(arguments.genome)
    regions = _regions(arguments, genome)
    if arguments.browser:
        require_browsable(regions, arguments.annotation)
    elif arguments.annotation:
        raise CrossDNAError("--annotation is shown by --browser; add it")
    model = load_chosen(arguments, _task(arguments))
    settings = _settings(arguments, model)
    descriptions = track_descriptions(model, settings)
    finders = _finders(arguments, descriptions)
    create_directory(arguments.output)
    how = _provenance(arguments, model, genome, settings, regions, descriptions)
    # The command may be spelled otherwise when the run goes on.
    identity = {key: value for key, value in how.items() if key != "command"}
    _refuse_others(arguments.output, identity)
    store = ChunkStore(arguments.output / WORK, identity)
    total = sum(total_steps(model, region, settings) for region in regions)
    with progress("reading", total, "bases") as advance:
        for number, region in enumerate(regions):
            folder = store.folder / f"region-{number}"
            compute(model, genome, region, settings, folder, advance)
    _write(arguments, model, genome, regions, settings, finders, how)
    store.remove()
    print(f"written to {arguments.output}: {', '.join(descriptions)}")
    return 0


def _task(arguments: argparse.Namespace) -> Task:
    """What the model is loaded for."""
    from crossdna.models.opening import Opened

    opened = Opened(arguments.model, trust_remote_code=arguments.trust_remote_code)
    return opened.whole if arguments.embeddings else opened.task


def _settings(arguments: argparse.Namespace, model: PreTrainedModel) -> TrackSettings:
    from crossdna.analysis.inference import choose_strand
    from crossdna.analysis.tracks.settings import TrackSettings

    return TrackSettings(
        mask_spacing=arguments.mask_spacing,
        window=chosen_window(arguments, model),
        step=arguments.step,
        piece=arguments.piece,
        strand=choose_strand(model, arguments.strand),
        batch_size=arguments.batch_size,
        bin=arguments.embeddings,
        components=arguments.components,
    )


def _regions(arguments: argparse.Namespace, genome: Genome) -> list[Region]:
    """Merged, in the order of the genome's contigs, as tracks must be written."""
    from crossdna.data.regions import merge, parse_region, read_bed, whole_contigs

    regions = [parse_region(text, genome.contigs) for text in arguments.region]
    if arguments.regions:
        regions += read_bed(arguments.regions, genome.contigs)
    order = {contig: number for number, contig in enumerate(genome.contigs)}
    merged = merge(regions or whole_contigs(genome.contigs))
    return sorted(merged, key=lambda r: (order[r.contig], r.start))


def _finders(
    arguments: argparse.Namespace, tracks: dict[str, str]
) -> dict[str, PeakFinder]:
    import math

    from crossdna.data.tracks import PeakFinder
    from crossdna.errors import CrossDNAError

    finders = {}
    for text in arguments.peaks:
        name, _, threshold = text.rpartition(":")
        if name not in tracks:
            raise CrossDNAError(
                f"--peaks {text}: write TRACK:THRESHOLD with a track of "
                f"{', '.join(tracks)}"
            )
        if name in finders:
            raise CrossDNAError(f"--peaks {text}: {name} has a threshold already")
        try:
            height = float(threshold)
        except ValueError:
            height = math.nan
        if not math.isfinite(height):
            raise CrossDNAError(f"--peaks {text}: {threshold!r} is not a number")
        finders[name] = PeakFinder(height, arguments.peak_length)
    return finders


def _provenance(
    arguments: argparse.Namespace,
    model: Any,
    genome: Genome,
    settings: TrackSettings,
    regions: list[Region],
    descriptions: dict[str, str],
) -> dict[str, Any]:
    """How the tracks are made."""
    from dataclasses import asdict

    from crossdna.analysis.provenance import provenance
    from crossdna.analysis.tracks.track import reading_of

    made_by = provenance(model, arguments.model, strand=settings.strand)
    return {
        **made_by._asdict(),
        "genome": genome.fingerprint,
        "regions": [str(region) for region in regions],
        "reading": reading_of(model, settings).mode,
        **asdict(settings),
        "tracks": descriptions,
    }


def _refuse_others(output: Path, identity: dict[str, Any]) -> None:
    """Refuse a directory with finished tracks that were made in another way.

    Some of them would stay there, beside ours and our file that says how.
    """
    import json

    from crossdna.errors import CrossDNAError

    path = output / DESCRIPTION
    if not path.is_file():
        return
    before, now = json.loads(path.read_text()), json.loads(json.dumps(identity))
    for key, value in now.items():
        if before.get(key) != value:
            raise CrossDNAError(
                f"{output} holds tracks made with another {key} ({before.get(key)!r}, "
                f"now {value!r}); choose another directory, or remove it"
            )


def _write(
    arguments: argparse.Namespace,
    model: Any,
    genome: Genome,
    regions: list[Region],
    settings: TrackSettings,
    finders: dict[str, PeakFinder],
    how: dict[str, Any],
) -> None:
    import contextlib
    import json

    from crossdna.analysis.tracks.track import read_values
    from crossdna.data.tracks import open_track, write_peaks
    from crossdna.files import atomic_open

    output: Path = arguments.output

    def values() -> Iterator[tuple[Region, Values]]:
        for number, region in enumerate(regions):
            folder = output / WORK / f"region-{number}"
            for part in read_values(model, genome, region, settings, folder):
                yield region, part

    if settings.bin:
        values = _write_embeddings(output, model, regions, settings, how)
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                open_track(
                    output / f"{name}.{arguments.format}",
                    genome.contigs,
                    zooms=arguments.zooms,
                )
            )
            for name in how["tracks"]
        }
        for region, part in values():
            for name, track in part.tracks.items():
                takers = [writers[name], finders.get(name)]
                for taker in filter(None, takers):
                    taker.add(region.contig, part.start, part.end, track, part.span)
    for name, finder in finders.items():
        comment = f"{name} >= {finder.threshold:g} over at least {finder.minimum} bases"
        peaks = finder.finish()
        write_peaks(output / f"{name}.peaks.bed", peaks, comment)
    if arguments.browser:
        _write_page(arguments, genome, regions, values(), how)
    with atomic_open(output / DESCRIPTION) as handle:
        json.dump(how, handle, indent=2)


def _write_embeddings(
    output: Path,
    model: Any,
    regions: list[Region],
    settings: TrackSettings,
    how: dict[str, Any],
) -> Callable[[], Iterator[tuple[Region, Values]]]:
    """Write embeddings.parquet; gives what reads the components' tracks."""
    from crossdna.analysis.tracks.bins import Means, principal_components, write_bins
    from crossdna.analysis.tracks.track import component_values, read_bins

    def bins() -> Iterator[tuple[Region, Iterator[Means]]]:
        for number, region in enumerate(regions):
            folder = output / WORK / f"region-{number}"
            yield region, read_bins(model, region, settings, folder)

    components = principal_components(
        (part for _, parts in bins() for part in parts), settings.components
    )
    how["variance_explained"] = components.shares.tolist()
    write_bins(output / "embeddings.parquet", bins(), settings.bin, how)

    def values() -> Iterator[tuple[Region, Values]]:
        for region, parts in bins():
            for part in component_values(parts, components, region, settings.bin):
                yield region, part

    return values


def _write_page(
    arguments: argparse.Namespace,
    genome: Genome,
    regions: list[Region],
    parts: Iterator[tuple[Region, Values]],
    how: dict[str, Any],
) -> None:
    from crossdna.analysis.tracks.browser import browser_page
    from crossdna.files import atomic_open

    page = browser_page(
        genome,
        parts,
        title=f"{Path(arguments.model).name} along {regions[0].contig}",
        annotation=arguments.annotation,
        provenance=how,
    )
    with atomic_open(arguments.output / "browser.html") as handle:
        handle.write(page)
