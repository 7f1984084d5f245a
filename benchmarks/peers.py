"""The networks of the speed table, and what each must compute and move per base.

Peers have as many parameters as CrossDNA's paper size (8.1 million), read one id per
base and give logits for every base.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.models.caduceus import CaduceusConfig, CaduceusForMaskedLM
from crossdna.models.hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM


def build_crossdna():
    return CrossDNAForMaskedLM(CrossDNAConfig())


def build_caduceus():
    """Caduceus-Ph: each layer reads both directions with shared projections."""
    return CaduceusForMaskedLM(CaduceusConfig(d_model=256, n_layer=17))


def build_hyenadna(length=2**20):
    config = HyenaDNAConfig(d_model=256, n_layer=10, max_seq_len=length)
    return HyenaDNAForCausalLM(config)


def build_esm():
    """The Nucleotide Transformer's architecture, one id per base."""
    from transformers import EsmConfig, EsmForMaskedLM

    return EsmForMaskedLM(
        EsmConfig(
            vocab_size=8,
            hidden_size=256,
            num_hidden_layers=10,
            num_attention_heads=8,
            intermediate_size=1024,
            position_embedding_type="rotary",
            max_position_embeddings=2**20,
            pad_token_id=6,
            mask_token_id=5,
        )
    )


def build_mamba2():
    """Without compiled kernels, as a plain installation has it."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=8,
            hidden_size=384,
            num_hidden_layers=9,
            num_heads=12,
            head_dim=64,
            state_size=64,
            n_groups=1,
            pad_token_id=6,
            bos_token_id=0,
            eos_token_id=7,
        )
    )


class Work(NamedTuple):
    """What one forward pass does to a base at least.

    Attributes
    ----------
    operations : multiplications and additions
    numbers : numbers read and written when every operator reads its inputs and writes
        its outputs once (weights not counted: they are read once per batch)
    """

    operations: float
    numbers: float


def _weights(model):
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


def visible_keys(length, window):
    """Mean number of keys that a query of a causal sliding window sees."""
    full = max(0, length - window)
    ramp = min(length, window)
    return (ramp * (ramp + 1) / 2 + full * window) / length


def crossdna_work(model, length):
    """Weights once each; the delta rule's two reads and one write of a K x V state per
    head; attention over the visible keys."""
    config = model.config
    layers = 2 * config.depth
    d, m = config.d_model, config.mlp_dim
    k, v = (config.num_heads * n for n in (config.head_dim, config.value_dim))
    seen = min(length, config.block_size or length)
    if config.block_context == "recurrent":
        seen = length
    keys = visible_keys(seen, config.window_size)
    state = k * config.value_dim
    operations = 2 * (_weights(model) + layers * (3 * state + 2 * d * keys))
    mixer = (
        (d + 2 * k + v)  # projection to q, k, v
        + 2 * (2 * k + v)  # convolution
        + (d + v)  # projection to the gate
        + (2 * k + 2 * v)  # delta rule
        + 3 * v  # norm and gate
        + (v + d)  # projection out
    )
    attention = (
        2 * d  # norm
        + 4 * d  # projection to q, k, v
        + 4 * d  # attention
        + 3 * d  # projection out, added
        + 2 * d  # norm
        + (d + 2 * m)  # up
        + 3 * m  # gate
        + (m + 2 * d)  # down, added
        + 9 * d  # both joined, blended, normalised
    )
    # Bridge, projections and fusion: five views of each strand, joined, mixed, gated.
    around = 2 * (10 * d + 10 * d + 6 * d + 12 * d + 6 * d) + 10 * d
    return Work(operations, layers * (mixer + attention) + around)


def esm_work(model, length):
    config = model.config
    d, n = config.hidden_size, config.num_hidden_layers
    numbers = n * (2 * d + 4 * d + 4 * d + 3 * d + 2 * d + 5 * d + 8 * d + 6 * d)
    return Work(2 * (_weights(model) + n * 2 * d * length), numbers)


def caduceus_work(model, length):
    """Both directions: every weight twice; nine operations a state element."""
    config = model.config
    inner, states = 2 * config.d_model, 16
    operations = 4 * _weights(model) + config.n_layer * 2 * 9 * inner * states
    numbers = config.n_layer * 2 * (3 * config.d_model + 12 * inner)
    return Work(operations, numbers)


def hyenadna_work(model, length):
    """Three Fourier transforms of twice the length for each channel and layer."""
    config = model.config
    d, size = config.d_model, 2 * length
    transforms = 3 * 2.5 * 2 * torch.tensor(float(size)).log2().item()
    operations = 2 * _weights(model) + config.n_layer * d * transforms
    return Work(operations, config.n_layer * (12 * d + 10 * d + 12 * d))


class Peer(NamedTuple):
    build: object
    work: object


PEERS = {
    "crossdna": Peer(build_crossdna, crossdna_work),
    "crossdna-compiled": Peer(build_crossdna, crossdna_work),
    "crossdna-straightforward": Peer(build_crossdna, crossdna_work),
    "esm": Peer(build_esm, esm_work),
    "caduceus": Peer(build_caduceus, caduceus_work),
    "hyenadna": Peer(build_hyenadna, hyenadna_work),
    "mamba2": Peer(build_mamba2, None),
}
