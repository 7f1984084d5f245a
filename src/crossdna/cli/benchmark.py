"""``crossdna benchmark``: models on all tasks of a suite, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crossdna.cli.model_options import (
    add_training_execution,
    add_trust_option,
)
from crossdna.cli.numbers import count
from crossdna.cli.recipe_options import add_set_option, finetuning_keys

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from crossdna.analysis.supervised.benchmark import Fitted
    from crossdna.data.labelled_inputs import Sets
    from crossdna.data.named_suites import ChosenSuite
    from crossdna.data.suites import SuiteTask
    from crossdna.training.finetune_recipe import FinetuneRecipe

SETTINGS_NAME = "benchmark.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--suite",
        required=True,
        metavar="DIR_OR_NAME",
        help="folder of tasks (GUE, Nucleotide Transformer or Genomic Benchmarks "
        "layout, or plain tables), or gue, nt, genomic-benchmarks",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="where the folder of a suite that is named lies (default: CROSSDNA_DATA "
        "in the environment, else ./benchmarks, ../shared/data/benchmarks)",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="MODEL",
        help="checkpoints, new:SIZE, or baselines: majority, kmer, markov, hmm, "
        "pwm (learned), pwm:FILE.meme (motifs), "
        "cnn-symmetric, cnn-position, cnn-position-augmented, cnn-base",
    )
    parser.add_argument("--output", type=Path, required=True, help="directory")
    parser.add_argument(
        "--tasks", nargs="+", default=[], metavar="NAME", help="names or beginnings"
    )
    parser.add_argument(
        "--mode",
        choices=("finetune", "probe"),
        default="finetune",
        help="probe: a linear model on frozen representations (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=count,
        default=1,
        help="models of each kind and task (default: %(default)s)",
    )
    parser.add_argument(
        "--reduced-train",
        action="store_true",
        help="take tasks without a training file, training on their development file",
    )
    parser.add_argument(
        "--epochs", type=count, default=20, help="at most (default: %(default)s)"
    )
    add_training_execution(parser)
    add_trust_option(parser)
    add_set_option(
        parser,
        "KEY=VALUE",
        "any other value of the fine-tuning recipe",
        finetuning_keys,
    )


def run(arguments: argparse.Namespace) -> int:
    """Work on all cells that are not finished, then write the tables."""
    import sys

    from crossdna.analysis.plots import save_figure
    from crossdna.analysis.supervised import benchmark
    from crossdna.analysis.supervised.benchmark_plot import benchmark_figure
    from crossdna.cli.progress import progress
    from crossdna.data.named_suites import choose_suite
    from crossdna.data.suites import read_task
    from crossdna.files import atomic_path

    chosen = choose_suite(
        arguments.suite,
        arguments.tasks,
        data=arguments.data,
        reduced_train=arguments.reduced_train,
    )
    for note in chosen.notes:
        print(f"note: {note}", file=sys.stderr)
    recipe = _recipe(arguments)
    _check_models(arguments)
    checkpoints = _checkpoints(arguments)
    _claim(arguments, recipe, chosen)
    total = len(chosen.tasks) * len(arguments.models)
    with progress("benchmark", total, "cells") as advance:
        for task in chosen.tasks:
            sets = read_task(task)
            benchmark.check_task(arguments.output, task.name, sets)
            for model, files in checkpoints.items():
                _cells(arguments, recipe, task, sets, model, files, chosen.metric)
                advance(1)
    rows, pairs = benchmark.collect(arguments.output)
    benchmark.write_tables(rows, pairs, arguments.output)
    with atomic_path(arguments.output / "results.png") as temporary:
        save_figure(benchmark_figure(rows), temporary)
    print(benchmark.to_markdown(rows, pairs))
    return 0


def _check_models(arguments: argparse.Namespace) -> None:
    """A misspelt name is an error at once, not after hours of other cells."""
    from crossdna.analysis.supervised.baselines import find, names
    from crossdna.errors import CrossDNAError
    from crossdna.training.finetune_model import check_model

    for name in arguments.models:
        if find(name) is not None:
            continue
        try:
            check_model(name, trust_remote_code=arguments.trust_remote_code)
        except CrossDNAError as error:
            raise CrossDNAError(
                f"{error}; nor is {name!r} a baseline: there are {names()}"
            ) from error


def _checkpoints(arguments: argparse.Namespace) -> dict[str, str]:
    """Models and digests of their files, empty for what has none."""
    from crossdna.analysis.supervised.baselines import find
    from crossdna.models.fingerprint import files_digest

    return {
        name: files_digest(name) if find(name) is None else ""
        for name in arguments.models
    }


def _recipe(arguments: argparse.Namespace) -> FinetuneRecipe:
    from crossdna.config import from_table, override
    from crossdna.training.finetune_recipe import FinetuneRecipe

    table = {
        "model": "", "epochs": arguments.epochs, "batch_size": arguments.batch_size,
        "precision": arguments.precision, "device": arguments.device,
        "trust_remote_code": arguments.trust_remote_code,
    }  # fmt: skip
    for text in arguments.overrides:
        override(table, text)
    return from_table(table, FinetuneRecipe, where="benchmark")


def _claim(
    arguments: argparse.Namespace, recipe: FinetuneRecipe, chosen: ChosenSuite
) -> None:
    """Finished cells are kept only if they were made in the same way."""
    import tomllib

    from crossdna.config import to_table, write_toml
    from crossdna.errors import CrossDNAError
    from crossdna.files import atomic_open, claim_output_directory

    path = arguments.output / SETTINGS_NAME
    if arguments.output.is_dir() and not path.is_file():
        claim_output_directory(arguments.output, resume=False)
    claim_output_directory(arguments.output, resume=True)
    table = {
        "suite": str(chosen.folder.resolve()),
        "metric": chosen.metric or "first of each kind of task",
        "mode": arguments.mode,
        "recipe": to_table(recipe),
    }
    if path.is_file() and tomllib.loads(path.read_text()) != table:
        raise CrossDNAError(
            f"{path}: the cells there were made with another suite, mode or recipe; "
            "choose another directory"
        )
    with atomic_open(path) as handle:
        handle.write(write_toml(table))


def _cells(
    arguments: argparse.Namespace,
    recipe: FinetuneRecipe,
    task: SuiteTask,
    sets: Sets,
    model: str,
    files: str,
    metric: str | None,
) -> None:
    import sys

    from crossdna.analysis.supervised import baselines, benchmark
    from crossdna.training.finetune_recipe import NEW, RANDOM

    baseline = baselines.find(model)
    reason = baselines.unsuited(model, sets.named()) if baseline else None
    if reason is not None:
        print(f"{task.name}: {model} left out: {reason}", file=sys.stderr)
        return
    drawn = model.startswith((NEW, RANDOM))
    once = not (baseline.seeded if baseline else drawn or arguments.mode != "probe")
    for seed in range(1 if once else arguments.seeds):
        path = benchmark.cell_path(arguments.output, task.name, model, seed)
        names = {
            "task": task.name, "model": model, "seed": seed,
            "reduced_train": task.reduced, "checkpoint": files,
        }  # fmt: skip
        fit = _fit(arguments, recipe, sets, model, seed, path.with_suffix(""))
        benchmark.run_cell(fit, sets, path, names, metric)


def _fit(
    arguments: argparse.Namespace,
    recipe: FinetuneRecipe,
    sets: Sets,
    model: str,
    seed: int,
    folder: Path,
) -> Callable[[], Fitted]:
    from dataclasses import replace

    from crossdna.analysis.inference import pick_device
    from crossdna.analysis.supervised import benchmark
    from crossdna.analysis.supervised.baselines import find
    from crossdna.analysis.supervised.finetuned import FinetunedModel
    from crossdna.analysis.supervised.probing import ProbeModel
    from crossdna.models.execution import Execution
    from crossdna.models.fingerprint import fingerprint
    from crossdna.training.finetune import finetune
    from crossdna.training.finetune_model import bare_network
    from crossdna.training.finetune_recipe import NEW, RANDOM
    from crossdna.training.precision import uses_bfloat16

    known = find(model)

    def baseline() -> Fitted:
        assert known is not None
        return benchmark.Fitted(known.fit(sets.train, sets.valid, seed))

    def probe() -> Fitted:
        trust = recipe.trust_remote_code
        device: Any = pick_device(recipe.device)
        network = bare_network(model, seed, trust_remote_code=trust).to(device)
        on_cpu = network.device.type == "cpu"
        halved = uses_bfloat16(recipe.precision, on_cpu=on_cpu)
        Execution("bf16" if halved else "float32").prepare(network)
        size = sum(p.numel() for p in network.parameters())
        fitted = ProbeModel(model, network, sets.train, sets.valid)
        place = None if model.startswith(NEW) else model.removeprefix(RANDOM)
        digits = str(fingerprint(network, place))
        return benchmark.Fitted(
            fitted, parameters=size, fingerprint=digits, layer=str(fitted.job.layer)
        )

    def trained() -> Fitted:
        own = replace(recipe, model=model, seeds=(seed,))
        result = finetune(own, sets.train, sets.valid, folder)
        best = FinetunedModel.load(
            result.best.folder,
            recipe.device,
            model,
            trust_remote_code=recipe.trust_remote_code,
        )
        digits = best.fingerprint(str(result.best.folder))
        return benchmark.Fitted(
            best, best.card.thresholds, result.best.parameters, digits
        )

    if known is not None:
        return baseline
    return probe if arguments.mode == "probe" else trained
