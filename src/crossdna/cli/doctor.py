"""``crossdna doctor``: prove a model before it is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdna.cli.numbers import count

if TYPE_CHECKING:
    import argparse

    from crossdna.analysis.doctor.examine import Examination


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    from crossdna.cli.model_options import (
        CHECKPOINT,
        add_device_option,
        add_trust_option,
    )

    parser.add_argument("model", help=CHECKPOINT)
    parser.add_argument("--output", type=Path, help="write what was found as JSON")
    parser.add_argument(
        "--record",
        action="store_true",
        help="write doctor.json into the directory if all is well: from then on any "
        "change of weights, configuration, tokenizer or answers is found",
    )
    parser.add_argument(
        "--lengths",
        type=count,
        nargs="+",
        metavar="BASES",
        help="where speed and memory are measured (default: 1024 8192 65536)",
    )
    add_device_option(parser)
    add_trust_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Examine and print; 1 where something is wrong."""
    from crossdna.analysis.doctor.examine import (
        LENGTHS,
        examine,
        load_for_examination,
        steps,
    )
    from crossdna.cli.progress import progress
    from crossdna.errors import CrossDNAError
    from crossdna.models.record import write_record

    lengths = tuple(arguments.lengths or LENGTHS)
    if min(lengths) < 1:
        raise CrossDNAError(f"--lengths are bases, at least 1; got {min(lengths)}")
    model, opened = load_for_examination(
        arguments.model,
        arguments.device,
        trust_remote_code=arguments.trust_remote_code,
    )
    with progress("examining", steps(lengths), "checks") as advance:
        found = examine(model, opened, lengths=lengths, advance=advance)
    _print(found)
    if arguments.output:
        _write(found, arguments.output)
    if arguments.record:
        if not found.passed:
            raise CrossDNAError("a model that fails is not recorded")
        if not Path(opened.name).is_dir():
            raise CrossDNAError(f"{arguments.model}: no directory to record in")
        write_record(opened.name, trust_remote_code=arguments.trust_remote_code)
    return 0 if found.passed else 1


def _print(found: Examination) -> None:
    from rich.console import Console
    from rich.table import Table

    colours = {"pass": "green", "fail": "bold red", "note": "yellow", "skip": "dim"}
    console = Console()
    console.print(
        f"{found.model}: {found.task}, {found.parameters:,} parameters, on "
        f"{found.device}\nfingerprint {found.fingerprint}"
    )
    table = Table()
    for name in ("check", "", "found", "limit", "what"):
        table.add_column(name, overflow="fold")
    for check in found.checks:
        numbers = [
            "" if number is None else f"{number:.2g}"
            for number in (check.value, check.limit)
        ]
        colour = colours[check.status]
        status = f"[{colour}]{check.status}[/{colour}]"
        table.add_row(check.name, status, *numbers, check.detail)
    console.print(table)
    speed = Table()
    for name in ("bases", "bases/s", "peak MiB"):
        speed.add_column(name, justify="right")
    for one in found.speed:
        memory = one.peak_memory_mib
        speed.add_row(
            f"{one.length:,}",
            f"{one.bases_per_second:,.0f}",
            "" if memory is None else f"{memory:,.0f}",
        )
    console.print(speed)
    console.print("all is well" if found.passed else "[bold red]something is wrong")


def _write(found: Examination, output: Path) -> None:
    import json

    from crossdna.analysis.provenance import described
    from crossdna.files import atomic_open

    made_by = described(str(found.fingerprint), found.model, strand="+")
    table: dict[str, Any] = {
        "made_by": made_by._asdict(),
        "passed": found.passed,
        "task": found.task,
        "parameters": found.parameters,
        "fingerprint": found.fingerprint._asdict(),
        "device": found.device,
        "checks": [check._asdict() for check in found.checks],
        "speed": [one._asdict() for one in found.speed],
    }
    with atomic_open(output) as handle:
        json.dump(table, handle, indent=1)
