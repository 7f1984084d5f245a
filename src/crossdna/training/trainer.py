"""The loop of pretraining: transformers' Trainer with our objective and saving.

What is added to it: every optimiser step sees the samples that its number says, however
many processes share them; losses are normalised over the whole step; a teacher follows
the model; checkpoints are whole or absent; a loss that is no number stops the run.
Nothing in a step asks the device for a value: the host looks when it logs or saves.
"""

from __future__ import annotations

import json
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, SequentialSampler, Subset
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import EvalLoopOutput

from crossdna.errors import CrossDNAError
from crossdna.files import atomic_directory
from crossdna.training.checkpoints import (
    best_path,
    checkpoint_path,
    partial_path,
    prune,
    publish,
    saving,
    start_partial,
)
from crossdna.training.finite import FiniteWatch
from crossdna.training.objectives import masked_cross_entropy
from crossdna.training.optimizer import Muon, parameter_groups
from crossdna.training.schedule import RunClock, cosine_with_warmup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel, TrainingArguments

    from crossdna.data.windows import WindowDataset
    from crossdna.training.pretraining_encoding import Encoding
    from crossdna.training.pretraining_objectives import PretrainingObjective
    from crossdna.training.pretraining_recipe import TrainSettings

OBJECTIVE_NAME = "objective.safetensors"
METRICS_NAME = "metrics.json"
CLOCK_NAME = "clock.json"


class NonFiniteLossError(CrossDNAError):
    """Training cannot go on; the message names step, loci and where the state lies."""


class PretrainingTrainer(Trainer):
    """Trains on windows; sample i of optimiser step s is always number s * batch + i.

    Parameters
    ----------
    model
        A language model; ``forward(input_ids, **options)`` gives ``logits``.
    args
        With `output_dir` the folder for checkpoints.
    windows
        All samples of the run, in order.
    held_out
        Samples to evaluate on, if any.
    encoding
        How windows become batches, and logits bits per base.
    objective
        What the model learns beside the predicted bases.
    settings
        The recipe's ``[train]`` section; `args` repeats what transformers needs of it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        windows: WindowDataset,
        held_out: WindowDataset | None,
        encoding: Encoding,
        objective: PretrainingObjective,
        settings: TrainSettings,
    ) -> None:
        super().__init__(model, args, train_dataset=windows, eval_dataset=held_out)
        # The loss below is already divided by what the whole step predicts.
        self.model_accepts_loss_kwargs = True
        self.windows, self.held_out = windows, held_out
        self.encoding = encoding
        self.goal, self.settings = objective, settings
        teacher = getattr(objective, "teacher", None)
        if teacher is not None:
            # Copied from the model before that was moved to its device.
            teacher.to(self.args.device)
        minutes = settings.max_minutes
        self.clock = RunClock(settings.steps, None if minutes is None else 60 * minutes)
        self._watch = FiniteWatch(("loss", "gradient norm"), self.args.device)
        self._start_parts()

    @property
    def folder(self) -> Path:
        """Where checkpoints lie."""
        return Path(str(self.args.output_dir))

    def get_train_dataloader(self) -> DataLoader:
        """Batches in the order of sample numbers, dealt out to the processes."""
        loader = DataLoader(
            self.windows,
            batch_size=self.args.per_device_train_batch_size,
            sampler=SequentialSampler(self.windows),
            collate_fn=self.encoding.train,
            num_workers=self.args.dataloader_num_workers,
            # Pinned pages are copied while the GPU computes; the loader that
            # accelerate makes of this one is a batch ahead.
            pin_memory=self.args.device.type == "cuda",
            prefetch_factor=4 if self.args.dataloader_num_workers else None,
        )
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Held-out windows, dealt out to the processes so that none is read twice."""
        assert self.held_out is not None
        total, own = len(self.held_out), self.args.process_index
        return DataLoader(
            Subset(self.held_out, range(own, total, self.args.world_size)),
            batch_size=self.args.per_device_eval_batch_size,
            collate_fn=self.encoding.held_out,
        )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Matrices and convolutions; no norm, bias or per-head scalar is decayed."""
        return [name for name, p in model.named_parameters() if p.ndim > 1]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW as transformers makes it, or Muon."""
        use = self.settings
        if use.optimizer == "adamw":
            return super().create_optimizer(model)
        if self.optimizer is None:
            groups = parameter_groups(self.model, use.weight_decay)
            self.optimizer = Muon(groups, use.lr, (0.9, use.beta2))
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> LRScheduler:
        """Let the learning rate follow the clock."""
        if self.lr_scheduler is None:
            use, clock = self.settings, self.clock
            optimizer = optimizer or self.optimizer
            assert optimizer is not None

            def factor(step: int) -> float:
                # The rate of the step to come, counted from 1: none has rate 0.
                done = clock.done(step + 1)
                return cosine_with_warmup(done, use.warmup, use.min_lr_share)

            self.lr_scheduler = LambdaLR(optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """One step's micro-batches and the weight of all that the step predicts."""
        began = time.monotonic()
        batches = list(islice(epoch_iterator, num_batches))
        self._waited += time.monotonic() - began
        self._watch.start_step(self.state.global_step, [b["index"] for b in batches])
        self._steps_noted += 1
        weight = torch.stack([b["weights"].sum() for b in batches]).sum().to(device)
        return batches, self.accelerator.reduce(weight, "sum").clamp(min=1e-6)

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Give a micro-batch's share of the step's loss.

        Shares are such that their sum over micro-batches, averaged over processes (as
        data parallel training does with gradients), is the loss of the whole step.
        """
        step, network = self.state.global_step, self.accelerator.unwrap_model(model)
        self.goal.prepare(network, step)
        output = model(**_read(inputs), **self.goal.forward_options)
        masked = masked_cross_entropy(
            output.logits, inputs["labels"], inputs["weights"]
        )
        masked_loss = masked.total * self.args.world_size / num_items_in_batch
        with self.accelerator.autocast():
            terms = self.goal.auxiliary_terms(
                network, output, inputs["input_ids"], step
            )
        loss = masked_loss
        for term in terms:
            share = term.value / self.current_gradient_accumulation_steps
            loss = loss + term.weight * share
            self._note(term.name, share)
        self._note(self.goal.main_term, masked_loss)
        self._watch.note("loss", step, loss)
        return (loss, output) if return_outputs else loss

    def _note(self, name: str, value: Tensor) -> None:
        noted = self._parts.get(f"loss_{name}", 0.0)
        self._parts[f"loss_{name}"] = noted + value.detach()

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip; from the first value on that is no number, updates change nothing.

        So the weights are still those that gave it when the host comes to look.
        """
        norm = super()._clip_grad_norm(model)
        self._watch.note("gradient norm", self.state.global_step, torch.as_tensor(norm))
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        optimizer.found_inf = self._watch.spoiled()  # type: ignore[union-attr]
        return norm

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        control = self.control
        if control.should_log or control.should_evaluate or control.should_save:
            self._require_finite()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _require_finite(self) -> None:
        bad = self._watch.look()
        if bad is None:
            return
        samples = self._watch.samples_of(bad.step)
        loci = [str(self.windows.locus(i)) for i in samples]
        report = {
            "step": bad.step,
            bad.what: str(bad.value),
            "process": self.args.process_index,
            "samples": samples,
            "loci": loci,
            "parts": {name: part.item() for name, part in self._parts.items()},
        }
        place = self.folder / f"non-finite-{bad.step}-process-{self.args.process_index}"
        shutil.rmtree(place, ignore_errors=True)
        with atomic_directory(place) as partial:
            network = self.accelerator.unwrap_model(self.model)
            network.save_pretrained(partial)
            assert self.optimizer is not None
            torch.save(self.optimizer.state_dict(), partial / "optimizer.pt")
            self._save_objective(partial)
            (partial / METRICS_NAME).write_text(json.dumps(report, indent=1))
        shown = ", ".join(loci[:4]) + (", ..." if len(loci) > 4 else "")
        raise NonFiniteLossError(
            f"step {bad.step}: the {bad.what} is {bad.value}; windows {shown}; the "
            f"state is in {place}. A lower train.lr or precision float32 may help"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, averaged since the last log, and the waiting.

        ``data_wait`` is the share of the time since then that this process waited for
        its windows: near 0 unless the loader is slower than the network.
        """
        if "loss" in logs and self._parts:
            logs["data_wait"] = self._waited / (time.monotonic() - self._noted_since)
            names = sorted(self._parts)
            values = torch.stack([self._parts[name].float() for name in names])
            sums = self.accelerator.reduce(values, "mean").tolist()
            logs |= {
                name: total / self._steps_noted
                for name, total in zip(names, sums, strict=True)
            }
            self._start_parts()
        super().log(logs, start_time)

    def _start_parts(self) -> None:
        self._parts: dict[str, Tensor] = {}
        self._steps_noted = 0
        self._waited, self._noted_since = 0.0, time.monotonic()

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Predicted bases of held-out windows, each counting the same.

        Metrics: ``loss`` (nats), ``bits_per_base`` and ``accuracy`` among A C G T.
        """
        network = self.accelerator.unwrap_model(self.model)
        self.goal.prepare(network, self.state.global_step)
        was_training = network.training
        network.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.args.device)
        for batch in dataloader:
            batch = self._prepare_inputs(batch)
            output = network(**_read(batch), **self.goal.evaluation_options)
            sums += self.encoding.readout(output.logits, batch)
        network.train(was_training)
        nats, bits, right, count = self.accelerator.reduce(sums, "sum").tolist()
        if not count:
            raise CrossDNAError(
                "no base of the validation windows was hidden; raise "
                "windows.valid_windows or windows.length"
            )
        values = {
            "loss": nats / count,
            "bits_per_base": bits / count,
            "accuracy": right / count,
        }
        return EvalLoopOutput(
            predictions=np.empty(0),
            label_ids=None,
            metrics={f"{metric_key_prefix}_{k}": v for k, v in values.items()},
            num_samples=len(self.held_out or ()),
        )

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Keep the best model so far beside the checkpoints."""
        improved = super()._determine_best_metric(metrics, trial)
        if improved and self.args.should_save:
            network = self.accelerator.unwrap_model(self.model)
            place = best_path(self.folder, self.state.global_step)
            # Left by a run that was killed between this step and its next checkpoint.
            shutil.rmtree(place, ignore_errors=True)
            with saving(place), atomic_directory(place) as part:
                network.save_pretrained(part)
                (part / METRICS_NAME).write_text(json.dumps(metrics, indent=1))
        return improved

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save everything that the run depends on; the directory appears when whole."""
        step = self.state.global_step
        final = checkpoint_path(self.folder, step)
        self.goal.prepare(self.accelerator.unwrap_model(model), step)
        if self.args.should_save:
            start_partial(final)
        self.accelerator.wait_for_everyone()
        partial = str(partial_path(final))
        with saving(final):
            self.save_model(partial, _internal_call=True)
            self._save_optimizer_and_scheduler(partial)
            self._save_scaler(partial)
            self._save_rng_state(partial)
            if self.args.should_save:
                self._save_objective(Path(partial))
                clock = {"seconds": self.clock.spent}
                (Path(partial) / CLOCK_NAME).write_text(json.dumps(clock))
                self.state.save_to_json(str(Path(partial) / TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish(final)
            prune(
                self.folder,
                self.settings.keep_checkpoints,
                best_step=self.state.best_global_step,
            )
        self.accelerator.wait_for_everyone()

    def _save_objective(self, folder: Path) -> None:
        state = self.goal.state_dict()
        state = {name: value.contiguous() for name, value in state.items()}
        save_file(state, folder / OBJECTIVE_NAME)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Read the weights as `from_pretrained` does.

        transformers would match raw keys, warn, and go on with random weights wherever
        a family is saved under other names than it has in memory (ESM).
        """
        network = self.accelerator.unwrap_model(model or self.model)
        saved = type(network).from_pretrained(resume_from_checkpoint)
        network.load_state_dict(saved.state_dict())

    def load_own_state(self, checkpoint: Path) -> None:
        """Restore from a checkpoint what transformers knows nothing of."""
        clock = json.loads((checkpoint / CLOCK_NAME).read_text())
        self.clock.resume(clock["seconds"])
        self.goal.load_state_dict(load_file(checkpoint / OBJECTIVE_NAME))


def _read(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch goes into the model; there is a mask where tokens are padded."""
    return {
        name: batch[name] for name in ("input_ids", "attention_mask") if name in batch
    }
