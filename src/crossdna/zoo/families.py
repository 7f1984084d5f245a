"""The one table of model families: what a config.json's model_type decides.

Families of this package read one id per base. Families of transformers read tokens and
are wrapped (`crossdna.models.tokenized`). Anything else is an error, unless it brings
code of its own and the user lets it run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

Objective = Literal["masked", "causal"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What has to be known of a family of transformers.

    Attributes
    ----------
    objective : str
        Predicts hidden tokens, or the next one.
    positions : str
        "table": as many tokens as the table of positions has rows; "after padding": as
        many less the rows up to that of the pad token; "free": no limit of its own.
    limit : str
        The configuration's name of the rows in that table.
    pooler : bool
        Whether the bare network has a pooling layer, which is left out: it is used by
        nothing here and often missing in checkpoints.
    heads : tuple of str
        Where keys outside the bare network begin.
    unused : tuple of str
        Regular expressions of keys that no computation here reads: they may be missing
        (zero then) or left over.
    settings : dict
        What is put into the configuration.
    dropouts : tuple of str
        The configuration's names of dropout rates.
    no_lora : tuple of str
        Linear layers that are not used, or whose weights are read past their forward
        method.
    same_code : tuple of str
        Modules of code beside published checkpoints that only repeats the family's own
        network (older copies, other heads): it is left aside, and never run.
    """

    objective: Objective
    positions: Literal["table", "after padding", "free"] = "free"
    limit: str = "max_position_embeddings"
    pooler: bool = False
    heads: tuple[str, ...] = ("lm_head.", "score.", "classifier.")
    unused: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    dropouts: tuple[str, ...] = ("attention_dropout",)
    no_lora: tuple[str, ...] = ()
    same_code: tuple[str, ...] = ()

    def longest(self, config: Any) -> int | None:
        """The most tokens that a network reads; None: no limit of its own."""
        if self.positions == "free":
            return None
        if getattr(config, "position_embedding_type", "absolute") == "rotary":
            return None
        rows = int(getattr(config, self.limit))
        if self.positions == "after padding":
            rows -= int(config.pad_token_id) + 1
        return rows


_POSITIONS: Final = r"(^|\.)position_ids$"
_POOLER: Final = r"(^|\.)pooler\."
_BERT_HEADS: Final = ("cls.", "lm_head.", "classifier.", "score.")
_BERT_DROPOUTS: Final = ("hidden_dropout_prob", "attention_probs_dropout_prob")

NATIVE: Final[dict[str, Objective]] = {
    "caduceus": "masked",
    "crossdna": "masked",
    "hyenadna": "causal",
}
"""Families whose network is written in this package."""

FAMILIES: Final = {
    "bert": Family(
        objective="masked",
        positions="table",
        pooler=True,
        heads=_BERT_HEADS,
        unused=(_POSITIONS, _POOLER, r"^cls\.seq_relationship\."),
        dropouts=_BERT_DROPOUTS,
        # DNABERT, whose classifier for long sequences is in it.
        same_code=("configuration_bert", "dnabert_layer"),
    ),
    "big_bird": Family(
        objective="masked",
        positions="table",
        pooler=True,
        heads=_BERT_HEADS,
        unused=(_POSITIONS, _POOLER, r"^cls\.seq_relationship\."),
        # Sparse attention draws random blocks, and turns itself off for good at the
        # first short sequence: results would depend on the order of questions.
        settings={"attention_type": "original_full"},
        dropouts=_BERT_DROPOUTS,
    ),
    "esm": Family(
        objective="masked",
        positions="after padding",
        pooler=True,
        unused=(_POSITIONS, _POOLER, r"(^|\.)contact_head\.", r"\.inv_freq$"),
        dropouts=_BERT_DROPOUTS,
    ),
    "gemma": Family(objective="causal"),
    "gemma2": Family(objective="causal"),
    "gpt2": Family(
        objective="causal",
        positions="table",
        unused=(r"\.attn\.bias$", r"\.attn\.masked_bias$"),
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    ),
    "llama": Family(objective="causal", unused=(r"\.inv_freq$",)),
    "mamba": Family(
        objective="causal",
        dropouts=(),
        no_lora=("conv1d", "dt_proj", "out_proj"),
        # Plant DNAMamba, whose classifier is in it.
        same_code=("configuration_mamba", "modeling_mamba"),
    ),
    "mamba2": Family(objective="causal", dropouts=(), no_lora=("conv1d", "out_proj")),
    "mistral": Family(objective="causal", unused=(r"\.inv_freq$",)),
    "mixtral": Family(objective="causal", unused=(r"\.inv_freq$",)),
    "modernbert": Family(
        objective="masked",
        heads=("head.", "decoder.", "classifier."),
        dropouts=("embedding_dropout", "mlp_dropout", "attention_dropout"),
    ),
    "roberta": Family(
        objective="masked",
        positions="after padding",
        pooler=True,
        unused=(_POSITIONS, _POOLER),
        dropouts=_BERT_DROPOUTS,
    ),
}
"""Families of transformers that are wrapped, by model_type."""


def unknown_family(objective: Objective) -> Family:
    """What is assumed of a network whose code comes with the checkpoint."""
    return Family(objective=objective, unused=(_POSITIONS, _POOLER), dropouts=())


def needed_code(raw: dict[str, Any]) -> dict[str, Any]:
    """The auto_map of a raw config.json; empty where nothing of it has to be run.

    That is so where every module named in it is one of the family's `same_code`. Such a
    checkpoint must then fit the class of transformers in every key and shape.
    """
    code: dict[str, Any] = raw.get("auto_map") or {}
    family = FAMILIES.get(str(raw.get("model_type")))
    if family is None:
        return code
    # "owner/name--module.Class" where the code lies in another repository.
    modules = {str(n).split("--")[-1].rpartition(".")[0] for n in code.values()}
    return {} if modules <= set(family.same_code) else code
