"""What a family of models learns besides the masked bases, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from crossdna.errors import CrossDNAError
from crossdna.training.objectives import (
    gate_supervision,
    semantic_preservation,
    strand_decorrelation,
    strand_kl,
    total_variation,
    warmed_up,
)
from crossdna.training.teacher import Teacher

if TYPE_CHECKING:
    from torch import Tensor

    from crossdna.models.crossdna import CrossDNAForMaskedLM
    from crossdna.models.crossdna.configuration import CrossDNAConfig


class AuxiliaryTerm(NamedTuple):
    """A loss beside the masked bases' cross-entropy."""

    name: str
    weight: float
    value: Tensor


class PretrainingObjective(Protocol):
    """The part of pretraining that knows a family of models.

    Steps are optimiser steps, counted from 0, before their update.
    """

    main_term: str
    """What the log calls the cross-entropy: masked, or next for causal models."""
    forward_options: dict[str, Any]
    """Passed to the model's forward in training beside the batch."""
    evaluation_options: dict[str, Any]
    """The same in evaluation."""

    def prepare(self, model: Any, step: int) -> None:
        """Put the model in the state that belongs to a step."""

    def auxiliary_terms(
        self, model: Any, output: Any, input_ids: Tensor, step: int
    ) -> list[AuxiliaryTerm]:
        """The losses to add, each a mean over the batch."""

    def after_update(self, model: Any) -> None:
        """Follow the model after an optimiser step."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave; a missing or extra entry is an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveSettings:
    """The ``[objective]`` section: weights and schedules in optimiser steps.

    The defaults are the released recipe's; the last three terms are off in it. All but
    the type is for CrossDNA's own objective, and is not read for the others.
    """

    type: Literal["auto", "crossdna", "masked", "causal"] = "auto"
    """masked: cross-entropy of hidden bases; causal: of each next base; crossdna:
    masked with the terms below; auto: what the model's family is for."""
    semantic_weight: float = 0.12
    """Keeps each branch near its teacher, summed over blocks and branches."""
    semantic_warmup_steps: int = 10_000
    """Steps in which that weight grows to its value."""
    gate_freeze_steps: int = 5_000
    """Steps during which the strands are fused with equal weights."""
    gate_weight: float = 0.02
    """Makes the gate favour the forward strand, once it is free."""
    gate_warmup_steps: int = 500
    """Steps, after the gate is free, in which that weight grows to its value."""
    teacher_decay: float = 0.999
    """How much of a teacher's weights a step keeps; the rest is the branch's."""
    strand_kl_weight: float = 0.0
    """Agreement of the two branches' predictions."""
    decorrelation_weight: float = 0.0
    """Agreement of the two branches channel by channel (Barlow twins)."""
    total_variation_weight: float = 0.0
    """Smoothness of the fusion gate along the sequence."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if name != "type" and getattr(self, name) < 0:
                raise CrossDNAError(f"{name} must not be negative")
        if not 0 <= self.teacher_decay < 1:
            raise CrossDNAError(f"teacher_decay {self.teacher_decay} not in [0, 1)")


class MaskedObjective:
    """Nothing but the hidden bases, for any family that reads both sides."""

    main_term = "masked"

    def __init__(self) -> None:
        self.forward_options: dict[str, Any] = {}
        self.evaluation_options: dict[str, Any] = {}

    def prepare(self, model: Any, step: int) -> None:
        """Nothing depends on the step."""

    def auxiliary_terms(
        self, model: Any, output: Any, input_ids: Tensor, step: int
    ) -> list[AuxiliaryTerm]:
        """None."""
        return []

    def after_update(self, model: Any) -> None:
        """Nothing follows the model."""

    def state_dict(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Refuse anything but nothing."""
        if state:
            raise CrossDNAError(f"unexpected objective state {sorted(state)[0]!r}")


class CausalObjective(MaskedObjective):
    """Nothing but each next base, for families that read from the left."""

    main_term = "next"

    def __init__(self) -> None:
        # Whole windows are read at once: what a model keeps for the next base is waste.
        self.forward_options = {"use_cache": False}
        self.evaluation_options = {"use_cache": False}


class CrossDNAObjective:
    """Semantic preservation, gate supervision and the optional strand terms.

    Parameters
    ----------
    settings
        Weights and schedules.
    model
        The network to train; its branches and bridge are copied as teachers.
    """

    main_term = "masked"

    def __init__(self, settings: ObjectiveSettings, model: CrossDNAForMaskedLM) -> None:
        self.settings = settings
        self.teacher = (
            Teacher(model.model, settings.teacher_decay)
            if settings.semantic_weight
            else None
        )
        self.forward_options: dict[str, Any] = {"output_branches": True}
        self.evaluation_options: dict[str, Any] = {}

    def prepare(self, model: CrossDNAForMaskedLM, step: int) -> None:
        """Freeze or free the fusion gate."""
        model.config.gate_frozen = step < self.settings.gate_freeze_steps

    def auxiliary_terms(
        self, model: CrossDNAForMaskedLM, output: Any, input_ids: Tensor, step: int
    ) -> list[AuxiliaryTerm]:
        """The weighted terms of this step.

        Parameters
        ----------
        output
            The masked model's, with branches.
        input_ids : (B, L) int64
            What the model saw, without padding.
        """
        use, block = self.settings, model.config.block_size or input_ids.shape[1]
        terms = []
        weight = warmed_up(step, use.semantic_weight, use.semantic_warmup_steps)
        if weight and self.teacher is not None:
            value = self._semantic(self.teacher, model, output, input_ids, block)
            terms.append(AuxiliaryTerm("semantic", weight, value))
        # Present even at weight 0: a frozen gate must still have a gradient, or data
        # parallel training waits for it.
        weight = warmed_up(
            step, use.gate_weight, use.gate_warmup_steps, use.gate_freeze_steps
        )
        value = _gate(output.fusion_logits, block, model.config)
        terms.append(AuxiliaryTerm("gate", weight, value))
        if use.strand_kl_weight:
            value = strand_kl(output.logits_branch_a, output.logits_branch_b)
            terms.append(AuxiliaryTerm("strand_kl", use.strand_kl_weight, value))
        if use.decorrelation_weight:
            value = strand_decorrelation(output.branch_a, output.branch_b)
            terms.append(
                AuxiliaryTerm("decorrelation", use.decorrelation_weight, value)
            )
        if use.total_variation_weight:
            value = total_variation(output.fusion_logits.float().sigmoid())
            terms.append(
                AuxiliaryTerm("total_variation", use.total_variation_weight, value)
            )
        return terms

    def _semantic(
        self,
        teacher: Teacher,
        model: CrossDNAForMaskedLM,
        output: Any,
        input_ids: Tensor,
        block: int,
    ) -> Tensor:
        targets = teacher.targets(model.model, input_ids)
        losses = []
        for t, start in enumerate(range(0, input_ids.shape[1], block)):
            here = slice(start, start + block)
            read_a, read_b = targets.forward, targets.reverse
            if not model.config.a_reads_forward(t):
                read_a, read_b = read_b, read_a
            for features, target in (
                (output.branch_a, read_a.a),
                (output.branch_b, read_b.b),
            ):
                losses.append(semantic_preservation(features[:, here], target[:, here]))
        return sum(losses[1:], losses[0])

    def after_update(self, model: CrossDNAForMaskedLM) -> None:
        """Move the teachers."""
        if self.teacher is not None:
            self.teacher.update(model.model)

    def state_dict(self) -> dict[str, Tensor]:
        """The teachers' weights."""
        return {} if self.teacher is None else self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the teachers."""
        if self.teacher is not None:
            self.teacher.load_state_dict(state)
        elif state:
            raise CrossDNAError("the checkpoint has teachers, the recipe has none")


def _gate(fusion_logits: Tensor, block: int, config: CrossDNAConfig) -> Tensor:
    """Gate supervision summed over blocks."""
    losses = [
        gate_supervision(part, config.a_reads_forward(t))
        for t, part in enumerate(fusion_logits.split(block, dim=1))
    ]
    return sum(losses[1:], losses[0])
