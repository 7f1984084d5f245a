"""``crossdna demo`` without a recipe: shipped weights at work, in minutes."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

MODEL: Final = "crossdna-small"
# The promoter of prodynorphin: its TSS is base 974,703 of the file, strand -.
PROMOTER: Final = "z:974,684-974,803"
PLACE: Final = "the promoter of PDYN (chr20:1,974,684-1,974,803, hg19, strand -)"
PRODUCTS: Final = {
    "finetune": ("promoters/metrics.json", "promoters/predictions.parquet"),
    "score": ("variants.vcf.gz",),
    "ism": ("promoter/ism.parquet",),
}
"""What each verb leaves in the output directory."""
CONTIG: Final = "Contig z of the demo's files is chr20:1,000,001-2,000,000 of hg19."


class Data(NamedTuple):
    """The files of a demonstration's folder."""

    train: Path
    valid: Path
    test: Path
    genome: Path
    variants: Path

    @classmethod
    def of(cls, folder: Path) -> Data:
        """Find them.

        Raises
        ------
        CrossDNAError
            One is missing.
        """
        from crossdna.errors import CrossDNAError

        train, valid, test = (
            folder / "promoters" / f"{name}.csv.gz" for name in ("train", "dev", "test")
        )
        genome, variants = folder / "chr20_1-2Mb.fa.gz", folder / "variants.vcf.gz"
        data = cls(train, valid, test, genome, variants)
        for path in data:
            if not path.is_file():
                raise CrossDNAError(f"{path}: no such file; --data names data/human")
        return data


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, score, mutate; each step once for the same model and data."""
    import hashlib

    import crossdna
    from crossdna.analysis.demo.stages import run_stage
    from crossdna.analysis.demo.weights_report import Steps, write_weights_report
    from crossdna.analysis.inference import load_model
    from crossdna.models.fingerprint import fingerprint
    from crossdna.zoo.shipped import resolve

    data, output = Data.of(arguments.data), arguments.output
    name = arguments.model or MODEL
    model = load_model(name)
    inputs = {
        "version": crossdna.__version__,
        "model": str(fingerprint(model, resolve(name))),
        "data": [hashlib.sha256(path.read_bytes()).hexdigest() for path in data],
    }
    output.mkdir(parents=True, exist_ok=True)
    records = {}
    typed = commands(name, data, output)
    for deed, words in typed.items():
        records[deed] = output / "steps" / deed.replace(" ", "-")
        # What a step cannot go on with is begun anew.
        fresh = output / "promoter" if words[0] == "ism" else None
        print(f"crossdna {shlex.join(words)}", flush=True)
        work = step(words, fresh)
        # From the record's folder.
        made = [f"../../{name}" for name in PRODUCTS[words[0]]]
        run_stage(records[deed], {**inputs, "command": words}, made, work)
    picture = next((output / "promoter").glob("*.png"))
    steps = Steps(
        model=Path(name).name,
        finetuned=output / "promoters",
        variants=output / "variants.vcf.gz",
        promoter=picture,
        place=PLACE,
        contig=CONTIG,
        records=records,
    )
    lines = "\n".join(f"crossdna {shlex.join(words)}" for words in typed.values())
    print(f"written: {write_weights_report(output, steps, lines)}")
    return 0


def commands(model: str, data: Data, output: Path) -> dict[str, list[str]]:
    """The words of each step's command line."""
    return {
        "fine-tune": [
            "finetune", "--model", model, "--train", str(data.train),
            "--valid", str(data.valid), "--test", str(data.test),
            "--head", "position", "--strands", "forward", "--epochs", "3",
            "--batch-size", "32", "--baselines", "classical", "--resume",
            "--output", str(output / "promoters"),
        ],
        "score variants": [
            "score", "--model", model, "--genome", str(data.genome),
            "--variants", str(data.variants), "--scores", "llr",
            "--output", str(output / "variants.vcf.gz"),
        ],
        "mutate a promoter": [
            "ism", "--model", model, "--genome", str(data.genome),
            "--region", PROMOTER.replace(",", ""), "--window", "512",
            "--output", str(output / "promoter"),
        ],
    }  # fmt: skip


def step(words: list[str], fresh: Path | None) -> Callable[[Path], None]:
    """The work of a stage: one verb, whose error ends the demonstration."""
    from crossdna.cli import main
    from crossdna.errors import CrossDNAError

    def work(_: Path) -> None:
        if fresh is not None and fresh.is_dir():
            shutil.rmtree(fresh)
        if main(words):
            raise CrossDNAError(f"crossdna {words[0]} did not finish")

    return work
