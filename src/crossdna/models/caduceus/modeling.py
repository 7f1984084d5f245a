"""Caduceus: a masked model of Mamba blocks that read both directions.

Schiff et al., Caduceus: bi-directional equivariant long-range DNA sequence modeling
(2024). Ph reads one strand; PS reads both with the same weights and is equivariant to
the reverse complement. Module names are those of the published checkpoints, so that
saved models can be read by the published code as well.

PS. The published network runs on [P, Q], two halves of 2 d channels. Here the strands
are two streams in one batch, u = E[ids] and v = E[reverse complement], so that the
network itself is that of Ph. With R, which mirrors length and channels, Q = R v. When
``fused_add_norm`` is true, the published layers update P from Q and Q from P: then each
layer mirrors its streams first, and after an odd number of layers they have changed
places.

Padding. The published network has no attention mask: pads are ordinary tokens, and
every token's result depends on them. That is what happens here without a mask. With
one, pads leave the states untouched and enter no convolution, so each sequence gets
what it gets alone, padded left or right.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

from crossdna.models.caduceus.configuration import CaduceusConfig
from crossdna.models.caduceus.published import published_names
from crossdna.models.linear import Linear
from crossdna.models.official import OfficialLayoutMixin, PublishedNames
from crossdna.models.vocabulary import require_batch
from crossdna.ops.selective_scan import selective_scan
from crossdna.ops.short_conv import short_conv


class RMSNorm(nn.Module):
    """x / rms(x) times a weight, computed in float32."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (..., channels); gives the dtype of the weight."""
        y = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps)
        return y.to(self.weight.dtype)


class Mamba(nn.Module):
    """One direction's convolution and scan, and the projections it may share."""

    def __init__(self, config: CaduceusConfig, *, projections: bool) -> None:
        super().__init__()
        inner, states, rank, taps = config.mamba_sizes
        cfg = config.ssm_cfg
        assert cfg is not None
        if projections:
            self.in_proj = Linear(config.d_model, 2 * inner, bias=cfg["bias"])
            self.out_proj = Linear(inner, config.d_model, bias=cfg["bias"])
        conv_bias = cfg["conv_bias"]
        self.conv1d = nn.Conv1d(inner, inner, taps, groups=inner, bias=conv_bias)
        self.x_proj = Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = Linear(rank, inner)
        self.A_log = nn.Parameter(torch.zeros(inner, states))
        self.D = nn.Parameter(torch.ones(inner))

    def forward(self, projected: Tensor, mask: Tensor | None) -> Tensor:
        """Scan (batch, length, 2 inner) from `in_proj` to (batch, length, inner)."""
        a, z = projected.chunk(2, dim=-1)
        a = short_conv(a, self.conv1d.weight.squeeze(1), mask=mask).output
        if self.conv1d.bias is not None:
            a = a + self.conv1d.bias
        a = F.silu(a)
        states, rank = self.A_log.shape[1], self.dt_proj.in_features
        step, B, C = self.x_proj(a).split([rank, states, states], dim=-1)
        # Step sizes span orders of magnitude: not in bfloat16.
        with torch.autocast(step.device.type, enabled=False):
            step = self.dt_proj(step.to(self.dt_proj.weight.dtype))
        delta = F.softplus(step.float())
        A = -torch.exp(self.A_log.float())
        y = selective_scan(a, delta, A, B, C, self.D.float(), mask=mask).output
        return y * F.silu(z)

    @torch.no_grad()
    def reset_scan_parameters(self, cfg: dict[str, Any]) -> None:
        """Give A, D and the step sizes their published starting values."""
        inner, states = self.A_log.shape
        numbers = torch.arange(1, states + 1, device=self.A_log.device)
        init.copy_(self.A_log, numbers.float().log().expand(inner, -1))
        init.ones_(self.D)
        bound = cfg["dt_scale"] * self.dt_proj.in_features**-0.5
        if cfg["dt_init"] == "constant":
            init.constant_(self.dt_proj.weight, bound)
        else:
            init.uniform_(self.dt_proj.weight, -bound, bound)
        low, high = math.log(cfg["dt_min"]), math.log(cfg["dt_max"])
        uniform = torch.rand(inner, device=self.A_log.device)
        dt = torch.exp(low + uniform * (high - low)).clamp(min=cfg["dt_init_floor"])
        # The inverse of softplus.
        init.copy_(self.dt_proj.bias, dt + torch.log(-torch.expm1(-dt)))


class BiMamba(nn.Module):
    """Mamba in both directions."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.tied = config.bidirectional_weight_tie
        self.multiply = config.bidirectional_strategy == "ew_multiply"
        self.mamba_fwd = Mamba(config, projections=True)
        self.mamba_rev: Mamba | None = None
        if config.bidirectional:
            self.mamba_rev = Mamba(config, projections=not self.tied)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mix positions of (batch, length, d_model)."""
        projected = self.mamba_fwd.in_proj(x)
        ahead = self.mamba_fwd(projected, mask)
        if self.mamba_rev is None:
            return self.mamba_fwd.out_proj(ahead)
        outer = self.mamba_fwd if self.tied else self.mamba_rev
        # The projections act on each position alone, so only the scan needs flipping.
        if not self.tied:
            projected = outer.in_proj(x)
        flipped = None if mask is None else mask.flip(1)
        back = self.mamba_rev(projected.flip(1), flipped).flip(1)
        if self.multiply:
            return self.mamba_fwd.out_proj(ahead) * outer.out_proj(back)
        return self.mamba_fwd.out_proj(ahead) + outer.out_proj(back)


def _shared_by_strands(module: nn.Module, wrap: bool) -> nn.Module:
    """Give PS modules the extra level of their published names."""
    return nn.ModuleDict({"submodule": module}) if wrap else module


def _unwrapped(module: nn.Module) -> nn.Module:
    return module["submodule"] if isinstance(module, nn.ModuleDict) else module


def _norm(config: CaduceusConfig) -> nn.Module:
    if config.rms_norm:
        norm: nn.Module = RMSNorm(config.d_model, config.norm_epsilon)
    else:
        norm = nn.LayerNorm(config.d_model, eps=config.norm_epsilon)
    return _shared_by_strands(norm, config.rcps and not config.fused_add_norm)


class CaduceusBlock(GradientCheckpointingLayer):
    """A mixer, normed first and added to its input."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.mixer = _shared_by_strands(BiMamba(config), config.rcps)
        self.norm = _norm(config)
        self.mirrors = config.rcps and config.fused_add_norm
        self.residual_in_fp32 = config.residual_in_fp32

    def forward(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what the mixer adds and the sum, both (streams, length, d_model)."""
        if self.mirrors:
            x = x.flip(1, 2)
        normed = _unwrapped(self.norm)(x)
        mixed = _unwrapped(self.mixer)(normed, mask)
        if self.residual_in_fp32:
            x = x.float()
        return mixed, mixed + x


class StrandEmbedding(nn.Module):
    """The embedding of a PS model, with the complement of each id."""

    complement_map: Tensor

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.register_buffer("complement_map", torch.tensor(config.complement_ids))


class BackboneOutput(NamedTuple):
    """Tensors in the published layout.

    (batch, length, d_model); for PS twice as many channels, the second half for the
    other strand, mirrored.

    Attributes
    ----------
    normed : what the heads read
    sums : the embedding and the sum after each layer, if asked for
    added : what each layer added, if asked for
    """

    normed: Tensor
    sums: tuple[Tensor, ...]
    added: tuple[Tensor, ...]


class CaduceusBackbone(nn.Module):
    """Embedding, blocks, last norm."""

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__()
        self.rcps = config.rcps
        words: nn.Module = (
            StrandEmbedding(config)
            if config.rcps
            else nn.Embedding(config.vocab_size, config.d_model)
        )
        self.embeddings = nn.ModuleDict({"word_embeddings": words})
        self.layers = nn.ModuleList(
            CaduceusBlock(config) for _ in range(config.n_layer)
        )
        self.norm_f = _norm(config)

    @property
    def embedding(self) -> nn.Embedding:
        """The table of token vectors."""
        words = self.embeddings["word_embeddings"]
        embedding = words.embedding if isinstance(words, StrandEmbedding) else words
        assert isinstance(embedding, nn.Embedding)
        return embedding

    def forward(
        self, input_ids: Tensor, mask: Tensor | None, *, every_layer: bool = False
    ) -> BackboneOutput:
        """Run all layers on (batch, length) ids."""
        words = self.embeddings["word_embeddings"]
        if isinstance(words, StrandEmbedding):
            other = words.complement_map[input_ids].flip(1)
            input_ids = torch.cat([input_ids, other])
            mask = None if mask is None else torch.cat([mask, mask.flip(1)])
        x = self.embedding(input_ids)
        swapped = False
        sums = [self._published(x, swapped)] if every_layer else []
        added = []
        for layer in self.layers:
            if layer.mirrors:
                mask = None if mask is None else mask.flip(1)
                swapped = not swapped
            mixed, x = layer(x, mask)
            if every_layer:
                sums.append(self._published(x, swapped))
                added.append(self._published(mixed, swapped))
        normed = self._published(_unwrapped(self.norm_f)(x), swapped)
        return BackboneOutput(normed, tuple(sums), tuple(added))

    def _published(self, x: Tensor, swapped: bool) -> Tensor:
        if not self.rcps:
            return x
        first, second = x.chunk(2)
        if swapped:
            first, second = second, first
        return torch.cat([first, second.flip(1, 2)], -1)


class CaduceusPreTrainedModel(OfficialLayoutMixin, PreTrainedModel):  # type: ignore[misc]
    """Loading and initialisation shared by all Caduceus classes."""

    config: CaduceusConfig
    config_class = CaduceusConfig
    base_model_prefix = "caduceus"
    main_input_name = "input_ids"
    is_base_network: ClassVar[bool] = False
    head_prefixes: ClassVar[tuple[str, ...]] = ()
    supports_gradient_checkpointing = True
    # Losses are means: Trainer divides them over accumulated batches itself.
    accepts_loss_kwargs = False
    _no_split_modules = ["CaduceusBlock"]  # noqa: RUF012 - transformers' own form
    _keep_in_fp32_modules_strict = ["A_log", "D", "dt_proj"]  # noqa: RUF012

    @classmethod
    def published_names(cls, config: CaduceusConfig) -> PublishedNames:
        """What a checkpoint of this class and configuration holds."""
        language_model = "lm_head." in cls.head_prefixes
        return published_names(config, language_model=language_model)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        config = self.config
        assert config.initializer_cfg is not None
        assert config.ssm_cfg is not None
        std = config.initializer_cfg["initializer_range"]
        if isinstance(module, nn.Embedding) or module is getattr(self, "score", None):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Linear | nn.Conv1d):
            module.reset_parameters()
        elif isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        elif isinstance(module, Mamba):
            module.reset_scan_parameters(config.ssm_cfg)
            if hasattr(module, "out_proj"):
                self._init_out_proj(module.out_proj.weight)

    def _init_out_proj(self, weight: Tensor) -> None:
        cfg = self.config.initializer_cfg
        assert cfg is not None
        if cfg["rescale_prenorm_residual"]:
            # kaiming_uniform with a = sqrt 5 has this bound; the sum over all layers
            # keeps the size it would have with one.
            bound = weight.shape[1] ** -0.5
            bound /= math.sqrt(cfg["n_residuals_per_layer"] * self.config.n_layer)
            init.uniform_(weight, -bound, bound)


class CaduceusModel(CaduceusPreTrainedModel):
    """The bare network.

    PS models give 2 `d_model` channels: `d_model` of the strand read, then those of the
    other strand, mirrored; the model's output for the reverse complement is its output
    mirrored in length and channels.
    """

    is_base_network = True

    def __init__(self, config: CaduceusConfig) -> None:
        super().__init__(config)
        self.backbone = CaduceusBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table of token vectors."""
        return self.backbone.embedding

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **_unused: Any,
    ) -> BaseModelOutputWithNoAttention | tuple[Any, ...]:
        """Represent each token.

        Parameters
        ----------
        input_ids : (batch, length) int64
        attention_mask : (batch, length), optional
            Non-zero at tokens; the module's text says what pads do without one.
        output_hidden_states : bool, optional
            Also return the embedding, the sum after each layer and the normed last one
            (the published code lists what each layer adds instead of the sums).

        Raises
        ------
        CrossDNAError
            No tokens.
        """
        require_batch(input_ids)
        mask = None if attention_mask is None else attention_mask != 0
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        result = self.backbone(input_ids, mask, every_layer=output_hidden_states)
        states = (*result.sums, result.normed) if output_hidden_states else None
        output = BaseModelOutputWithNoAttention(
            last_hidden_state=result.normed, hidden_states=states
        )
        return output if return_dict in (None, True) else output.to_tuple()
