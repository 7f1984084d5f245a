"""``crossdna finetune``: from labelled sequences to a model and an honest report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdna.cli.labelled_options import add_input_options
from crossdna.cli.model_options import (
    CHECKPOINT,
    add_training_execution,
    add_trust_option,
)
from crossdna.cli.numbers import at_least, count
from crossdna.cli.recipe_options import add_set_option, finetuning_keys

if TYPE_CHECKING:
    import argparse

    from crossdna.analysis.supervised.audit import Audit
    from crossdna.analysis.supervised.classical import Predictor
    from crossdna.analysis.supervised.comparison import Judged
    from crossdna.analysis.supervised.finetuned import FinetunedModel
    from crossdna.data.labelled_inputs import InputOptions, Sets
    from crossdna.training.finetune import FinetuneResult
    from crossdna.training.finetune_recipe import FinetuneRecipe

RECIPE_NAME = "recipe.toml"
RUNS_NAME = "runs"
BASELINES_NAME = "baselines"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "--model",
        required=True,
        help=f"{CHECKPOINT}; new:tiny, new:small (0.4M), new:medium "
        "or new:paper (8.1M) for random weights",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="directory for model and report"
    )
    add_input_options(parser)
    _add_training_options(parser)
    parser.add_argument(
        "--baselines",
        choices=("all", "classical", "none"),
        default="all",
        help="what is trained beside it (default: all)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what --output holds"
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    """Declare what the recipe holds."""
    train = parser.add_argument_group("training")
    train.add_argument(
        "--method",
        choices=("full", "head", "lora"),
        default="full",
        help="train all weights, the head alone, or low-rank updates (default: "
        "%(default)s)",
    )
    train.add_argument(
        "--head",
        choices=("auto", "mean", "max_mean", "attention", "position"),
        default="auto",
        help="how bases are summed up; auto: best on the development set "
        "(default: %(default)s)",
    )
    train.add_argument(
        "--strands",
        choices=("auto", "both", "forward"),
        default="auto",
        help="both: train on either strand and average predictions; auto: by the head "
        "(default: %(default)s)",
    )
    train.add_argument(
        "--epochs", type=count, help="at most (default: 20; 60 with --method head)"
    )
    train.add_argument(
        "--lr",
        type=float,
        help="highest learning rate (default: 2e-3 for random weights and the head, "
        "3e-4 for pretrained ones, 5e-4 for lora; 5e-3 with --method head)",
    )
    train.add_argument(
        "--patience",
        type=count,
        help="epochs without improvement before training stops (default: 5; 15 with "
        "--method head)",
    )
    train.add_argument(
        "--class-weights",
        action="store_true",
        help="weigh classes in the loss by the inverse of how often they occur",
    )
    train.add_argument(
        "--max-length",
        type=count,
        default=65536,
        help="longer sequences are an error (default: %(default)s)",
    )
    add_training_execution(train)
    train.add_argument(
        "--seeds", type=count, default=1, help="models to train (default: %(default)s)"
    )
    train.add_argument(
        "--ensemble",
        action="store_true",
        help="predict with the mean of all seeds' models, not with the best of them",
    )
    train.add_argument(
        "--trials",
        type=at_least(0),
        default=0,
        help="rounds of a search for learning rate, weight decay, dropout and batch "
        "size (default: %(default)s)",
    )
    add_trust_option(parser)
    add_set_option(
        train,
        "KEY=VALUE",
        "any other value of the recipe, such as head_dropout=0.3",
        finetuning_keys,
    )


def run(arguments: argparse.Namespace) -> int:
    """Read, train, judge, report."""
    import sys

    from crossdna.analysis.supervised.audit import audit_splits
    from crossdna.cli.labelled_options import input_options
    from crossdna.errors import CrossDNAError

    # What is wrong with a table is said before torch is loaded, which takes seconds.
    options = input_options(arguments)
    sets = _sets(arguments, options)

    from crossdna.analysis.supervised.report import check_columns
    from crossdna.data.metrics import all_alike
    from crossdna.training.finetune import check_start, finetune

    recipe = _recipe(arguments)
    if arguments.ensemble and len(recipe.seeds) < 2:
        raise CrossDNAError("--ensemble needs models to join: --seeds 3, for example")
    check_columns(sets, len(recipe.seeds) if arguments.ensemble else 1)
    if not (arguments.resume and (arguments.output / RECIPE_NAME).is_file()):
        # What fails here leaves no directory that a corrected command could not have.
        check_start(recipe, sets.train, sets.valid)
    audit = audit_splits(sets.named(), threshold=options.similarity)
    warnings = audit.warnings()
    if all_alike(sets.task, sets.valid.labels):
        warnings.append(
            "all labels of the development set are the same, so no score tells epochs "
            "apart; the one with the lowest loss is kept"
        )
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(_described(sets), flush=True)
    output = _claim(arguments, recipe, options, sets)
    result = finetune(recipe, sets.train, sets.valid, output / RUNS_NAME)
    baselines = _baselines(arguments, result, sets)
    _report(arguments, result, baselines, sets, audit)
    return 0


def _sets(arguments: argparse.Namespace, options: InputOptions) -> Sets:
    """Read all three sets; none may be empty."""
    from crossdna.data.labelled_inputs import read_sets
    from crossdna.errors import CrossDNAError

    sets = read_sets(arguments.train, arguments.valid, arguments.test, options)
    for name, data in sets.named().items():
        if not len(data):
            raise CrossDNAError(
                f"no {name} rows, which fine-tuning needs: give a file with --{name} "
                "or a share above 0 with --shares"
            )
    return sets


def _described(sets: Sets) -> str:
    """The task and the rows of its sets, in a line."""
    task = sets.task
    names = f" ({', '.join(task.names)})" if task.kind != "regression" else ""
    positive = f", positive {task.classes[1]}" if task.kind == "binary" else ""
    rows = ", ".join(f"{len(data):,} {name}" for name, data in sets.named().items())
    return f"{task.kind}{names}{positive}; rows: {rows}; split by {sets.how}"


def _recipe(arguments: argparse.Namespace) -> FinetuneRecipe:
    from crossdna.config import from_table, override
    from crossdna.training.finetune_recipe import FinetuneRecipe

    table: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in (
            "model", "method", "head", "strands", "epochs", "batch_size", "lr",
            "patience", "class_weights", "max_length", "precision", "trials", "device",
            "trust_remote_code",
        )
        if getattr(arguments, name) is not None
    }  # fmt: skip
    table["seeds"] = list(range(arguments.seeds))
    for text in arguments.overrides:
        override(table, text)
    return from_table(table, FinetuneRecipe, where="finetune")


def _claim(
    arguments: argparse.Namespace,
    recipe: FinetuneRecipe,
    options: InputOptions,
    sets: Sets,
) -> Path:
    """Take the output directory; what is resumed must be the same run."""
    from crossdna.config import to_table, write_toml
    from crossdna.data.digests import set_digests
    from crossdna.errors import CrossDNAError
    from crossdna.files import atomic_open, claim_output_directory
    from crossdna.models.fingerprint import files_digest

    path = arguments.output / RECIPE_NAME
    begun = path.is_file() or not arguments.output.is_dir()
    if arguments.resume and not begun and any(arguments.output.iterdir()):
        raise CrossDNAError(
            f"{arguments.output} holds no run to resume: it has no {RECIPE_NAME}"
        )
    output = claim_output_directory(arguments.output, resume=arguments.resume)
    data = {name: list(getattr(arguments, name)) for name in ("train", "valid", "test")}
    task = sets.task
    label = {
        "kind": task.kind, "labels": list(task.columns), "classes": list(task.classes)
    }  # fmt: skip
    model = {"model_digest": files_digest(recipe.model)}
    split = {"split_by": sets.how, "split_seed": options.seed}
    table = {
        "data": {**data, **label, **set_digests(sets), **split, **model},
        "finetune": to_table(recipe),
    }
    if path.is_file():
        _require_same(path, table)
    with atomic_open(path) as handle:
        handle.write(write_toml(table))
    return output


def _require_same(path: Path, table: dict[str, dict[str, Any]]) -> None:
    """Compare with how the run was started, which `path` says."""
    import tomllib

    from crossdna.config import require_same
    from crossdna.errors import CrossDNAError

    before = tomllib.loads(path.read_text())
    if "data" not in before:
        raise CrossDNAError(
            f"{path} is of no run of crossdna finetune; choose another directory"
        )
    if not {"train_label_digest", "model_digest"} <= before["data"].keys():
        raise CrossDNAError(
            f"{path}: the run was started by an older version, which kept no digest of "
            "labels or model, so they cannot be compared; start another one"
        )
    require_same(path, before, table)


def _baselines(
    arguments: argparse.Namespace, result: FinetuneResult, sets: Sets
) -> list[Judged]:
    """Train and judge what the model is compared with; what is done is kept."""
    from dataclasses import replace
    from functools import partial

    from crossdna.analysis.supervised.baselines import BASELINES, unsuited
    from crossdna.analysis.supervised.finetuned import FinetunedModel
    from crossdna.analysis.supervised.kept import judged_once
    from crossdna.training.finetune import finetune
    from crossdna.training.finetune_recipe import RANDOM

    if arguments.baselines == "none":
        return []
    runs: Path = arguments.output / RUNS_NAME
    found = [
        judged_once(
            runs / BASELINES_NAME / f"{name}.json",
            partial(baseline.fit, sets.train, sets.valid, 0),
            sets,
        )
        for name, baseline in BASELINES.items()
        if arguments.baselines in ("all", baseline.group)
        and unsuited(name, sets.named()) is None
    ]
    recipe = result.recipe
    if recipe.is_new or arguments.baselines == "classical":
        return found
    start = replace(
        recipe, model=f"{RANDOM}{recipe.model}", method="full", lr=None, trials=0,
        seeds=recipe.seeds[:1],
    )  # fmt: skip

    def random_start() -> Predictor:
        random = finetune(start, sets.train, sets.valid, runs / "random-weights")
        name = "the same network from random weights"
        return FinetunedModel.load(
            random.best.folder,
            recipe.device,
            name,
            trust_remote_code=recipe.trust_remote_code,
        )

    path = runs / BASELINES_NAME / "random-weights.json"
    return [*found, judged_once(path, random_start, sets)]


def _report(
    arguments: argparse.Namespace,
    result: FinetuneResult,
    baselines: list[Judged],
    sets: Sets,
    audit: Audit,
) -> None:
    """Put the best model, its metrics, predictions and report into the output."""
    from crossdna.analysis.provenance import described
    from crossdna.analysis.supervised import report as finetune_report
    from crossdna.config import to_table

    output: Path = arguments.output
    model, seeds = _kept_models(arguments, result, sets)
    judged, per_seed = finetune_report.judge_all(model, seeds, sets)
    found = finetune_report.Evaluation(
        model=model,
        judged=judged + baselines,
        seeds=per_seed,
        sets=sets,
        audit=audit,
        training=finetune_report.Training(
            histories={f"seed {one.seed}": one.history for one in result.runs},
            trials=result.trials,
            settings=to_table(result.recipe) | result.recipe.settled(),
            parameters=result.best.parameters * len(model.networks),
            trained=result.best.trained_parameters * len(model.networks),
            temperatures={f"seed {one.seed}": one.temperature for one in result.runs},
        ),
        provenance=described(
            model.fingerprint(str(output)), str(output), strand=model.card.strand
        ),
    )
    finetune_report.write_predictions(found, output)
    table = finetune_report.write_metrics(found, output)
    finetune_report.write_report(found, table, output)
    primary = table["primary_metric"]
    print(f"test {primary} (chance {table['chance'][primary]:.3f}):")
    for one in judged + baselines:
        value = one.first(sets.task)
        print(
            f"  {value.estimate:6.3f} [{value.low:.3f}, {value.high:.3f}]  {one.name}"
        )
    print(f"written: {output} ({finetune_report.REPORT_NAME}, model, predictions)")


def _kept_models(
    arguments: argparse.Namespace, result: FinetuneResult, sets: Sets
) -> tuple[FinetunedModel, dict[str, FinetunedModel]]:
    """What the output answers with, put there; and the model of every seed."""
    import shutil
    from dataclasses import replace

    from crossdna.analysis.inference import network_name
    from crossdna.analysis.supervised.ensemble import ENSEMBLE_NAME, write_ensemble
    from crossdna.analysis.supervised.finetuned import FinetunedModel
    from crossdna.files import atomic_path

    output: Path = arguments.output
    # A resumed run may have been one before.
    (output / ENSEMBLE_NAME).unlink(missing_ok=True)
    best_of_all = result.best.folder
    for file in (path for path in best_of_all.rglob("*") if path.is_file()):
        target = output / file.relative_to(best_of_all)
        target.parent.mkdir(exist_ok=True)
        with atomic_path(target) as temporary:
            shutil.copy(file, temporary)
    seeds = {
        f"seed {one.seed}": FinetunedModel.load(
            one.folder,
            result.recipe.device,
            trust_remote_code=result.recipe.trust_remote_code,
        )
        for one in result.runs
    }
    best = f"seed {result.best.seed}"
    name = f"{network_name(seeds[best].networks[0])} ({Path(arguments.model).name})"
    if not arguments.ensemble:
        seeds[best] = replace(seeds[best], name=name)
        return seeds[best], seeds
    model = FinetunedModel.ensemble(list(seeds.values()), sets.valid)
    folders = [one.folder for one in result.runs]
    write_ensemble(output, folders, model.card.thresholds)
    return replace(model, name=f"{name}, mean of {len(folders)} seeds"), seeds
