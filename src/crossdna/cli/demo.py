"""``crossdna demo``: shipped weights at work, or a pretraining from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.numbers import count
from crossdna.cli.recipe_options import add_set_option, pretraining_keys

if TYPE_CHECKING:
    import argparse

    from crossdna.analysis.demo.demo import DemoData, DemoSettings
    from crossdna.training.pretraining_recipe import PretrainRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "recipe",
        type=Path,
        nargs="?",
        help="pretraining recipe (TOML) with test chromosomes: train and measure; "
        "without it, ready-made weights are put to work",
    )
    parser.add_argument(
        "--model",
        help="without a recipe: weights to start from (default: crossdna-small)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/human"),
        help="without a recipe: promoters, variants and their genome (%(default)s)",
    )
    parser.add_argument(
        "--annotation", type=Path, help="with a recipe: GFF3 or GTF of the genome"
    )
    parser.add_argument(
        "--locus",
        metavar="CHR:START-END",
        help="with a recipe: region to show base by base, 1-based, such as "
        "chrXV:721,876-722,015",
    )
    parser.add_argument(
        "--locus-name",
        default="",
        help="what the report calls it, beside its place (default: Locus)",
    )
    add_set_option(
        parser,
        "SECTION.KEY=VALUE",
        "change a value of the recipe, such as train.lr=3e-4",
        pretraining_keys,
    )
    parser.add_argument(
        "--windows",
        type=count,
        default=600,
        help="windows to evaluate on (%(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="directory to fill; a run that was interrupted in it goes on",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what has not been done, and write the report."""
    if arguments.recipe is None:
        from crossdna.cli import demo_weights
        from crossdna.errors import CrossDNAError

        if arguments.annotation or arguments.locus or arguments.overrides:
            raise CrossDNAError(
                "--annotation, --locus and --set belong to a recipe; name it first"
            )

        return demo_weights.run(arguments)
    return _pretrained(arguments)


def _pretrained(arguments: argparse.Namespace) -> int:
    """Pretrain or go on, analyse what has not been analysed, write the report."""
    from crossdna.analysis.demo.demo import analyse
    from crossdna.analysis.demo.report import write_report
    from crossdna.cli.progress import progress
    from crossdna.config import read_recipe
    from crossdna.errors import CrossDNAError
    from crossdna.training.pretrain import pretrain
    from crossdna.training.pretraining_recipe import PretrainRecipe

    if arguments.model is not None:
        raise CrossDNAError("--model is for the demonstration without a recipe")
    if arguments.annotation is None or arguments.locus is None:
        raise CrossDNAError("with a recipe, --annotation and --locus are needed, too")
    recipe = read_recipe(arguments.recipe, PretrainRecipe, arguments.overrides)
    # All input is read before the minutes of training, so that mistakes show at once.
    data = _read_data(arguments, recipe)
    settings = _settings(arguments, recipe)
    _require_masked(recipe)
    output = arguments.output
    model = pretrain(recipe, output / "model", resume=True)
    analyse(model, output, data, settings, progress=progress)
    held_out = next(iter(recipe.genome.values())).test or data.split.held_out
    commands = _next_commands(arguments, recipe, " ".join(map(str, held_out)))
    report = write_report(output, commands)
    print(f"written: {report}")
    return 0


def _require_masked(recipe: PretrainRecipe) -> None:
    """Refuse what the demonstration cannot ask about, before it is trained."""
    from crossdna.errors import CrossDNAError
    from crossdna.models.building import objective_of

    if objective_of(recipe.model["type"]) != "masked" or recipe.tokenizer is not None:
        raise CrossDNAError(
            "the demonstration asks for hidden bases: it takes a recipe of a masked "
            "model that reads single bases"
        )


def _read_data(arguments: argparse.Namespace, recipe: PretrainRecipe) -> DemoData:
    import hashlib
    from dataclasses import replace

    from crossdna.analysis.demo.demo import DemoData
    from crossdna.analysis.evaluation.run import Split
    from crossdna.data.annotation import Annotation
    from crossdna.data.regions import overlap, parse_region
    from crossdna.errors import CrossDNAError
    from crossdna.training.pretraining_data import open_genomes

    first, *more = open_genomes(recipe.genome)
    if more:
        raise CrossDNAError(
            f"{arguments.recipe}: a demonstration takes one genome, not {len(more) + 1}"
        )
    held_out = first.regions["test"]
    if not held_out:
        raise CrossDNAError(
            f"{arguments.recipe}: genome.{first.name} needs test chromosomes to measure"
            " the model on"
        )
    locus = parse_region(arguments.locus, first.genome.contigs)
    if len(locus) > recipe.windows.length:
        raise CrossDNAError(
            f"--locus {locus} is longer than the {recipe.windows.length} bases of a "
            "window"
        )
    if not overlap([locus], held_out):
        raise CrossDNAError(f"--locus {locus} is not in the recipe's test regions")
    return DemoData(
        Annotation.read(arguments.annotation, first.genome),
        hashlib.sha256(arguments.annotation.read_bytes()).hexdigest(),
        Split(first.regions["train"], held_out),
        replace(locus, name=arguments.locus_name),
    )


def _settings(arguments: argparse.Namespace, recipe: PretrainRecipe) -> DemoSettings:
    from crossdna.analysis.demo.demo import DemoSettings
    from crossdna.analysis.evaluation.measure import EvaluationSettings
    from crossdna.analysis.probe.linear import ProbeSettings

    window = recipe.windows.length
    return DemoSettings(
        evaluation=EvaluationSettings(window=window, max_windows=arguments.windows),
        probe=ProbeSettings(window=min(384, window), windows_per_class=250),
    )


def _next_commands(
    arguments: argparse.Namespace, recipe: PretrainRecipe, held_out: str
) -> str:
    """Lines to type: train longer, measure on more, use from Python."""
    import shlex

    genome = next(iter(recipe.genome.values()))
    several = (genome.fasta,) if isinstance(genome.fasta, Path) else genome.fasta
    fasta = shlex.join(map(str, several))
    changes = [*arguments.overrides, f"train.steps={20 * recipe.train.steps}"]
    if recipe.train.max_minutes is not None:
        changes.append(f"train.max_minutes={20 * recipe.train.max_minutes:g}")
    longer = " ".join(f"--set {shlex.quote(change)}" for change in changes)
    model = arguments.output / "model"
    return f"""\
# train twenty times longer (on a GPU it is found by itself)
crossdna pretrain {arguments.recipe} {longer} --output longer

# measure on every window of the held-out chromosomes
crossdna evaluate --model {model} --genome {fasta} \\
    --annotation {arguments.annotation} --chromosomes {held_out} \\
    --window {recipe.windows.length} --max-windows 0 --output evaluation

# your own organism: copy the recipe, name your FASTA and the chromosomes to hold out
cp {arguments.recipe} my-organism.toml

# from Python
import crossdna
from transformers import AutoModelForMaskedLM
model = AutoModelForMaskedLM.from_pretrained("{model}")"""
