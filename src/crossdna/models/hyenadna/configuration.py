"""The configuration of a HyenaDNA network, in its published field names."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from crossdna.errors import CrossDNAError


class HyenaDNAConfig(PreTrainedConfig):
    """Sizes and behaviour of HyenaDNA; the defaults are those of the released models.

    Parameters
    ----------
    vocab_size, pad_vocab_size_multiple : int
        Ids in use, and the multiple to which the embedding's rows are rounded up.
    d_model, n_layer : int
        Channels, layers.
    d_inner : int or None
        Inner width of the MLP; None: four times `d_model`.
    max_seq_len : int
        Rows of the stored filter positions: no longer sequence can be read.
    emb_dim, filter_order, num_inner_mlps : int
        The network that makes filters: position features (odd), width, inner layers.
    activation_freq : float
        Initial frequency of its sines.
    train_freq : bool
        Whether those frequencies learn.
    short_filter_order : int
        Taps of the short convolution.
    hyena_order : int
        Only 2 is defined.
    hyena_dropout : float
        On the input of the long convolution.
    layer_norm_epsilon : float
        Of the last norm; the blocks' is 1e-5.
    initializer_range : float
        Standard deviation of fresh weights.
    use_bias, embed_dropout, hyena_filter_dropout
        Kept for the file; the published network ignores them, and so does this one.

    Raises
    ------
    CrossDNAError
        A size that is not positive, an even `emb_dim`, or another `hyena_order`.
    """

    model_type = "hyenadna"
    attribute_map = {  # noqa: RUF012 - transformers' own form
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "max_seq_len",
    }

    vocab_size: int = 12
    pad_vocab_size_multiple: int = 8
    d_model: int = 256
    d_inner: int | None = None
    n_layer: int = 8
    max_seq_len: int = 1024
    emb_dim: int = 5
    filter_order: int = 64
    num_inner_mlps: int = 2
    activation_freq: float = 10.0
    train_freq: bool = True
    short_filter_order: int = 3
    hyena_order: int = 2
    hyena_dropout: float = 0.0
    hyena_filter_dropout: float = 0.0
    embed_dropout: float = 0.1
    head_dropout: float = 0.0
    use_bias: bool = True
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int | None = 4
    bos_token_id: int | None = None
    eos_token_id: int | None = 1
    sep_token_id: int | None = 1
    mask_token_id: int | None = 3
    tie_word_embeddings: bool = False
    use_cache: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        # The file's remote code is neither needed nor saved along.
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
        if self.d_inner is None:
            self.d_inner = 4 * self.d_model
        sizes = (
            "vocab_size pad_vocab_size_multiple d_model d_inner n_layer max_seq_len "
            "emb_dim filter_order short_filter_order"
        )
        for name in sizes.split():
            if getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be positive, got {getattr(self, name)}"
                )
        if self.emb_dim < 3 or self.emb_dim % 2 == 0:
            raise CrossDNAError(
                f"emb_dim must be odd and at least 3, got {self.emb_dim}"
            )
        if self.hyena_order != 2:
            raise CrossDNAError(f"hyena_order must be 2, got {self.hyena_order}")
        if self.tie_word_embeddings:
            raise CrossDNAError("HyenaDNA with tied embeddings has not been described")

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding and of the head: `vocab_size` rounded up."""
        multiple = self.pad_vocab_size_multiple
        return multiple * -(-self.vocab_size // multiple)
