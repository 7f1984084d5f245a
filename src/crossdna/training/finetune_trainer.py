"""The loop of fine-tuning: transformers' Trainer, judged on the development set."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from crossdna.data import metrics
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_directory
from crossdna.models.batched import predict_logits
from crossdna.models.task_loss import task_loss
from crossdna.training.checkpoints import (
    best_path,
    checkpoint_path,
    partial_path,
    prune,
    publish,
    start_partial,
)
from crossdna.training.finetune_data import EpochLoader, class_weights
from crossdna.training.finetune_model import load_trainable_state, trainable_state
from crossdna.training.finite import FiniteWatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import TrainingArguments

    from crossdna.data.labelled import LabelledSet
    from crossdna.data.task_card import TaskCard
    from crossdna.training.finetune_data import TrainingRows

WEIGHTS_NAME = "trainable.safetensors"
LOOK_EVERY = 50
"""Steps after which a GPU is asked whether losses were numbers."""


class FinetuneTrainer(Trainer):
    """Trains on labelled rows and keeps the weights that are best on `valid`.

    The test set is no argument of anything here.

    Parameters
    ----------
    model
        With a head for the task; weights that stay as they are need no gradient.
    args
        With `output_dir` the folder for checkpoints.
    rows
        The training set.
    valid
        The development set.
    card
        How outputs are read; its thresholds are not used.
    weigh_classes
        Whether rare classes weigh more in the loss.
    head_rate
        Peak learning rate of weights outside the network proper.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        rows: TrainingRows,
        valid: LabelledSet,
        card: TaskCard,
        weigh_classes: bool = False,
        head_rate: float,
    ) -> None:
        super().__init__(model, args, train_dataset=rows, eval_dataset=valid)
        if args.world_size > 1:
            raise CrossDNAError("fine-tuning runs in one process; start it without it")
        self.rows, self.valid, self.card = rows, valid, card
        self.head_rate = head_rate
        self.weights = class_weights(rows.data) if weigh_classes else None
        self._watch = FiniteWatch(("loss",), self.args.device)
        self.frozen = [
            part
            for part in model.children()
            if not any(p.requires_grad for p in part.parameters())
        ]

    @property
    def folder(self) -> Path:
        """Where checkpoints lie."""
        return Path(str(self.args.output_dir))

    def get_train_dataloader(self) -> EpochLoader:
        """Batches of similar length."""
        return EpochLoader(
            self.rows, self.args.per_device_train_batch_size, self.rows.seed
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with a rate of its own for the head, which starts from nothing.

        Matrices and convolutions are decayed; no norm, bias or per-head scalar is.
        """
        network: Any = self._network()
        # A low-rank wrapper puts more in front of the names.
        inside = f"{getattr(network, 'base_model_prefix', 'model')}."
        if hasattr(network, "get_base_model"):
            inside = f"base_model.model.{network.get_base_model().base_model_prefix}."
        groups = [
            {
                "params": [
                    p
                    for name, p in network.named_parameters()
                    if p.requires_grad
                    and name.startswith(inside) == body
                    and (p.ndim > 1) == decayed
                ],
                "lr": self.args.learning_rate if body else self.head_rate,
                "weight_decay": self.args.weight_decay if decayed else 0.0,
            }
            for body in (True, False)
            for decayed in (True, False)
        ]
        kept = [group for group in groups if group["params"]]
        self.optimizer = torch.optim.AdamW(kept, lr=self.args.learning_rate)
        return self.optimizer

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Loss of a batch by the kind of task, in float32."""
        # Dropout in a network that is not trained would only add noise.
        for part in self.frozen:
            part.eval()
        labels = inputs.pop("labels")
        output = model(**inputs)
        loss = task_loss(self.card.task.kind, output.logits, labels, self.weights)
        self._watch.note("loss", self.state.global_step, loss)
        # A GPU would wait for the host; a CPU has the number anyway.
        if loss.device.type == "cpu" or self.state.global_step % LOOK_EVERY == 0:
            self._require_numbers()
        return (loss, output) if return_outputs else loss

    def _require_numbers(self) -> None:
        if bad := self._watch.look():
            raise CrossDNAError(
                f"step {bad.step}: the loss is {bad.value}; a lower --lr or "
                "--precision float32 may help"
            )

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Metrics of the development set; ``score`` is the one that decides."""
        self._require_numbers()
        start = time.perf_counter()
        scores, loss = self.judge()
        task, labels = self.card.task, self.valid.labels
        thresholds = metrics.choose_thresholds(task, labels, scores)
        found = metrics.score(task, labels, scores, thresholds)
        found["score"] = metrics.deciding(task, found)
        found["loss"] = loss
        found["seconds"] = time.perf_counter() - start
        named = {f"{metric_key_prefix}_{key}": value for key, value in found.items()}
        self.log(dict(named))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, named
        )
        return named

    def judge(self) -> tuple[NDArray, float]:
        """Scores of the development set by the weights as they are, and their loss."""
        logits = self.valid_logits(self.model)
        return self.card.scores(logits), self._held_out_loss(logits)

    def valid_logits(self, model: Any) -> NDArray:
        """What a network answers to the development set."""
        return predict_logits(
            model,
            self.valid.table.ids,
            strand=self.card.strand,
            per_base=self.card.task.kind == "per-base",
        )

    def _held_out_loss(self, logits: NDArray) -> float:
        labels = self.valid.labels
        if self.card.task.kind == "per-base":
            logits, labels = metrics.flatten_bases(logits, labels)
        elif self.card.task.kind == "regression":
            scale = self.rows.scale
            labels = (labels - scale.means) / scale.scales
        truth = torch.from_numpy(np.asarray(labels))
        kind = self.card.task.kind
        return task_loss(
            "multiclass" if kind == "per-base" else kind,
            torch.from_numpy(logits),
            truth,
            None,
        ).item()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Keep the best weights so far beside the checkpoints."""
        improved = epochs_since_best(self.state.log_history) == 0
        if improved:
            self.state.best_metric = metrics["eval_score"]
            self.state.best_global_step = self.state.global_step
            place = best_path(self.folder, self.state.global_step)
            shutil.rmtree(place, ignore_errors=True)
            with atomic_directory(place) as part:
                save_file(trainable_state(self._network()), part / WEIGHTS_NAME)
        return improved

    def _network(self) -> nn.Module:
        assert self.model is not None
        return self.model

    def load_best(self) -> None:
        """Give the model the weights that were best on the development set."""
        place = best_path(self.folder, int(self.state.best_global_step or 0))
        load_trainable_state(self._network(), load_file(place / WEIGHTS_NAME))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save all that the run depends on; the directory appears when it is whole."""
        final = checkpoint_path(self.folder, self.state.global_step)
        start_partial(final)
        partial = partial_path(final)
        save_file(trainable_state(model), partial / WEIGHTS_NAME)
        self._save_optimizer_and_scheduler(str(partial))
        self._save_scaler(str(partial))
        self._save_rng_state(str(partial))
        self.state.save_to_json(str(partial / TRAINER_STATE_NAME))
        publish(final)
        prune(self.folder, 1, best_step=self.state.best_global_step)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        weights = load_file(Path(resume_from_checkpoint) / WEIGHTS_NAME)
        load_trainable_state(self._network(), weights)


class StopEarly(TrainerCallback):
    """Ends a run when the development set has seen no improvement for a while.

    Parameters
    ----------
    patience
        Epochs without improvement.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop after the epoch that was judged just now."""
        if has_stopped(state.log_history, self.patience):
            control.should_training_stop = True


def has_stopped(log: Sequence[dict[str, float]], patience: int) -> bool:
    """Whether the last `patience` judgements in a log brought no improvement.

    Told from the log alone, so that a resumed run stops where another would have.
    """
    return epochs_since_best(log) >= patience


def epochs_since_best(log: Sequence[dict[str, float]]) -> int:
    """How many judgements of a log came after the best one."""
    judged = [row for row in log if "eval_score" in row]
    scores, losses = ([row[f"eval_{k}"] for row in judged] for k in ("score", "loss"))
    return len(judged) - 1 - metrics.best_judgement(scores, losses)
