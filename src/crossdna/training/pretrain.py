"""Pretraining a model from a recipe, resumable at any moment."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer_callback import PrinterCallback

import crossdna
from crossdna.command_line import command_line
from crossdna.config import from_table, require_same, to_table, write_toml
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open, atomic_path, claim_output_directory
from crossdna.memory import keep_freed_memory
from crossdna.models.building import new_language_model, require_reads
from crossdna.models.execution import compile_layers
from crossdna.models.record import write_record
from crossdna.training.checkpoints import (
    best_path,
    checkpoint_step,
    complete_checkpoints,
    saving,
)
from crossdna.training.devices import keep_to_one_device, trains_on_cpu
from crossdna.training.precision import uses_bfloat16
from crossdna.training.pretraining_data import (
    OpenGenome,
    open_genomes,
    training_windows,
    validation_windows,
)
from crossdna.training.pretraining_objectives import (
    CausalObjective,
    CrossDNAObjective,
    MaskedObjective,
    ObjectiveSettings,
)
from crossdna.training.pretraining_recipe import (
    FREE_ON_RESUME,
    PretrainRecipe,
    TrainSettings,
    model_config,
    window_encoding,
)
from crossdna.training.progress import RichProgress
from crossdna.training.trainer import PretrainingTrainer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from crossdna.training.pretraining_objectives import PretrainingObjective
    from crossdna.training.schedule import RunClock

RECIPE_NAME = "recipe.toml"
PROVENANCE_NAME = "provenance.json"
LOG_NAME = "training_log.jsonl"
DATA_NAME = "data.json"


def pretrain(recipe: PretrainRecipe, output: Path, *, resume: bool = False) -> Path:
    """Train a model; with `resume`, go on from the newest whole checkpoint.

    Parameters
    ----------
    recipe
        What to do.
    output
        Directory for the model, the recipe, the log and the checkpoints.
    resume
        Allow `output` to hold a run of the same recipe and finish it.

    Returns
    -------
    output

    Raises
    ------
    CrossDNAError
        Bad input, found before anything is written, or a loss that is no number.
    """
    genomes = open_genomes(recipe.genome)
    held_out = validation_windows(genomes, recipe.windows)
    windows = training_windows(
        genomes,
        recipe.windows,
        samples=recipe.train.steps * recipe.train.batch_size,
        seed=recipe.train.seed,
    )
    encoding = window_encoding(recipe)
    # Weights before the trainer, dropout after it, from seeds of their own.
    set_seed(recipe.train.seed)
    model = new_language_model(model_config(recipe.model, encoding.tokenizer))
    checkpoint = next(reversed(complete_checkpoints(output / "checkpoints")), None)
    if recipe.train.initial is not None and checkpoint is None:
        start_from(model, recipe.train.initial)
    require_reads(model, encoding.train([windows[0]]))
    arguments = _arguments(recipe.train, output / "checkpoints", held_out is not None)
    if arguments.should_save:
        for part in (windows, held_out) if held_out is not None else (windows,):
            for note in part.notes():
                print(f"note: {note}", file=sys.stderr)
        _claim(recipe, output, resume=resume)
        _claim_data(genomes, output / DATA_NAME)
    arguments.distributed_state.wait_for_everyone()
    if (output / PROVENANCE_NAME).is_file():
        return output
    trainer = PretrainingTrainer(
        model,
        arguments,
        windows=windows,
        held_out=held_out,
        encoding=encoding,
        objective=_objective(recipe.objective, model),
        settings=recipe.train,
    )
    if arguments.device.type == "cpu":
        keep_freed_memory()
    if recipe.train.compile and not arguments.use_cpu:
        compile_layers(model, getattr(trainer.goal, "teacher", None))
    if checkpoint is not None:
        trainer.load_own_state(checkpoint)
    done = 0 if checkpoint is None else checkpoint_step(checkpoint)
    _add_callbacks(trainer, recipe, output, done)
    torch.manual_seed(recipe.train.seed + arguments.process_index)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if arguments.should_save:
        _write_result(trainer, recipe, genomes, output)
    trainer.accelerator.wait_for_everyone()
    return output


def start_from(model: PreTrainedModel, path: Path) -> None:
    """Give a new model the weights of a checkpoint, all of them.

    Raises
    ------
    CrossDNAError
        No checkpoint there, or one of another shape or kind of network.
    """
    if not (path / "config.json").is_file():
        raise CrossDNAError(f"train.initial: {path} is no checkpoint directory")
    own = model.state_dict()
    try:
        other = type(model).from_pretrained(str(path)).state_dict()
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CrossDNAError(f"train.initial: {path}: {reason}") from error
    for name in sorted(own.keys() | other.keys()):
        shapes = [tuple(w[name].shape) if name in w else None for w in (other, own)]
        if shapes[0] != shapes[1]:
            raise CrossDNAError(
                f"train.initial: {path} has {name} of shape {shapes[0]}, "
                f"[model] of {shapes[1]}"
            )
    model.load_state_dict(other)


def _objective(settings: ObjectiveSettings, model: Any) -> PretrainingObjective:
    if settings.type == "crossdna":
        return CrossDNAObjective(settings, model)
    return MaskedObjective() if settings.type == "masked" else CausalObjective()


def _arguments(
    settings: TrainSettings, folder: Path, evaluates: bool
) -> TrainingArguments:
    """Translate for transformers, once it is clear that the devices are there."""
    on_cpu = trains_on_cpu(settings.device)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.beta2,
        max_grad_norm=settings.clip,
        optim="adamw_torch_fused",
        bf16=uses_bfloat16(settings.precision, on_cpu=on_cpu),
        tf32=None if on_cpu else settings.tf32,
        use_cpu=on_cpu,
        seed=settings.seed,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=settings.evaluate_every,
        save_steps=settings.save_every,
        metric_for_best_model="loss",
        greater_is_better=False,
        dataloader_num_workers=settings.workers,
        accelerator_config={"non_blocking": not on_cpu},
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to=[],
    )
    keep_to_one_device(arguments)
    if settings.max_minutes is not None and arguments.world_size > 1:
        raise CrossDNAError(
            "train.max_minutes is for one process: the clocks of several disagree"
        )
    share, rest = divmod(settings.batch_size, arguments.world_size)
    if rest:
        raise CrossDNAError(
            f"train.batch_size {settings.batch_size} cannot be dealt out evenly to "
            f"{arguments.world_size} processes"
        )
    micro = min(settings.micro_batch or share, share)
    if share % micro:
        raise CrossDNAError(
            f"train.micro_batch {micro} does not divide the {share} windows that a "
            "process reads in a step"
        )
    arguments.per_device_train_batch_size = micro
    arguments.per_device_eval_batch_size = micro
    arguments.gradient_accumulation_steps = share // micro
    return arguments


def _claim(recipe: PretrainRecipe, output: Path, *, resume: bool) -> None:
    """Take the output directory, or check that its run is this one."""
    claim_output_directory(output, resume=resume)
    path, table = output / RECIPE_NAME, to_table(recipe)
    if path.is_file():
        # Settings that are newer than the run have the values it had without them.
        begun = from_table(tomllib.loads(path.read_text()), PretrainRecipe)
        require_same(path, to_table(begun), table, FREE_ON_RESUME)
    elif any(output.glob("[!.]*")):
        raise CrossDNAError(f"{output} holds no run to resume: it has no {RECIPE_NAME}")
    with atomic_open(path) as handle:
        handle.write(write_toml(table))


def _claim_data(genomes: Sequence[OpenGenome], path: Path) -> None:
    """Note what is read and held out, or check that it is what the run began with."""
    now = {g.name: _facts(g) for g in genomes}
    if not path.is_file():
        with atomic_open(path) as handle:
            json.dump(now, handle, indent=1)
        return
    begun = json.loads(path.read_text())
    for name, facts in now.items():
        for what, value in facts.items():
            if begun.get(name, {}).get(what) != value:
                raise CrossDNAError(
                    f"genome.{name}: its {what} is not that with which the run in "
                    f"{path.parent} was started; put it back, or start another run"
                )


def _facts(genome: OpenGenome) -> dict[str, str]:
    """Fingerprints of a genome and of the regions of each split."""
    facts = {"DNA": genome.genome.fingerprint}
    for split, regions in genome.regions.items():
        places = ",".join(map(str, regions))
        facts[f"{split} regions"] = hashlib.sha256(places.encode()).hexdigest()[:16]
    return facts


class FollowModel(TrainerCallback):
    """Lets the teachers follow after each optimiser step."""

    def __init__(self, objective: PretrainingObjective) -> None:
        self.objective = objective

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        """Update, before the step's checkpoint is written."""
        self.objective.after_update(model)


class OwnIntervals(TrainerCallback):
    """Lets a resumed run log and save as often as its recipe says now."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Replace what the checkpoint says of it."""
        state.compute_steps(args, state.max_steps)


class Deadline(TrainerCallback):
    """Ends a run whose time is up, after a last look and a checkpoint."""

    def __init__(self, clock: RunClock) -> None:
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop when all is done, by steps or by time."""
        self.clock.begin()
        if self.clock.done(state.global_step) >= 1:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = args.eval_strategy != "no"


class LogFile(TrainerCallback):
    """Writes the whole log as JSON lines whenever a checkpoint is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what has been logged since step 0, resumed or not."""
        if state.is_world_process_zero:
            with atomic_open(self.path) as handle:
                handle.writelines(json.dumps(row) + "\n" for row in state.log_history)

    on_train_end = on_save


def _add_callbacks(
    trainer: PretrainingTrainer, recipe: PretrainRecipe, output: Path, done: int
) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(OwnIntervals())
    trainer.add_callback(FollowModel(trainer.goal))
    trainer.add_callback(Deadline(trainer.clock))
    if trainer.args.should_save:
        trainer.add_callback(LogFile(output / LOG_NAME))
        # What a killed run showed after its last checkpoint is shown again.
        writer = SummaryWriter(str(output / "tensorboard"), purge_step=done + 1)
        trainer.add_callback(TensorBoardCallback(writer))
    bases = recipe.train.batch_size * recipe.windows.length
    trainer.add_callback(RichProgress(bases))


def _write_result(
    trainer: PretrainingTrainer,
    recipe: PretrainRecipe,
    genomes: Sequence[OpenGenome],
    output: Path,
) -> None:
    """Put the model, its tokenizer and how it was made into the output directory."""
    best, weights_step = trainer.state.best_global_step, trainer.state.global_step
    with saving(output), tempfile.TemporaryDirectory(dir=output, prefix=".") as name:
        folder = Path(name)
        trainer.encoding.tokenizer.save_pretrained(folder)
        if recipe.train.keep == "best" and best is not None:
            weights_step = best
            for part in ("config.json", "model.safetensors"):
                shutil.copy(best_path(trainer.folder, best) / part, folder / part)
        else:
            trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)
        write_record(folder)
        for file in folder.iterdir():
            with atomic_path(output / file.name) as temporary:
                shutil.copy(file, temporary)
    facts = {
        "package": f"crossdna {crossdna.__version__}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "command": command_line(),
        "seed": recipe.train.seed,
        "genomes": {g.name: g.genome.fingerprint for g in genomes},
        "steps": trainer.state.global_step,
        "weights_of_step": weights_step,
        "best_held_out_loss": trainer.state.best_metric,
        "processes": trainer.args.world_size,
        "device": str(trainer.args.device),
        "precision": "bf16" if trainer.args.bf16 else "float32",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    # Written last: this file says that the run is finished.
    with atomic_open(output / PROVENANCE_NAME) as handle:
        handle.write(json.dumps(facts, indent=1) + "\n")
