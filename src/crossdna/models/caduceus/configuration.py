"""The configuration of a Caduceus network, in its published field names."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from transformers import PreTrainedConfig

from crossdna.errors import CrossDNAError

# [CLS] [SEP] [BOS] [MASK] [PAD] [RESERVED] [UNK] A C G T N and four rows of padding.
RELEASED_COMPLEMENT = {str(i): i for i in range(16)} | {
    "7": 10, "8": 9, "9": 8, "10": 7,
}  # fmt: skip
_SSM_DEFAULTS = {
    "d_state": 16,
    "d_conv": 4,
    "expand": 2,
    "dt_rank": "auto",
    "dt_min": 0.001,
    "dt_max": 0.1,
    "dt_init": "random",
    "dt_scale": 1.0,
    "dt_init_floor": 1e-4,
    "conv_bias": True,
    "bias": False,
    "use_fast_path": True,
}
_INITIALIZER_DEFAULTS = {
    "initializer_range": 0.02,
    "rescale_prenorm_residual": True,
    "n_residuals_per_layer": 1,
}


class MambaSizes(NamedTuple):
    """Inner channels, states per channel, rank of the step sizes, taps."""

    inner: int
    states: int
    rank: int
    taps: int


class CaduceusConfig(PreTrainedConfig):
    """Sizes and behaviour of Caduceus; defaults are those of the released Ph 1k d256.

    Parameters
    ----------
    vocab_size, pad_vocab_size_multiple : int
        Ids, rounded up to the multiple.
    d_model, n_layer : int
        Channels of one strand, layers.
    rcps : bool
        True: PS, equivariant to the reverse complement by sharing all weights between
        the strands. False: Ph, one strand.
    complement_map : dict or None
        Complement of each id; None: that of the released tokenizer. Ids that the
        rounding adds complement themselves.
    fused_add_norm : bool
        Part of a PS model's function, not a choice of speed: when true, as in all
        released models, the strands change places in each layer.
    rms_norm : bool
        False: layer norm.
    norm_epsilon : float
        Of every normalisation.
    residual_in_fp32 : bool
        Keep the sum over layers in float32 when the weights are narrower.
    bidirectional, bidirectional_weight_tie : bool
        Read both directions, and share the projections between them.
    bidirectional_strategy : {"add", "ew_multiply"}
        How the directions are put together.
    pooling_strategy : {"mean", "max"}
        Of a sequence classifier.
    ssm_cfg, initializer_cfg : dict or None
        Mamba's sizes and the initialisation; missing entries take released values.

    Raises
    ------
    CrossDNAError
        A size that is not positive, an unknown strategy or entry, or a complement map
        that is not one.
    """

    model_type = "caduceus"
    attribute_map = {  # noqa: RUF012 - transformers' own form
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: int = 16
    pad_vocab_size_multiple: int = 8
    d_model: int = 256
    n_layer: int = 4
    rcps: bool = False
    complement_map: dict[str, int] | None = None
    fused_add_norm: bool = True
    rms_norm: bool = True
    norm_epsilon: float = 1e-5
    residual_in_fp32: bool = False
    bidirectional: bool = True
    bidirectional_strategy: str | None = "add"
    bidirectional_weight_tie: bool = True
    ssm_cfg: dict[str, Any] | None = None
    initializer_cfg: dict[str, Any] | None = None
    pooling_strategy: str = "mean"
    head_dropout: float = 0.0
    pad_token_id: int | None = 4
    eos_token_id: int | None = 1
    sep_token_id: int | None = 1
    mask_token_id: int | None = 3
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        # The file's remote code is neither needed nor saved along.
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
        for name in ("vocab_size", "pad_vocab_size_multiple", "d_model", "n_layer"):
            if getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be positive, got {getattr(self, name)}"
                )
        multiple = self.pad_vocab_size_multiple
        self.vocab_size = multiple * -(-self.vocab_size // multiple)
        self.ssm_cfg = _filled("ssm_cfg", self.ssm_cfg, _SSM_DEFAULTS)
        self.initializer_cfg = _filled(
            "initializer_cfg", self.initializer_cfg, _INITIALIZER_DEFAULTS
        )
        self.complement_map = _whole_map(self.complement_map, self.vocab_size)
        if self.bidirectional_strategy not in (None, "add", "ew_multiply"):
            raise CrossDNAError(
                f"bidirectional_strategy {self.bidirectional_strategy!r} is not one of "
                "add, ew_multiply"
            )
        if self.pooling_strategy not in ("mean", "max"):
            raise CrossDNAError(
                f"pooling_strategy {self.pooling_strategy!r} is not one of mean, max"
            )

    @property
    def representation_size(self) -> int:
        """Channels of the hidden states: those of both strands for PS."""
        return self.d_model * (2 if self.rcps else 1)

    @property
    def mamba_sizes(self) -> MambaSizes:
        """Sizes of one Mamba block."""
        assert self.ssm_cfg is not None
        rank = self.ssm_cfg["dt_rank"]
        return MambaSizes(
            inner=int(self.ssm_cfg["expand"] * self.d_model),
            states=self.ssm_cfg["d_state"],
            rank=math.ceil(self.d_model / 16) if rank == "auto" else rank,
            taps=self.ssm_cfg["d_conv"],
        )

    @property
    def complement_ids(self) -> list[int]:
        """Complement of each id, in the order of the ids."""
        assert self.complement_map is not None
        return [self.complement_map[str(i)] for i in range(self.vocab_size)]


def _filled(
    name: str, given: dict[str, Any] | None, defaults: dict[str, Any]
) -> dict[str, Any]:
    unknown = sorted(set(given or ()) - set(defaults))
    if unknown:
        raise CrossDNAError(f"{name}: unknown entry {unknown[0]!r}")
    return defaults | (given or {})


def _whole_map(given: dict[Any, int] | None, size: int) -> dict[str, int]:
    source = RELEASED_COMPLEMENT if given is None else given
    known = {int(key): int(value) for key, value in source.items()}
    whole = {i: known.get(i, i) for i in range(size)}
    if any(whole.get(other) != i for i, other in whole.items()):
        raise CrossDNAError("complement_map: complementing twice does not lead back")
    return {str(i): other for i, other in whole.items()}
