"""A batch of tokens and the bases that each stands for; values go from one to other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.models.vocabulary import require_letters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crossdna.tokenizers.reading import Reader


class TokenBatch(NamedTuple):
    """Tokens of a batch of sequences, padded on the right whatever side the bases were.

    Columns of bases count in the padded batch that was given.

    Attributes
    ----------
    input_ids, attention_mask : (batch, tokens) int64
    start : (batch, tokens) int64
        Column of a token's first base; -1 for special tokens and padding.
    size : (batch, tokens) int64
        Bases that a token stands for.
    first : (batch, length) int64
        The first token that stands for a base; 0 where none does.
    covers : (batch, length) int64
        How many tokens do; they follow each other.
    most : int
        The largest of those numbers.
    """

    input_ids: Tensor
    attention_mask: Tensor
    start: Tensor
    size: Tensor
    first: Tensor
    covers: Tensor
    most: int


def token_batch(
    reader: Reader,
    ids: Tensor,
    attention_mask: Tensor | None,
    longest: int | None = None,
) -> TokenBatch:
    """Cut a padded batch of base ids into tokens.

    Cutting is work for the host, so that ids on a GPU are waited for.

    Parameters
    ----------
    ids : (batch, length)
    attention_mask : (batch, length), optional
        Without one, [PAD] is padding.
    longest
        The most tokens that the network reads.

    Raises
    ------
    CrossDNAError
        A row without bases, with padding between them, or with more tokens than
        `longest`; ids that are no letters.
    """
    numbers = ids.cpu().numpy()
    if not numbers.size:
        raise CrossDNAError("a batch without sequences cannot be read")
    require_letters(numbers.min(), numbers.max())
    bases = numbers.astype(np.uint8)
    mask = (
        bases != alphabet.PAD
        if attention_mask is None
        else attention_mask.cpu().numpy() != 0
    )
    if not mask.any(1).all():
        raise CrossDNAError("a sequence without bases cannot be read")
    begin = mask.argmax(1)
    if (mask.sum(1) != mask.shape[1] - begin - mask[:, ::-1].argmax(1)).any():
        raise CrossDNAError("attention_mask: padding stands left or right, not between")
    rows = reader.read([row[own] for row, own in zip(bases, mask, strict=True)])
    width = max(len(row.ids) for row in rows)
    if longest is not None and width > longest:
        raise CrossDNAError(
            f"{int(mask.sum(1).max())} bases are {width} tokens, but the model reads "
            f"{longest} at most; take shorter windows or sequences"
        )
    tokens = np.full((len(rows), width), reader.pad_id, np.int64)
    present = np.zeros((len(rows), width), np.int64)
    start = np.full((len(rows), width), -1, np.int64)
    size = np.zeros((len(rows), width), np.int64)
    first = np.zeros(bases.shape, np.int64)
    count = np.zeros(bases.shape, np.int64)
    for row, (found, spans) in enumerate(rows):
        tokens[row, : len(found)] = found
        present[row, : len(found)] = 1
        real = np.flatnonzero(spans[:, 0] >= 0)
        places = spans[real] + begin[row]
        start[row, real] = places[:, 0]
        size[row, real] = places[:, 1] - places[:, 0]
        _cover(first[row], count[row], real, places)

    def there(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values).to(ids.device)

    return TokenBatch(
        there(tokens), there(present), there(start), there(size), there(first),
        there(count), int(count.max()),
    )  # fmt: skip


def _cover(
    first: NDArray[np.int64],
    count: NDArray[np.int64],
    tokens: NDArray[np.int64],
    places: NDArray[np.int64],
) -> None:
    """Fill in which tokens stand for each base of a row."""
    np.add.at(count, places[:, 0], 1)
    ends = places[:, 1] < len(count)
    np.subtract.at(count, places[ends, 1], 1)
    np.cumsum(count, out=count)
    # Tokens begin and end in ascending order, so the first one over a base is the first
    # that ends behind it.
    columns = np.flatnonzero(count)
    at = np.searchsorted(places[:, 1], columns, side="right")
    first[columns] = tokens[at]


def spread(values: Tensor, batch: TokenBatch) -> Tensor:
    """Give each base the mean of the tokens that stand for it; zeros where none does.

    Parameters
    ----------
    values : (batch, tokens, channels)

    Returns
    -------
    (batch, length, channels)
    """
    last = values.shape[1] - 1
    total = values.new_zeros(*batch.first.shape, values.shape[-1])
    for number in range(batch.most):
        index = (batch.first + number).clamp(max=last)[..., None]
        part = values.gather(1, index.expand(-1, -1, values.shape[-1]))
        total = total + part * (number < batch.covers)[..., None]
    return total / batch.covers.clamp(min=1)[..., None]


def letters_of(ids: Tensor, batch: TokenBatch, k: int) -> Tensor:
    """The bases (batch, tokens, k) behind each token, MASK where hidden.

    PAD behind a token's last base, and for tokens without bases.
    """
    offsets = torch.arange(k, device=ids.device)
    columns = (batch.start[..., None] + offsets).clamp(0, ids.shape[1] - 1)
    letters = ids.gather(1, columns.flatten(1)).view(columns.shape)
    return letters.masked_fill(offsets >= batch.size[..., None], alphabet.PAD)
