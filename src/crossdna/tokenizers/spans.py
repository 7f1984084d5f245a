"""Which bases a token stands for, whatever the tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.tokenizers.nucleotide import CrossDNATokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TokenSpans(NamedTuple):
    """The tokens of one sequence and their places.

    Attributes
    ----------
    ids : (tokens,) int64
    spans : (tokens, 2) int64
        0-based half-open intervals of bases, on the forward strand; (-1, -1) for
        special tokens, which stand for none.
    """

    ids: NDArray[np.int64]
    spans: NDArray[np.int64]


def token_spans(tokenizer: Any, sequence: str) -> TokenSpans:
    """Tokenize a sequence, special tokens included, and say where each token lies.

    Raises
    ------
    CrossDNAError
        An empty sequence, or a tokenizer that keeps no places.
    """
    if not sequence:
        raise CrossDNAError("the sequence is empty")
    if isinstance(tokenizer, CrossDNATokenizer):
        ids = np.array(tokenizer(sequence)["input_ids"], np.int64)
        starts = np.arange(len(ids))
        return TokenSpans(ids, np.stack([starts, starts + 1], 1))
    if not getattr(tokenizer, "is_fast", False):
        raise CrossDNAError(
            f"{type(tokenizer).__name__} does not keep the places of its tokens; "
            "use a fast tokenizer"
        )
    encoding = tokenizer(
        sequence, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    spans = np.array(encoding["offset_mapping"], np.int64).reshape(-1, 2)
    # A [MASK] within the text is special too, but has a place.
    spans[spans[:, 0] == spans[:, 1]] = -1
    return TokenSpans(np.array(encoding["input_ids"], np.int64), spans)


def reverse_complement_spans(tokenizer: Any, sequence: str) -> TokenSpans:
    """Tokenize the reverse complement of a sequence.

    The complement is taken base by base before tokenizing: tokens of several bases
    have no complement of their own. Tokens come in the order of the reverse strand,
    spans are on the forward strand of `sequence`.

    Raises
    ------
    CrossDNAError
        An empty sequence, letters that stand for no base, or a tokenizer that keeps no
        places.
    """
    ids = alphabet.reverse_complement(alphabet.encode(sequence))
    result = token_spans(tokenizer, alphabet.decode(ids))
    mirrored = len(sequence) - result.spans[:, ::-1]
    mirrored[result.spans[:, 0] < 0] = -1
    return TokenSpans(result.ids, mirrored)


def spread_over_bases(
    values: NDArray[np.floating], spans: NDArray[np.int64], length: int
) -> NDArray[np.float64]:
    """Give each base the mean of the tokens that cover it.

    Parameters
    ----------
    values : (tokens, ...)
    spans : (tokens, 2)
        From `token_spans`; special tokens count for no base.
    length
        Bases in the sequence.

    Returns
    -------
    (length, ...) float64, NaN at bases without a token
    """
    steps = np.zeros((length + 1, *values.shape[1:]))
    covered = np.zeros(length + 1)
    real = spans[:, 0] >= 0
    for edge, sign in ((spans[real, 0], 1.0), (spans[real, 1], -1.0)):
        np.add.at(steps, edge, sign * values[real])
        np.add.at(covered, edge, sign)
    totals, counts = steps.cumsum(0)[:length], covered.cumsum()[:length]
    counts = counts.reshape(-1, *[1] * (values.ndim - 1))
    return np.divide(
        totals, counts, out=np.full_like(totals, np.nan), where=counts > 0.5
    )
