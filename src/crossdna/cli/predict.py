"""``crossdna predict``: a fine-tuned model's answer beside every row of a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.labelled_options import add_sequence_column
from crossdna.cli.model_options import (
    add_chunk_options,
    add_device_option,
    add_execution_options,
    add_trust_option,
    chosen_execution,
)

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("input", help="CSV, TSV, Parquet, FASTA, or BED with --genome")
    parser.add_argument(
        "--model", required=True, help="directory that crossdna finetune made"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help=".tsv, .csv or .parquet"
    )
    parser.add_argument("--genome", nargs="+", metavar="FASTA", help="for a BED file")
    add_sequence_column(parser)
    add_chunk_options(parser, 2048)
    add_device_option(parser)
    add_execution_options(parser)
    add_trust_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict in chunks; a killed run goes on where it was."""
    import sys

    from crossdna.cli.progress import progress
    from crossdna.data.genome import Genome
    from crossdna.data.sequence_tables import digest, read_sequences
    from crossdna.data.table_files import check_table_path, write_table
    from crossdna.files import refuse_overwriting

    # What is wrong with a table is said before torch is loaded, which takes seconds.
    output = check_table_path(arguments.output)
    refuse_overwriting(arguments.input, output)
    genome = Genome.open(arguments.genome) if arguments.genome else None
    table = read_sequences(
        arguments.input, sequence_column=arguments.sequence_column, genome=genome
    )

    from crossdna.analysis.chunks import ChunkStore, run_chunks, worker_devices
    from crossdna.analysis.provenance import described
    from crossdna.analysis.supervised import finetuned

    devices = worker_devices(arguments.device, arguments.workers)
    trust, execution = arguments.trust_remote_code, chosen_execution(arguments)
    model = finetuned.FinetunedModel.load(
        arguments.model, devices[0], trust_remote_code=trust, execution=execution
    )
    card = model.card
    nothing = finetuned.nothing_scored(card.task, len(model.networks))
    sample = finetuned.prediction_columns(card, nothing)
    finetuned.joined(table.columns.head(0), sample, table.source)
    long = int((table.lengths > card.max_length).sum())
    anchored = model.anchored_length
    others = 0 if anchored is None else int((table.lengths != anchored).sum())
    if others:
        print(
            f"note: {others} of {len(table)} sequences are not {anchored} bases long "
            "as those in training; the head weighs positions, which are other ones in "
            "them, so what it says of them means little",
            file=sys.stderr,
        )
    elif long:
        print(
            f"note: {long} of {len(table)} sequences are longer than the "
            f"{card.max_length} bases of training; they are read in windows of that "
            "length, half a window apart, and what the windows say is averaged",
            file=sys.stderr,
        )
    facts = described(
        model.fingerprint(arguments.model),
        arguments.model,
        strand=card.strand,
        precision=execution.precision,
    )
    size = arguments.chunk_size
    store = ChunkStore(
        output.with_name(f"{output.name}.work"),
        {
            "model": facts.fingerprint,
            "input": digest(table),
            "chunk_size": size,
            "precision": facts.precision,
        },
    )
    starts = range(0, len(table), size)
    chunks = ((n, table.ids[s : s + size]) for n, s in enumerate(starts))
    job = finetuned.PredictJob(arguments.model, arguments.batch_bases, trust, execution)
    with progress("predicting", len(table), "sequences") as advance:
        run_chunks(
            job,
            chunks,
            store,
            devices=devices,
            done=lambda n: advance(min(size, len(table) - n * size)),
        )
    scored = finetuned.unpack_scored([store.load(n) for n in range(len(starts))])
    columns = finetuned.prediction_columns(card, scored)
    result = finetuned.joined(table.columns, columns, table.source)
    write_table(result, output, metadata=facts._asdict())
    store.remove()
    print(f"written: {output}: {len(result)} rows")
    return 0
