"""``crossdna embed``: vectors of sequences or of their bases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.labelled_options import add_sequence_column
from crossdna.cli.model_options import (
    CHECKPOINT,
    add_chunk_options,
    add_device_option,
    add_execution_options,
    add_strand_option,
    add_trust_option,
    chosen_execution,
)

if TYPE_CHECKING:
    import argparse

    from crossdna.analysis.embedding.embed import Embedding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("input", help="CSV, TSV, Parquet, FASTA, or BED with --genome")
    parser.add_argument("--model", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--output", type=Path, required=True, help=".parquet, .npz or .zarr"
    )
    parser.add_argument("--genome", nargs="+", metavar="FASTA", help="for a BED file")
    add_sequence_column(parser)
    parser.add_argument(
        "--per-base", action="store_true", help="a vector per base, not per sequence"
    )
    parser.add_argument(
        "--pool",
        choices=("mean", "max"),
        default="mean",
        help="over the bases (default: %(default)s)",
    )
    parser.add_argument(
        "--layer",
        type=_layer,
        default=-1,
        help="hidden state to take, 0 for the first, -1 (default) for the last; all: "
        "side by side",
    )
    add_strand_option(parser)
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="also draw a picture: .png, .pdf or .svg",
    )
    parser.add_argument("--color", metavar="COLUMN", help="what to colour it by")
    parser.add_argument(
        "--projection",
        choices=("pca", "umap"),
        default="pca",
        help="how the picture gets two dimensions (default: %(default)s)",
    )
    add_chunk_options(parser, 1024)
    add_device_option(parser)
    add_execution_options(parser)
    add_trust_option(parser)


def _layer(text: str) -> int | str:
    import argparse

    try:
        return text if text == "all" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number or all, not {text!r}") from None


def run(arguments: argparse.Namespace) -> int:
    """Embed in chunks; a killed run goes on where it was."""
    from crossdna.cli.progress import progress
    from crossdna.data.genome import Genome
    from crossdna.data.sequence_tables import digest, read_sequences
    from crossdna.errors import CrossDNAError
    from crossdna.files import refuse_overwriting

    # What is wrong with a table is said before torch is loaded, which takes seconds.
    genome = Genome.open(arguments.genome) if arguments.genome else None
    table = read_sequences(
        arguments.input, sequence_column=arguments.sequence_column, genome=genome
    )
    if arguments.color and arguments.color not in table.columns.columns:
        raise CrossDNAError(
            f"{table.source}: no column {arguments.color!r}; there are "
            f"{', '.join(table.columns.columns)}"
        )
    _check_picture(arguments)
    refuse_overwriting(arguments.input, arguments.output)

    from crossdna.analysis.chunks import worker_devices
    from crossdna.analysis.embedding import embed
    from crossdna.analysis.inference import choose_strand, load_whole
    from crossdna.analysis.provenance import provenance

    output = embed.check_output(arguments.output, table)
    devices = worker_devices(arguments.device, arguments.workers)
    execution = chosen_execution(arguments)
    model = load_whole(
        arguments.model,
        devices[0],
        trust_remote_code=arguments.trust_remote_code,
        # One sequence is not worth compiling for; `job` loads the bare network.
        execution=execution._replace(compiled=False),
    )
    job = embed.EmbedJob(
        model=arguments.model,
        layer=arguments.layer,
        pool="none" if arguments.per_base else arguments.pool,
        strand=choose_strand(model, arguments.strand),
        bases_per_batch=arguments.batch_bases,
        trust_remote_code=arguments.trust_remote_code,
        execution=execution,
    )
    # A layer that does not exist is found out before anything is written.
    embed.embed_sequences(model, table.ids[:1], job)
    facts = provenance(model, arguments.model, strand=job.strand)
    size = arguments.chunk_size
    identity = {
        "model": facts.fingerprint, "input": digest(table), "chunk_size": size,
        "layer": job.layer, "pool": job.pool, "strands": facts.strand_policy,
        "precision": facts.precision,
    }  # fmt: skip
    with progress("embedding", len(table), "sequences") as advance:
        found = embed.run_embedding(
            job,
            table,
            output.with_name(f"{output.name}.work"),
            identity,
            devices=devices,
            chunk_size=size,
            advance=advance,
        )
    notes = {**facts._asdict(), "layer": str(job.layer), "pool": job.pool}
    embed.write_embedding(found, output, notes)
    if arguments.plot:
        _plot(arguments, found)
    count, channels = found.shape
    found.store.remove()
    picture = f"; {arguments.plot}: their picture" if arguments.plot else ""
    print(f"written: {output}: {count} vectors of {channels} channels{picture}")
    return 0


def _check_picture(arguments: argparse.Namespace) -> None:
    """Refuse, before the work, a picture that could not be drawn after it."""
    from crossdna.errors import CrossDNAError

    if not arguments.plot:
        if arguments.color:
            raise CrossDNAError("--color is for a picture; add --plot FILE.png")
        return
    if not arguments.plot.parent.is_dir():
        raise CrossDNAError(f"{arguments.plot}: no folder {arguments.plot.parent}")

    from crossdna.analysis.embedding.plot import require_library
    from crossdna.analysis.plots import FIGURE_KINDS

    require_library(arguments.projection)
    if arguments.plot.suffix.removeprefix(".") not in FIGURE_KINDS:
        kinds = ", ".join(f".{kind}" for kind in FIGURE_KINDS)
        raise CrossDNAError(f"--plot {arguments.plot}: pictures end in {kinds}")


def _plot(arguments: argparse.Namespace, found: Embedding) -> None:
    from crossdna.analysis.embedding.embed import sample_vectors
    from crossdna.analysis.embedding.plot import embedding_plot, project
    from crossdna.analysis.plots import save_figure
    from crossdna.files import atomic_path

    rows, vectors = sample_vectors(found)
    points, names = project(vectors, arguments.projection)
    values = None
    if arguments.color:
        column = found.table.columns[arguments.color]
        values = [str(column[int(row)]) for row in rows]
    figure = embedding_plot(points, names, values, arguments.color or "")
    with atomic_path(arguments.plot) as temporary:
        save_figure(figure, temporary)
