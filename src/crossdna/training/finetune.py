"""Fine-tuning on labelled sequences: choices on the development set, several seeds.

Nothing here is given the test set.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging

from crossdna.data import metrics
from crossdna.data.task_card import TaskCard
from crossdna.data.temperature import fit_temperature
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_directory, atomic_open
from crossdna.memory import keep_freed_memory
from crossdna.models.record import write_record
from crossdna.training.checkpoints import complete_checkpoints
from crossdna.training.devices import keep_to_one_device, trains_on_cpu
from crossdna.training.finetune_data import TrainingRows, target_scale
from crossdna.training.finetune_model import (
    build_model,
    divide_logits,
    has_poolings,
    measure,
    merged,
    restrict,
    save_tokenizer,
)
from crossdna.training.finetune_trainer import (
    FinetuneTrainer,
    StopEarly,
    has_stopped,
)
from crossdna.training.frozen import Kept, asked_once
from crossdna.training.precision import uses_bfloat16
from crossdna.training.progress import RichProgress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crossdna.data.labelled import LabelledSet
    from crossdna.data.task_card import Strands
    from crossdna.training.finetune_recipe import FinetuneRecipe, Pooling

RESULT_NAME: Final = "result.json"
# Of a search: what it chooses from, and how many steps of training let two differ.
_BATCH_SIZES: Final = (16, 32, 64, 128)
_FEWEST_STEPS: Final = 8
MEASURED_ROWS: Final = 1000
"""Training rows that tell a head the spread of what it reads."""
KEPT_AT_THE_END: Final = 256 << 20
"""Bytes of what a trained network made of the development set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What is decided on the development set before the seeds are trained."""

    pooling: Pooling
    strands: Strands


class RunResult(NamedTuple):
    """One trained model.

    Attributes
    ----------
    folder : Path
        A checkpoint with its task card.
    seed : int
    score : float
        The metric of the development set that decides; see `metrics.SELECTING`.
    epochs, best_epoch : int
        How long it was trained, and after which epoch the weights were kept.
    history : list of dict
        For each epoch, metrics of the development set, and the training loss.
    parameters, trained_parameters : int
    temperature : float
        What logits were divided by; see `crossdna.data.temperature`.
    """

    folder: Path
    seed: int
    score: float
    epochs: int
    best_epoch: int
    history: list[dict[str, float]]
    parameters: int
    trained_parameters: int
    temperature: float = 1.0


class FinetuneResult(NamedTuple):
    """What fine-tuning came to.

    Attributes
    ----------
    recipe : FinetuneRecipe
        With everything decided that was open.
    runs : list of RunResult
        One per seed.
    trials : list of dict
        What was tried on the development set, with scores.
    """

    recipe: FinetuneRecipe
    runs: list[RunResult]
    trials: list[dict[str, Any]]

    @property
    def best(self) -> RunResult:
        """The run with the best development score."""
        return max(self.runs, key=lambda run: run.score)


def finetune(
    recipe: FinetuneRecipe, train: LabelledSet, valid: LabelledSet, folder: Path
) -> FinetuneResult:
    """Choose a head, search if wanted, and train one model per seed.

    What is finished in `folder` already is not done again.

    Parameters
    ----------
    folder
        For trials, checkpoints and one directory ``seed-N`` per model.

    Raises
    ------
    CrossDNAError
        Sequences beyond ``max_length``, a model that cannot be loaded, a loss that is
        no number.
    """
    check_lengths(recipe, train, valid)
    trials: list[dict[str, Any]] = []
    # Every run of a pretrained network under a head alone asks the same network.
    kept = Kept()
    choice = _choose(recipe, train, valid, folder, trials, kept)
    recipe = replace(recipe, strands=choice.strands)
    if has_poolings(recipe.model, trust_remote_code=recipe.trust_remote_code):
        recipe = replace(recipe, head=choice.pooling)
    if recipe.trials:
        recipe = search(recipe, choice, train, valid, folder, trials, kept)
    runs = [
        run_once(
            recipe,
            choice,
            train,
            valid,
            folder / f"seed-{seed}",
            seed,
            recipe.most_epochs,
            kept,
        )
        for seed in recipe.seeds
    ]
    return FinetuneResult(recipe, runs, trials)


def check_start(recipe: FinetuneRecipe, train: LabelledSet, valid: LabelledSet) -> None:
    """Find out, before anything is written, what would stop a training at once.

    Raises
    ------
    CrossDNAError
        See `finetune`; also a head that the model cannot have, or a method whose
        library is not there.
    """
    check_lengths(recipe, train, valid)
    choice = candidates(recipe, train, valid)[0]
    model = build_model(
        recipe, train.task, pooling=choice.pooling, length=_longest(train, valid)
    )
    restrict(model, recipe)


def _longest(*sets: LabelledSet) -> int:
    return max(int(data.table.lengths.max()) for data in sets)


def check_lengths(recipe: FinetuneRecipe, *sets: LabelledSet) -> None:
    """Refuse sequences that are longer than the recipe allows, naming the first."""
    for data in sets:
        for row, length in enumerate(data.table.lengths):
            if length > recipe.max_length:
                raise CrossDNAError(
                    f"{data.table.places[row]}: {length} bases are more than "
                    f"max_length {recipe.max_length}; raise --max-length, or cut the "
                    "sequences around what matters"
                )


def candidates(
    recipe: FinetuneRecipe, train: LabelledSet, valid: LabelledSet
) -> list[Choice]:
    """Heads to choose from: weights per position only where windows have one length.

    A head that weighs positions reads the strand that it is given, since a window
    anchored at a landmark has a direction; others may read both.
    """
    if train.task.kind == "per-base":
        return [Choice(pooling="mean", strands=_resolve(recipe, "both"))]
    if not has_poolings(recipe.model, trust_remote_code=recipe.trust_remote_code):
        if recipe.head != "auto":
            raise CrossDNAError(
                f"{recipe.model}: models of this family have a head of their own; "
                "leave --head out"
            )
        return [Choice(pooling="mean", strands=_resolve(recipe, "both"))]
    lengths = {*train.table.lengths.tolist(), *valid.table.lengths.tolist()}
    found = [
        Choice(pooling="max_mean", strands=_resolve(recipe, "both")),
        Choice(pooling="attention", strands=_resolve(recipe, "both")),
    ]
    if len(lengths) == 1:
        found.append(Choice(pooling="position", strands=_resolve(recipe, "forward")))
    if recipe.head == "auto":
        return found
    fitting: Strands = "forward" if recipe.head == "position" else "both"
    return [Choice(pooling=recipe.head, strands=_resolve(recipe, fitting))]


def _resolve(recipe: FinetuneRecipe, otherwise: Strands) -> Strands:
    return otherwise if recipe.strands == "auto" else recipe.strands


def _choose(
    recipe: FinetuneRecipe,
    train: LabelledSet,
    valid: LabelledSet,
    folder: Path,
    trials: list[dict[str, Any]],
    kept: Kept,
) -> Choice:
    options = candidates(recipe, train, valid)
    if len(options) == 1:
        return options[0]
    scores = []
    for option in options:
        name = f"head-{option.pooling}-{option.strands}"
        place = folder / "trials" / name
        run = run_once(
            recipe,
            option,
            train,
            valid,
            place,
            recipe.seeds[0],
            recipe.trial_epochs,
            kept,
        )
        scores.append(run.score)
        trials.append({"trial": name, "score": run.score, "epochs": run.epochs})
    return options[scores.index(max(scores))]


def search(
    recipe: FinetuneRecipe,
    choice: Choice,
    train: LabelledSet,
    valid: LabelledSet,
    folder: Path,
    trials: list[dict[str, Any]],
    kept: Kept,
) -> FinetuneRecipe:
    """Search learning rate, weight decay, dropout and batch size with optuna.

    Each trial is a run of ``trial_epochs``; the development set judges.

    Returns
    -------
    FinetuneRecipe
        The given one with the best values.
    """
    try:
        import optuna
    except ImportError:
        raise CrossDNAError(
            "--trials needs optuna: pip install 'crossdna[finetune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=recipe.seeds[0])
    study = optuna.create_study(direction="maximize", sampler=sampler)
    found: list[FinetuneRecipe] = []
    sizes = [
        size
        for size in _BATCH_SIZES
        if recipe.trial_epochs * math.ceil(len(train) / size) >= _FEWEST_STEPS
    ] or [_BATCH_SIZES[0]]

    def objective(trial: Any) -> float:
        rate = recipe.learning_rate
        values = {
            "lr": trial.suggest_float("lr", rate / 10, rate * 10, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 1e-4, 0.3, log=True),
            "head_dropout": trial.suggest_float("head_dropout", 0.0, 0.5),
            "batch_size": trial.suggest_categorical("batch_size", sizes),
        }
        tried = replace(recipe, head_lr=recipe.head_learning_rate, **values)
        name = f"search-{trial.number}"
        place = folder / "trials" / name
        run = run_once(
            tried,
            choice,
            train,
            valid,
            place,
            recipe.seeds[0],
            recipe.trial_epochs,
            kept,
        )
        found.append(tried)
        trials.append(
            {"trial": name, "score": run.score, "epochs": run.epochs} | values
        )
        return run.score

    # Finished trials are read back, so a resumed search draws the same values again.
    study.optimize(objective, n_trials=recipe.trials)
    return found[study.best_trial.number]


def run_once(
    recipe: FinetuneRecipe,
    choice: Choice,
    train: LabelledSet,
    valid: LabelledSet,
    folder: Path,
    seed: int,
    epochs: int,
    kept: Kept,
) -> RunResult:
    """Train one model, or read back what a finished run left in `folder`.

    Parameters
    ----------
    kept
        What the same pretrained network made of sequences in other runs.
    """
    if (folder / RESULT_NAME).is_file():
        return read_result(folder)
    set_seed(seed)
    longest = _longest(train, valid)
    model: Any = build_model(recipe, train.task, pooling=choice.pooling, length=longest)
    scale = target_scale(train)
    both = choice.strands == "both"
    card = TaskCard(
        task=train.task,
        strands=choice.strands,
        max_length=longest,
        means=tuple(scale.means.tolist()),
        scales=tuple(scale.scales.tolist()),
    )
    rows = TrainingRows(
        train, scale, both_strands=both, seed=seed, noise=recipe.hidden_share
    )
    work = folder.with_name(f"{folder.name}.checkpoints")
    arguments = _arguments(recipe, work, seed, epochs, len(train))
    model.to(arguments.device)
    if arguments.device.type == "cpu":
        keep_freed_memory()
    # With noise no sequence is seen twice.
    repeats = recipe.frozen and not recipe.hidden_share
    kept = Kept() if recipe.is_new else kept
    with asked_once(model, kept) if repeats else contextlib.nullcontext():
        measure(model, train.evenly(MEASURED_ROWS).table.ids, choice.strands)
        trainer = FinetuneTrainer(
            restrict(model, recipe),
            arguments,
            rows=rows,
            valid=valid,
            card=card,
            weigh_classes=recipe.class_weights and train.task.kind != "regression",
            head_rate=recipe.head_learning_rate,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(StopEarly(recipe.waits))
        mean_length = float(train.table.lengths.mean())
        trainer.add_callback(RichProgress(round(recipe.batch_size * mean_length)))
        _train(trainer, recipe.waits)
    result = _finish(trainer, recipe.model, folder, seed)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _train(trainer: FinetuneTrainer, patience: int) -> None:
    """Train from the newest checkpoint, and put the best weights into the model."""
    checkpoint = next(reversed(complete_checkpoints(trainer.folder)), None)
    if checkpoint is not None:
        state = trainer.state.load_from_json(str(checkpoint / "trainer_state.json"))
        if has_stopped(state.log_history, patience):
            trainer.state = state
            trainer.load_best()
            return
    torch.manual_seed(trainer.rows.seed)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.load_best()


def _arguments(
    recipe: FinetuneRecipe, work: Path, seed: int, epochs: int, rows: int
) -> TrainingArguments:
    on_cpu = trains_on_cpu(recipe.device)
    rising = recipe.warmup * epochs * math.ceil(rows / recipe.batch_size)
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        # Warming up begins with a step at rate 0, which may be the only one.
        warmup_steps=recipe.warmup if rising >= 1 else 0,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        bf16=uses_bfloat16(recipe.precision, on_cpu=on_cpu),
        use_cpu=on_cpu,
        seed=seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        logging_nan_inf_filter=False,
        metric_for_best_model="score",
        greater_is_better=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to=[],
    )
    keep_to_one_device(arguments)
    return arguments


def _finish(trainer: FinetuneTrainer, model: str, folder: Path, seed: int) -> RunResult:
    """Scale logits, choose thresholds on the development set; write the checkpoint."""
    # Taking the mixed-precision wrapper off makes thresholds those of float32, which is
    # what predictions will be made in.
    network = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    task, labels = trainer.card.task, trainer.valid.labels
    network = merged(network)
    total = sum(p.numel() for p in network.parameters())
    # Only the last layer changes in between: what is below is asked once.
    with asked_once(network, Kept(KEPT_AT_THE_END)):
        temperature = fit_temperature(task, labels, trainer.valid_logits(network))
        divide_logits(network, temperature)
        scores = trainer.card.scores(trainer.valid_logits(network))
    thresholds = metrics.choose_thresholds(task, labels, scores)
    history = _history(trainer.state.log_history)
    best = metrics.best_judgement(
        [row["score"] for row in history], [row["loss"] for row in history]
    )
    facts: dict[str, Any] = {
        "seed": seed,
        "score": history[best]["score"],
        "epochs": len(history),
        "best_epoch": best + 1,
        "history": history,
        "parameters": total,
        "trained_parameters": trained,
        "temperature": temperature,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(folder) as staging:
        save_model(network, staging)
        save_tokenizer(model, staging)
        # Code that came with a checkpoint is not run again without being asked for.
        if not getattr(network.config, "remote_code", False):
            write_record(staging)
        replace(trainer.card, thresholds=thresholds).write(staging)
        with atomic_open(staging / RESULT_NAME) as handle:
            json.dump(facts, handle, indent=1)
    return RunResult(folder=folder, **facts)


def save_model(model: Any, folder: Path) -> None:
    """Write a checkpoint that transformers' Auto classes load."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _history(log: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """One row per epoch: what the development set said, and the training loss."""
    rows, training = [], float("nan")
    for entry in log:
        if "loss" in entry:
            training = entry["loss"]
        if "eval_score" in entry:
            row = {k.removeprefix("eval_"): v for k, v in entry.items() if "eval_" in k}
            rows.append({**row, "epoch": entry["epoch"], "training_loss": training})
    return rows


def read_result(folder: Path) -> RunResult:
    """Read back what a finished run wrote."""
    return RunResult(folder=folder, **json.loads((folder / RESULT_NAME).read_text()))
