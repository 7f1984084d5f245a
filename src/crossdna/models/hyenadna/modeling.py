"""HyenaDNA: a causal next-base model of gated long convolutions.

Nguyen et al., HyenaDNA: long-range genomic sequence modeling at single nucleotide
resolution (2023). Module names are those of the published checkpoints, so that saved
models can be read by the published code as well.

Padding. The published network has no attention mask: pads are ordinary tokens, and left
pads change everything after them. That is what happens here without a mask. With one,
nothing enters a convolution from a padded position, and since the network knows only
distances, each sequence gets what it gets alone, padded left or right. Pads in the
middle of a sequence keep their place: they read as positions without content.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

from crossdna.errors import CrossDNAError
from crossdna.models.hyenadna.configuration import HyenaDNAConfig
from crossdna.models.hyenadna.published import published_names
from crossdna.models.linear import Linear
from crossdna.models.official import OfficialLayoutMixin, PublishedNames
from crossdna.models.vocabulary import require_batch
from crossdna.ops.long_conv import long_conv
from crossdna.ops.short_conv import short_conv

BLOCK_NORM_EPS = 1e-5
MODULATION_SHIFT = 0.05
# Positions that the MLP takes at a time where no gradient is wanted.
TILE = 2048


def _evenly_spaced(first: float, last: float, count: int) -> Tensor:
    """Return `count` values from first to last; a single one is the first."""
    # Not linspace, which transformers keeps off the meta device while it loads.
    return first + torch.arange(count) * ((last - first) / max(1, count - 1))


class PositionFeatures(nn.Module):
    """Stored features z and times t of the positions a filter is computed from."""

    z: Tensor
    t: Tensor

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        rows, bands = config.max_seq_len, (config.emb_dim - 1) // 2
        time = _evenly_spaced(0, 1, rows)[None, :, None]
        angle = (2 * math.pi / rows) * torch.arange(rows)[None, :, None]
        angle = angle * _evenly_spaced(1e-4, bands - 1, bands)
        self.register_buffer("z", torch.cat([time, angle.cos(), -angle.sin()], -1))
        self.register_buffer("t", time)


class Modulation(nn.Module):
    """Exponential decay of the filters, from slow to fast over the channels."""

    deltas: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        slow, fast = math.log(0.01) / 1.5, math.log(0.01) / 0.3
        deltas = _evenly_spaced(slow, fast, channels)[None, None]
        self.register_buffer("deltas", deltas)

    def forward(self, filters: Tensor, time: Tensor) -> Tensor:
        """Damp (1, length, channels) by time (1, length, 1)."""
        return filters * (torch.exp(-time * self.deltas.abs()) + MODULATION_SHIFT)


class Sine(nn.Module):
    """sin(a x) with one frequency a per channel."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        frequency = torch.full((1, config.filter_order), float(config.activation_freq))
        self.freq = nn.Parameter(frequency, requires_grad=config.train_freq)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (..., filter_order)."""
        return torch.sin(self.freq * x)


class HyenaFilter(nn.Module):
    """The long filters, computed from positions by a small network of sines."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.max_length = config.max_seq_len
        order = config.filter_order
        self.bias = nn.Parameter(torch.randn(config.d_model))
        self.pos_emb = PositionFeatures(config)
        self.modulation = Modulation(config.d_model)
        inner = range(2, 2 * config.num_inner_mlps + 2, 2)
        last = nn.Linear(order, config.d_model, bias=False)
        # The numbers are places in the published sequence, whose every second member
        # is the same sine.
        self.implicit_filter = nn.ModuleDict(
            {"0": nn.Linear(config.emb_dim, order), "1": Sine(config)}
            | {str(i): nn.Linear(order, order) for i in inner}
            | {str(inner.stop): last}
        )

    def forward(self, length: int) -> Tensor:
        """Compute the filters (length, d_model); row i is the weight of lag i."""
        if length > self.max_length:
            raise CrossDNAError(
                f"a sequence of {length} tokens is longer than this model's "
                f"max_seq_len of {self.max_length}; cut it into windows"
            )
        first, sine, *inner, last = self.implicit_filter.values()
        # Phases turn many times over a sequence: in bfloat16 they would be noise.
        with torch.autocast(self.bias.device.type, enabled=False):
            g = sine(first(self.pos_emb.z[:, :length]))
            for linear in inner:
                g = sine(linear(g))
            return self.modulation(last(g), self.pos_emb.t[:, :length])[0]


class HyenaMixer(nn.Module):
    """Short convolution, gate, long convolution, gate."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        d, taps = config.d_model, config.short_filter_order
        self.in_proj = Linear(d, 3 * d)
        self.out_proj = Linear(d, d)
        self.short_filter = nn.Conv1d(3 * d, 3 * d, taps, groups=3 * d)
        self.filter_fn = HyenaFilter(config)
        self.dropout = nn.Dropout(config.hyena_dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Mix positions of (batch, length, d_model), each with those before it."""
        taps = self.short_filter.weight.squeeze(1)
        short = short_conv(self.in_proj(x), taps, mask=mask).output
        assert self.short_filter.bias is not None
        gate, first, value = (short + self.short_filter.bias).chunk(3, dim=-1)
        value = self.dropout(value * first)
        kernel = self.filter_fn(x.shape[1])
        y = long_conv(value, kernel, self.filter_fn.bias, mask=mask)
        return self.out_proj(y * gate)


class HyenaMLP(nn.Module):
    """Two linear layers around a GELU (its tanh approximation)."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        assert config.d_inner is not None
        self.fc1 = Linear(config.d_model, config.d_inner)
        self.fc2 = Linear(config.d_inner, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to (batch, length, d_model)."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._whole(x)
        # The inner width of a long sequence would be gigabytes; a tile stays in cache.
        tiles = x.flatten(0, 1).split(TILE)
        return torch.cat([self._whole(tile) for tile in tiles]).view_as(x)

    def _whole(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class HyenaBlock(GradientCheckpointingLayer):
    """Mixer and MLP, each normed first and added to its input."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.d_model, eps=BLOCK_NORM_EPS)
        self.mixer = HyenaMixer(config)
        self.norm2 = nn.LayerNorm(config.d_model, eps=BLOCK_NORM_EPS)
        self.mlp = HyenaMLP(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, length, d_model) to the same."""
        x = x + self.mixer(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class HyenaBackbone(nn.Module):
    """Embedding, blocks, last norm."""

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__()
        embedding = nn.Embedding(config.embedding_rows, config.d_model)
        self.embeddings = nn.ModuleDict({"word_embeddings": embedding})
        self.layers = nn.ModuleList(HyenaBlock(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)

    def forward(self, input_ids: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        """Return the embedding, each layer's output and the normed last one."""
        states = [self.embeddings["word_embeddings"](input_ids)]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return (*states, self.ln_f(states[-1]))


class HyenaDNAPreTrainedModel(OfficialLayoutMixin, PreTrainedModel):  # type: ignore[misc]
    """Loading and initialisation shared by all HyenaDNA classes."""

    config: HyenaDNAConfig
    config_class = HyenaDNAConfig
    base_model_prefix = "hyena"
    main_input_name = "input_ids"
    is_base_network: ClassVar[bool] = False
    head_prefixes: ClassVar[tuple[str, ...]] = ()
    supports_gradient_checkpointing = True
    # Losses are means: Trainer divides them over accumulated batches itself.
    accepts_loss_kwargs = False
    _no_split_modules = ["HyenaBlock"]  # noqa: RUF012 - transformers' own form
    _keep_in_fp32_modules_strict = ["filter_fn"]  # noqa: RUF012

    @classmethod
    def published_names(cls, config: HyenaDNAConfig) -> PublishedNames:
        """What a checkpoint of this class and configuration holds."""
        language_model = "lm_head." in cls.head_prefixes
        return published_names(config, language_model=language_model)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Conv1d):
            module.reset_parameters()
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, Sine):
            init.constant_(module.freq, self.config.activation_freq)
        elif isinstance(module, HyenaFilter):
            init.normal_(module.bias)


class HyenaDNAModel(HyenaDNAPreTrainedModel):
    """The bare network: ids in, a representation of each token and its past out."""

    is_base_network = True

    def __init__(self, config: HyenaDNAConfig) -> None:
        super().__init__(config)
        self.backbone = HyenaBackbone(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The table of token vectors."""
        return self.backbone.embeddings["word_embeddings"]

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
            Also return the embedding, each layer's output and the normed last one.

        Raises
        ------
        CrossDNAError
            More tokens than `max_seq_len`, or none.
        """
        require_batch(input_ids)
        mask = None if attention_mask is None else attention_mask != 0
        states = self.backbone(input_ids, mask)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        output = BaseModelOutputWithNoAttention(
            last_hidden_state=states[-1],
            hidden_states=states if output_hidden_states else None,
        )
        return output if return_dict in (None, True) else output.to_tuple()
