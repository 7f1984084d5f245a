"""The configuration of a CrossDNA network."""

from __future__ import annotations

from typing import Any, Literal, get_args

from transformers import PreTrainedConfig

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna.published import is_published_config, translate_config

StrandAlignment = Literal["locus", "sequence"]
BlockContext = Literal["recurrent", "independent"]


class CrossDNAConfig(PreTrainedConfig):
    """Sizes and behaviour of CrossDNA; the defaults are the paper's 8.1M size.

    Parameters
    ----------
    d_model : int
        Channels of the representation.
    depth : int
        Layers in each of the two branches.
    num_heads, head_dim : int
        Heads of the delta rule and the width of their keys.
    expand_v : float
        Width of a head's values over that of its keys.
    conv_size : int
        Taps of the causal convolution before the delta rule.
    correction_factor : float
        Initial value of the query correction ``D``.
    attention_heads, window_size, rope_theta
        Sliding-window attention: heads, visible keys (the query's own included) and the
        base of the rotary embedding.
    hidden_ratio : float
        Inner width of the gated MLP is 2/3 of this times `d_model`, rounded up to a
        multiple of 256.
    block_size : int or None
        Bases after which the branches swap strands, and which the bridge sees at once;
        None: one block, no swap.
    swap_strands : bool
        Whether the branches swap strands from block to block (published), or branch A
        always reads the forward strand. A state is of more use to the branch that left
        it.
    strand_alignment : {"locus", "sequence"}
        Which slice of the reverse strand shares a block with a forward slice: the one
        of the same locus, or (published) that slice of the whole reverse complement.
    block_context : {"recurrent", "independent"}
        Whether a strand's states pass from block to block, or (published) each block
        starts from nothing.
    residual : bool
        Whether each layer adds to its input, behind a normalisation, or (published)
        hands on only what it made of it. Additions train far faster.
    use_bridge : bool
        Exchange between the strands after the branches.
    mask_channel : bool
        Whether [MASK] has an input channel of its own; published models read it as N.
    gate_temperature : float
        Divides the logits of the fusion gate.
    gate_frozen : bool
        Fuse with equal weights instead of the learned gate, as in early pretraining.
    dropout : float
        After the stems and in the bridge.
    norm_eps : float
        Of every normalisation.
    head_pooling : str
        How a sequence head sums up positions; see `crossdna.models.heads`.
    head_length : int or None
        Bases in a window, for a head that weighs each position.
    head_dropout : float
        Before a sequence or token head.
    head_motifs : int
        Motif detectors in a sequence head, on the bases themselves; 0 for none.
    head_width : int
        Width of a dense layer behind the pooling of a sequence head; 0 for none.
    head_standard : bool
        Whether a head reads channels in units of their spread, measured beforehand.

    Raises
    ------
    CrossDNAError
        A size that is not positive or a behaviour that does not exist.
    """

    model_type = "crossdna"
    attribute_map = {  # noqa: RUF012 - transformers' own form
        "hidden_size": "d_model",
        "num_hidden_layers": "depth",
        "num_attention_heads": "attention_heads",
    }

    d_model: int = 128
    depth: int = 6
    num_heads: int = 8
    head_dim: int = 64
    expand_v: float = 1.0
    conv_size: int = 4
    correction_factor: float = 0.02
    attention_heads: int = 8
    window_size: int = 512
    rope_theta: float = 10000.0
    hidden_ratio: float = 4.0
    block_size: int | None = 1024
    swap_strands: bool = False
    strand_alignment: str = "locus"
    block_context: str = "recurrent"
    residual: bool = True
    use_bridge: bool = True
    mask_channel: bool = True
    gate_temperature: float = 2.0
    gate_frozen: bool = False
    dropout: float = 0.15
    norm_eps: float = 1e-5
    head_pooling: str = "mean"
    head_length: int | None = None
    head_dropout: float = 0.0
    head_motifs: int = 0
    head_width: int = 0
    head_standard: bool = False
    vocab_size: int = alphabet.VOCAB_SIZE
    alphabet_size: int = len(alphabet.LETTERS)
    pad_token_id: int | None = alphabet.PAD
    mask_token_id: int | None = alphabet.MASK

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        positive = (
            "d_model depth num_heads head_dim expand_v conv_size attention_heads "
            "window_size hidden_ratio rope_theta gate_temperature norm_eps"
        )
        for name in positive.split():
            if not getattr(self, name) > 0:
                raise CrossDNAError(
                    f"{name} must be positive, got {getattr(self, name)}"
                )
        if self.block_size is not None and self.block_size < 1:
            raise CrossDNAError(f"block_size must be positive, got {self.block_size}")
        if self.d_model % (2 * self.attention_heads):
            raise CrossDNAError(
                f"d_model {self.d_model} must be a multiple of twice the "
                f"{self.attention_heads} attention heads"
            )
        for name in ("head_motifs", "head_width"):
            if getattr(self, name) < 0:
                raise CrossDNAError(f"{name} must not be negative")
        for name in ("dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise CrossDNAError(f"{name} must lie in [0, 1)")
        for name, known in (
            ("strand_alignment", get_args(StrandAlignment)),
            ("block_context", get_args(BlockContext)),
        ):
            if getattr(self, name) not in known:
                raise CrossDNAError(
                    f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}"
                )

    def a_reads_forward(self, block: int) -> bool:
        """Whether branch A reads the forward strand of a block, counted from 0."""
        return not self.swap_strands or block % 2 == 0

    @property
    def value_dim(self) -> int:
        """Width of one head's values."""
        return int(self.head_dim * self.expand_v)

    @property
    def mlp_dim(self) -> int:
        """Inner width of the gated MLP."""
        width = int(self.d_model * self.hidden_ratio * 2 / 3)
        return 256 * -(-width // 256)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read a config.json of this package or of a published checkpoint."""
        if is_published_config(config_dict):
            config_dict = translate_config(config_dict)
        return super().from_dict(config_dict, **kwargs)
