"""``crossdna generate``: new sequences from a language model, under constraints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.numbers import at_least, count, seed

if TYPE_CHECKING:
    import argparse

    from crossdna.analysis.generation.generate import GenerateSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    from crossdna.cli.model_options import (
        CHECKPOINT,
        add_device_option,
        add_execution_options,
        add_trust_option,
    )

    parser.add_argument("--model", required=True, help=CHECKPOINT)
    parser.add_argument(
        "--output", type=Path, required=True, help="FASTA; a .parquet is put beside it"
    )
    parser.add_argument(
        "--number", type=count, default=10, help="sequences (%(default)s)"
    )
    _add_constraints(parser.add_argument_group("what sequences must be like"))
    _add_sampling(parser.add_argument_group("how the model is asked"))
    parser.add_argument("--seed", type=seed, default=0, help="(%(default)s)")
    parser.add_argument(
        "--batch-size", type=count, default=16, help="sequences at a time (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=count, default=1, help="processes (%(default)s)"
    )
    add_device_option(parser)
    add_execution_options(parser)
    add_trust_option(parser)


def _add_constraints(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--length", type=count, help="bases of each")
    group.add_argument(
        "--prompt",
        default="",
        metavar="BASES",
        help="what every sequence begins with (default: nothing)",
    )
    group.add_argument(
        "--template",
        metavar="BASES",
        help="instead of --length and --prompt: IUPAC letters, N where the model is "
        "free, or a FASTA file with one such sequence",
    )
    group.add_argument(
        "--gc",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="share of G and C, such as 0.4 0.6",
    )
    group.add_argument(
        "--contain",
        nargs="+",
        default=[],
        metavar="MOTIF",
        help="IUPAC motifs that every sequence has, on either strand",
    )
    group.add_argument(
        "--avoid",
        nargs="+",
        default=[],
        metavar="MOTIF",
        help="IUPAC motifs that no sequence has, on either strand",
    )


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--temperature", type=float, default=1.0, help="(%(default)s)")
    group.add_argument(
        "--top-k",
        type=at_least(0),
        default=0,
        help="only so many most probable choices; 0 (default): all",
    )
    group.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help="only the most probable choices that have this probability together "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--strand",
        choices=("+", "-", "both"),
        default="both",
        help="what the model reads; both: a masked model averages, a causal one takes "
        "them in turn (%(default)s)",
    )
    group.add_argument(
        "--rounds",
        type=count,
        default=64,
        help="masked models: so many times asked until all is filled (%(default)s)",
    )
    group.add_argument(
        "--sweeps",
        type=at_least(0),
        default=0,
        help="masked models: draw every base again so many times (%(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Generate and write."""
    from crossdna.analysis.chunks import worker_devices
    from crossdna.analysis.generation.constraints import Plan
    from crossdna.analysis.generation.generate import (
        GenerateJob,
        run_generation,
        unfinished,
        write_generated,
    )
    from crossdna.analysis.inference import load_model
    from crossdna.analysis.provenance import described
    from crossdna.cli.model_options import chosen_execution, language_task
    from crossdna.cli.progress import progress
    from crossdna.errors import CrossDNAError
    from crossdna.files import refuse_overwriting
    from crossdna.models.fingerprint import fingerprint

    output: Path = arguments.output
    if output.suffix not in (".fa", ".fasta", ".fna"):
        raise CrossDNAError(f"{output}: sequences are written to .fa, .fasta or .fna")
    if arguments.batch_size < 1:
        raise CrossDNAError(f"--batch-size must be at least 1: {arguments.batch_size}")
    if arguments.template is not None and Path(arguments.template).is_file():
        refuse_overwriting(arguments.template, output)
    settings = _settings(arguments)
    Plan(settings.constraints).require_possible()
    devices = worker_devices(arguments.device, arguments.workers)
    trust = arguments.trust_remote_code
    task = language_task(arguments, "generates")
    execution = chosen_execution(arguments)
    # Only its fingerprint is wanted; `job` loads its own where it computes.
    model = load_model(arguments.model, task, "cpu", trust_remote_code=trust)
    made_by = described(
        str(fingerprint(model, arguments.model)),
        arguments.model,
        strand=arguments.strand,
        precision=execution.precision,
    )
    job = GenerateJob(arguments.model, task, settings, trust, execution)
    identity = {
        "version": made_by.version,
        "model": made_by.fingerprint,
        "precision": made_by.precision,
    }
    size = arguments.batch_size
    work = output.with_name(f"{output.name}.work")
    store = unfinished(job, work, identity, size)
    with progress("generating", settings.number, "sequences") as advance:
        found = run_generation(
            job, store, devices=devices, chunk_size=size, advance=advance
        )
    table = write_generated(found, job, output, made_by._asdict())
    store.remove()
    print(f"written: {output}, {table}")
    return 0


def _settings(arguments: argparse.Namespace) -> GenerateSettings:
    from crossdna.analysis.generation.constraints import Constraints
    from crossdna.analysis.generation.generate import GenerateSettings
    from crossdna.analysis.generation.sampling import Truncation

    return GenerateSettings(
        constraints=Constraints(
            template=_template(arguments),
            gc=tuple(arguments.gc) if arguments.gc else None,
            contain=tuple(arguments.contain),
            avoid=tuple(arguments.avoid),
        ),
        number=arguments.number,
        strand=arguments.strand,
        truncation=Truncation(
            temperature=arguments.temperature,
            top_k=arguments.top_k,
            top_p=arguments.top_p,
        ),
        rounds=arguments.rounds,
        sweeps=arguments.sweeps,
        seed=arguments.seed,
    )


def _template(arguments: argparse.Namespace) -> str:
    from crossdna.errors import CrossDNAError

    if arguments.template is None:
        if arguments.length is None:
            raise CrossDNAError("give --length, or a --template")
        free = arguments.length - len(arguments.prompt)
        if free < 0 or arguments.length < 1:
            raise CrossDNAError(
                f"--length {arguments.length} is less than the "
                f"{len(arguments.prompt)} bases of the prompt, or nothing"
            )
        return str(arguments.prompt).upper() + "N" * free
    if arguments.length is not None or arguments.prompt:
        raise CrossDNAError("--template says it all: leave out --length and --prompt")
    return _read_template(arguments.template)


def _read_template(text: str) -> str:
    from crossdna.data.fasta import open_lines
    from crossdna.errors import CrossDNAError

    if not text.removesuffix(".gz").endswith((".fa", ".fasta", ".fna")):
        return text.upper()
    path = Path(text)
    # Not read as a genome: there IUPAC letters become N.
    lines = [line.strip() for line in open_lines(path)]
    if [line for line in lines if line.startswith(">")] != lines[:1]:
        raise CrossDNAError(f"{path}: a template is a FASTA file with one sequence")
    return "".join(lines[1:]).upper()
