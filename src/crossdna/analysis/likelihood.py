"""Likelihoods of whole sequences under causal models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crossdna import alphabet
from crossdna.models.strands import over_strands

if TYPE_CHECKING:
    from torch import Tensor

    from crossdna.alphabet import Strand


def log_likelihoods(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    strand: Strand = "+",
) -> Tensor:
    """Log-likelihood of each sequence under a causal model, (batch,) float64.

    The sum of log p(base | the bases before it), natural logarithm, over A C G T; a
    model that reads tokens sums over these. What has nothing before it has no term, so
    sequences of equal length are compared.

    Parameters
    ----------
    input_ids, attention_mask : (batch, length)
    strand
        Of the sequence, of its reverse complement, or the mean of both.
    """

    def read(ids: Tensor, mask: Tensor | None) -> Tensor:
        return _one_strand(model, ids, mask)

    return over_strands(model, read, lambda x: x, input_ids, attention_mask, strand)


def _one_strand(model: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    if hasattr(model, "log_likelihoods"):
        return model.log_likelihoods(ids, mask)
    logits = model(input_ids=ids, attention_mask=mask).logits
    logs = logits[:, :-1, : alphabet.NUM_BASES].float().log_softmax(-1)
    bases = ids[:, 1:].clamp(max=alphabet.NUM_BASES - 1)
    own = logs.gather(2, bases[..., None])[..., 0].double()
    counted = ids[:, 1:] < alphabet.NUM_BASES
    if mask is not None:
        # Behind padding on the left a base has nothing before it.
        counted = counted & (mask[:, 1:] != 0) & (mask[:, :-1] != 0)
    return own.masked_fill(~counted, 0).sum(1)
