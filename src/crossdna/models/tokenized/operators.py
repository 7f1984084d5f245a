"""Networks of transformers that compute with this package's operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def use_operators(net: PreTrainedModel) -> None:
    """Let a network compute with our operators where its family's own code is slow.

    Those are Mamba and Mamba-2, see `crossdna.models.tokenized.mamba`. The classes of
    transformers stay as they are, for all other networks.
    """
    if net.config.model_type in ("mamba", "mamba2"):
        # Where mamba-ssm is installed, transformers' modules load it, which takes long.
        from crossdna.models.tokenized.mamba import exchange_mixers

        exchange_mixers(net)
