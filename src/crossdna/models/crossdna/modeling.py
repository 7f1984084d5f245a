"""CrossDNA: two causal branches read the two strands and exchange what they saw.

Written from the paper (Explicit dynamic cross-strand interactions for DNA sequence
language modelling, Nature Machine Intelligence 2026). Stems here, then the branches
(layers.py) read block by block (streams.py), meet in the bridge (bridge.py) and are
fused here; the heads stand at the end.

Four behaviours differ from the published network and are chosen in the configuration:
``strand_alignment`` (which reverse-strand slice meets a forward slice),
``block_context`` (whether anything crosses a block boundary), ``swap_strands`` (whether
the branches do so at it) and ``residual`` (whether layers add to their input).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import published
from crossdna.models.crossdna.bridge import BranchProjection, TokenBridge
from crossdna.models.crossdna.configuration import CrossDNAConfig
from crossdna.models.crossdna.layers import Branch, DeltaRuleMixer, RMSNorm
from crossdna.models.crossdna.padding import align_left
from crossdna.models.crossdna.streams import FusedBlock, StrandContext, TwoStrandPass
from crossdna.models.headed import BasePrediction, SequencePrediction
from crossdna.models.heads import SequenceHead, Standard, TokenHead, token_loss
from crossdna.models.linear import Linear
from crossdna.models.loading import StrictLoadingMixin, read_weights
from crossdna.models.vocabulary import require_batch, require_letters
from crossdna.ops.linear import linear
from crossdna.ops.native.call import is_traced

if TYPE_CHECKING:
    from pathlib import Path

STEM_KERNEL = 9
STEM_REACH = STEM_KERNEL // 2


@dataclass
class CrossDNAModelOutput(ModelOutput):
    """What the network computes for each base, in the order of the forward strand.

    Attributes
    ----------
    last_hidden_state : (batch, length, d_model)
        The fused representation.
    hidden_states : tuple of (batch, length, d_model), optional
        Stems, each layer (mean of the two strands), and last the fused representation.
    branch_a, branch_b : (batch, length, d_model)
        The two branches after bridge and projection.
    fusion_logits : (batch, length, d_model)
        Logits of the fusion gate, after the temperature.
    context : StrandContext, optional
        States at the far end of each stream, when a context was given.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    branch_a: Tensor | None = None
    branch_b: Tensor | None = None
    fusion_logits: Tensor | None = None
    context: StrandContext | None = None


@dataclass
class CrossDNAPredictionOutput(ModelOutput):
    """A head's output; the logits of single branches from masked models only."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    logits_branch_a: Tensor | None = None
    logits_branch_b: Tensor | None = None
    branch_a: Tensor | None = None
    branch_b: Tensor | None = None
    fusion_logits: Tensor | None = None


class CrossDNAPreTrainedModel(StrictLoadingMixin, PreTrainedModel):  # type: ignore[misc]
    """Loading and initialisation shared by all CrossDNA classes."""

    config: CrossDNAConfig
    config_class = CrossDNAConfig
    base_model_prefix = "model"
    # Losses are means: Trainer divides them over accumulated batches itself.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = False
    _no_split_modules = ["BranchLayer"]  # noqa: RUF012 - transformers' own form
    compiled_modules = ("BranchLayer", "TokenBridge", "BranchProjection")

    @classmethod
    def is_published_layout(cls, config: dict[str, Any]) -> bool:
        """Whether config.json has the published field names."""
        return published.is_published_config(config)

    @classmethod
    def load_published(
        cls, name: str | Path, hub: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Load a checkpoint in the published layout.

        Parameters
        ----------
        name, hub
            Where it lies, and options for a hub.
        **kwargs
            ``config`` (else read from the checkpoint) and ``dtype``.
        """
        if kwargs.pop("device_map", None) is not None:
            raise CrossDNAError(
                f"{name}: a checkpoint in the published layout is loaded without "
                "device_map; move the model with .to(device)"
            )
        config = kwargs.pop("config", None)
        dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
        if config is None:
            config = cls.config_class.from_pretrained(name, **hub, **kwargs)
        raw, _ = cls.config_class.get_config_dict(name, **hub)
        weights, where = read_weights(name, hub)
        converted = published.convert_state_dict(weights, config, where)
        if converted.gate_step is not None:
            freeze = raw.get("gate_freeze_steps", 0)
            config.gate_frozen = converted.gate_step < freeze
        model = cls(config, *args)
        info = model._take_published(converted.weights, where)
        if dtype not in (None, "auto"):
            model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        return model.eval(), info

    def _take_published(
        self, weights: dict[str, Tensor], where: str
    ) -> dict[str, list[str]]:
        """Copy converted weights in; returns transformers' loading info."""
        if isinstance(self, CrossDNAModel):
            weights = {key.removeprefix("model."): t for key, t in weights.items()}
        own = self.state_dict()
        shared = {key: tensor for key, tensor in weights.items() if key in own}
        if not isinstance(self, CrossDNAForMaskedLM):
            shared = {k: t for k, t in shared.items() if not k.startswith("head.")}
        published.check_shapes(shared, own, self.config, where)
        result = self.load_state_dict(shared, strict=False)
        return {
            "missing_keys": result.missing_keys,
            "unexpected_keys": [key for key in weights if key not in own],
        }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, DeltaRuleMixer):
            module.reset_own_parameters()
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.LayerNorm | Standard):
            module.reset_parameters()


class CrossDNAModel(CrossDNAPreTrainedModel):
    """The bare network: bases in, a fused representation of both strands out."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__(config)
        channels = config.alphabet_size + config.mask_channel
        self.stem_forward = nn.Conv1d(
            channels, config.d_model, STEM_KERNEL, padding=STEM_REACH
        )
        self.stem_reverse = nn.Conv1d(
            channels, config.d_model, STEM_KERNEL, padding=STEM_REACH
        )
        self.branch_a = Branch(config)
        self.branch_b = Branch(config)
        self.bridge = TokenBridge(config) if config.use_bridge else None
        self.project_a = BranchProjection(config.d_model)
        self.project_b = BranchProjection(config.d_model)
        self.fusion_gate = Linear(2 * config.d_model, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_branches: bool = False,
        context: StrandContext | None = None,
        return_dict: bool | None = None,
    ) -> CrossDNAModelOutput | tuple[Any, ...]:
        """Represent each base.

        Parameters
        ----------
        input_ids : (batch, length) int64
            Ids of `crossdna.alphabet`.
        attention_mask : (batch, length), optional
            Non-zero at bases. Padding may stand left or right, not in between; each
            sequence gets what it gets alone.
        output_hidden_states : bool, optional
            Also return every layer.
        output_branches : bool
            Also return both branches and the fusion logits, as pretraining needs them.
        context : StrandContext, optional
            Read `input_ids` as a piece of a longer sequence; without a mask only. Each
            piece but the last one holds whole blocks of `block_size`. The output then
            has the states at the piece's ends.

        Raises
        ------
        CrossDNAError
            No bases, ids that are no letters (seen on a CPU), a mask of another shape
            or with gaps, a context that the configured behaviour does not allow, or
            weights that are not in memory.
        """
        _check_inputs(self.config, input_ids, attention_mask, context)
        self._require_weights(input_ids)
        aligned = align_left(input_ids, attention_mask)
        want_layers = bool(
            self.config.output_hidden_states
            if output_hidden_states is None
            else output_hidden_states
        )
        run = TwoStrandPass(self, aligned, context or StrandContext(), want_layers)
        output = CrossDNAModelOutput()
        if output_branches:
            fields = run.fused_fields(FusedBlock._fields)
            output.branch_a = aligned.restore(fields["branch_a"])
            output.branch_b = aligned.restore(fields["branch_b"])
            output.fusion_logits = aligned.restore(fields["logits"])
        else:
            fields = run.fused_fields(("hidden",))
        output.last_hidden_state = aligned.restore(fields["hidden"])
        if want_layers:
            layers = run.layer_means(fields["hidden"])
            output.hidden_states = tuple(aligned.restore(layer) for layer in layers)
        if context is not None:
            output.context = run.context_at_ends()
        return output if return_dict in (None, True) else output.to_tuple()

    def _require_weights(self, ids: Tensor) -> None:
        """Miss weights that hooks would bring layer by layer.

        A branch reads the weights of its layers' parts itself, before any hook of those
        parts is asked.
        """
        if self.stem_reverse.weight.is_meta and not ids.is_meta:
            raise CrossDNAError(
                "the weights are not in memory (offloaded, or never loaded); give "
                f"accelerate preload_module_classes=[{type(self).__name__!r}], which "
                "brings them at once"
            )

    def features_forward(
        self, ids: Tensor, left: Tensor | None = None, right: Tensor | None = None
    ) -> Tensor:
        """Forward stem before dropout: (batch, length) to (batch, length, d_model).

        `left` and `right` are the neighbouring bases; nothing is there without them.
        """
        return self.stem(ids, left, right, self.stem_forward.weight, self.stem_forward)

    def features_reverse(
        self, ids: Tensor, left: Tensor | None = None, right: Tensor | None = None
    ) -> Tensor:
        """Reverse-complement stem, mirrored: position i is the base of forward locus i.

        Takes the ids and neighbours of the forward strand.
        """
        flanks = [
            None if side is None else alphabet.complement_ids(side)
            for side in (left, right)
        ]
        # Reading the complement with a mirrored kernel gives what the stem gives on the
        # reverse complement, in forward order, without flipping the features.
        weight = self.stem_reverse.weight.flip(-1)
        ids = alphabet.complement_ids(ids)
        return self.stem(ids, flanks[0], flanks[1], weight, self.stem_reverse)

    def stem(
        self,
        ids: Tensor,
        left: Tensor | None,
        right: Tensor | None,
        weight: Tensor,
        conv: nn.Conv1d,
    ) -> Tensor:
        """Features of `ids` between its neighbours, with a stem's weight and bias."""
        if not self.config.mask_channel:
            ids = ids.masked_fill(ids == alphabet.MASK, alphabet.N)
        parts = [part for part in (left, ids, right) if part is not None]
        whole = torch.cat(parts, dim=1) if len(parts) > 1 else ids
        channels = torch.arange(weight.shape[1], device=ids.device)
        one_hot = (whole.unsqueeze(-1) == channels).to(weight.dtype)
        start = 0 if left is None else left.shape[1]
        around = F.pad(one_hot, (0, 0, STEM_REACH, STEM_REACH)).unfold(
            1, STEM_KERNEL, 1
        )[:, start : start + ids.shape[1]]
        # A product and no convolution: convolutions round otherwise in batches of
        # another size, and the layers above multiply what they round.
        return F.gelu(linear(around.flatten(2), weight.flatten(1), conv.bias))

    def fuse(self, a: Tensor, b: Tensor, mask: Tensor | None = None) -> FusedBlock:
        """Let both branches of one block meet in the bridge, and blend them."""
        if self.bridge is not None:
            a, b = self.bridge(a, b, mask)
        return self.blend(a, b)

    def blend(self, a: Tensor, b: Tensor) -> FusedBlock:
        """Project and blend both branches, base by base."""
        a, b = self.project_a(a), self.project_b(b)
        gate_input = torch.cat([a, b], dim=-1)
        logits = self.fusion_gate(gate_input) / self.config.gate_temperature
        weight = 0.5 if self.config.gate_frozen else logits.sigmoid()
        blended = b + weight * (a - b)
        hidden = F.layer_norm(blended, (a.shape[-1],), eps=self.config.norm_eps)
        return FusedBlock(hidden, a, b, logits)


def _is_transformed() -> bool:
    """Whether vmap and its like are at work, which cannot read values."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _check_inputs(
    config: CrossDNAConfig,
    ids: Tensor,
    mask: Tensor | None,
    context: StrandContext | None,
) -> None:
    require_batch(ids)
    if ids.device.type == "cpu" and not is_traced() and not _is_transformed():
        require_letters(*map(int, torch.aminmax(ids)))
    if mask is not None and mask.shape != ids.shape:
        raise CrossDNAError(
            f"attention_mask {tuple(mask.shape)} does not fit input_ids "
            f"{tuple(ids.shape)}"
        )
    if context is None:
        return
    if mask is not None or config.strand_alignment != "locus":
        raise CrossDNAError(
            "a piece of a longer sequence is read without padding, by a model with "
            'strand_alignment "locus"'
        )
    if config.block_size is None and config.use_bridge:
        raise CrossDNAError(
            "the bridge of a model of one block sees all of a sequence at once: pieces "
            "of one cannot be read without a block_size"
        )
    size, more = config.block_size, context.right is not None and context.right.numel()
    if more and size is not None and ids.shape[1] % size:
        raise CrossDNAError(
            f"a piece with more to its right ends where a block of {size} bases does, "
            f"but this one has {ids.shape[1]}"
        )


class CrossDNAForMaskedLM(CrossDNAPreTrainedModel):
    """CrossDNA that predicts the base at each position: logits over A C G T N."""

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__(config)
        self.model = CrossDNAModel(config)
        self.head = Linear(config.d_model, config.alphabet_size)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_branches: bool = False,
        return_dict: bool | None = None,
    ) -> CrossDNAPredictionOutput | tuple[Any, ...]:
        """Predict bases.

        Parameters
        ----------
        input_ids, attention_mask, output_hidden_states
            As for `CrossDNAModel.forward`.
        labels : (batch, length) int64, optional
            The true ids, -100 where the prediction does not count.
        output_branches : bool
            Also return the branches, the logits of each alone and the fusion logits.
        """
        output = self.model(
            input_ids,
            attention_mask,
            output_hidden_states=output_hidden_states,
            output_branches=output_branches,
        )
        logits = self.head(output.last_hidden_state)
        prediction = CrossDNAPredictionOutput(
            loss=None if labels is None else token_loss(logits, labels),
            logits=logits,
            hidden_states=output.hidden_states,
        )
        if output_branches:
            prediction.logits_branch_a = self.head(output.branch_a)
            prediction.logits_branch_b = self.head(output.branch_b)
            prediction.branch_a = output.branch_a
            prediction.branch_b = output.branch_b
            prediction.fusion_logits = output.fusion_logits
        return prediction if return_dict in (None, True) else prediction.to_tuple()


class CrossDNAForSequenceClassification(SequencePrediction, CrossDNAPreTrainedModel):  # type: ignore[misc]
    """CrossDNA with one prediction per sequence; `problem_type` as in transformers."""

    output_class = CrossDNAPredictionOutput

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__(config)
        self.model = CrossDNAModel(config)
        self.head = SequenceHead(config)
        self.post_init()


class CrossDNAForTokenClassification(BasePrediction, CrossDNAPreTrainedModel):  # type: ignore[misc]
    """CrossDNA with a prediction per base."""

    output_class = CrossDNAPredictionOutput

    def __init__(self, config: CrossDNAConfig) -> None:
        super().__init__(config)
        self.model = CrossDNAModel(config)
        self.head = TokenHead(config)
        self.post_init()
