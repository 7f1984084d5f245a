"""From probabilities of k-mers to probabilities of bases.

A k-mer token says something about each of its bases given the others. With p the
model's distribution over tokens, the probability of base b at one place of a token is
the sum of p over the k-mers that have b there and agree with the token's visible bases
elsewhere, over the sum for all four b. Hidden bases are summed over. When one base is
hidden, the ratio of two bases is the ratio of the two k-mers that differ in it, which
is how masked k-mer models are scored in the literature.

A causal model has seen nothing behind a base, so it is given the token's earlier bases
only; the product over a sequence is then the product of its tokens' probabilities.

Where several tokens stand for a base (overlapping k-mers) their probabilities are
averaged. Tokens with an N in them say nothing; a base without any other gets 1/4 each.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crossdna import alphabet
from crossdna.models.tokenized.batch import letters_of

if TYPE_CHECKING:
    from crossdna.models.tokenized.batch import TokenBatch
    from crossdna.tokenizers.reading import KmerReader

_BASES = alphabet.NUM_BASES


def base_log_probabilities(
    reader: KmerReader, logits: Tensor, ids: Tensor, batch: TokenBatch, *, causal: bool
) -> Tensor:
    """Log-probabilities (batch, length, 4) float32 of A C G T at each base.

    Parameters
    ----------
    logits : (batch, tokens, vocabulary)
        The prediction of each token, at its own place.
    ids : (batch, length)
        Bases; hidden ones are MASK.
    """
    device = ids.device
    kmers = torch.from_numpy(reader.kmer_ids).to(device)
    singles = torch.from_numpy(reader.letter_ids[:_BASES]).to(device)
    letters = letters_of(ids, batch, reader.k)
    of_tokens = torch.stack(
        [
            _of_each_letter(row[:, kmers].float(), own, causal=causal)
            for row, own in zip(logits, letters, strict=True)
        ]
    )
    usable = (letters != alphabet.N).all(-1) & (batch.size == reader.k)
    if reader.k > 1 and not reader.overlapping:
        alone = (batch.size == 1) & (letters[..., 0] != alphabet.N)
        logs = logits[..., singles].float().log_softmax(-1)
        of_tokens[..., 0, :] = torch.where(alone[..., None], logs, of_tokens[..., 0, :])
        usable = usable | alone
    return _of_each_base(of_tokens, usable, ids, batch)


def _of_each_letter(logits: Tensor, letters: Tensor, *, causal: bool) -> Tensor:
    """Normalised log-probabilities (tokens, k, 4) at each place of each token.

    Parameters
    ----------
    logits : (tokens, 4^k)
    letters : (tokens, k)
    """
    parts = (_given_before if causal else _given_others)(logits, letters)
    return torch.stack(parts, dim=1).log_softmax(-1)


def _given_others(logits: Tensor, letters: Tensor) -> list[Tensor]:
    """For each place, (tokens, 4) given the visible bases at all others.

    Halves: what both halves of the places need is summed over once.
    """
    k = letters.shape[1]
    if k == 1:
        return [logits]
    half = k // 2
    left, right = logits, logits
    for place in reversed(range(half, k)):
        left = _drop(left.view(len(left), -1, _BASES, 1), letters[:, place])
    for place in range(half):
        right = _drop(right.view(len(right), 1, _BASES, -1), letters[:, place])
    return _given_others(left, letters[:, :half]) + _given_others(
        right, letters[:, half:]
    )


def _given_before(logits: Tensor, letters: Tensor) -> list[Tensor]:
    """For each place, (tokens, 4) given the visible bases in front of it."""
    parts = []
    for place in range(letters.shape[1]):
        parts.append(logits.view(len(logits), _BASES, -1).logsumexp(-1))
        if place + 1 < letters.shape[1]:
            part = logits.view(len(logits), 1, _BASES, -1)
            logits = _drop(part, letters[:, place])
    return parts


def _drop(logits: Tensor, letter: Tensor) -> Tensor:
    """Take a visible base's part of (tokens, a, 4, b), or the sum over a hidden one."""
    known = (letter < _BASES).view(-1, 1, 1)
    index = letter.clamp(max=_BASES - 1).view(-1, 1, 1, 1)
    index = index.expand(-1, logits.shape[1], 1, logits.shape[3])
    own = logits.gather(2, index).squeeze(2)
    return torch.where(known, own, logits.logsumexp(2)).flatten(1)


def _of_each_base(
    of_tokens: Tensor, usable: Tensor, ids: Tensor, batch: TokenBatch
) -> Tensor:
    """Average over the tokens that stand for each base."""
    tokens, k = of_tokens.shape[1:3]
    flat = of_tokens.flatten(1, 2)
    columns = torch.arange(ids.shape[1], device=ids.device)
    total = flat.new_full((*ids.shape, _BASES), -math.inf)
    said = torch.zeros_like(ids)
    for number in range(batch.most):
        token = (batch.first + number).clamp(max=tokens - 1)
        counts = (number < batch.covers) & usable.gather(1, token)
        offset = (columns - batch.start.gather(1, token)).clamp(0, k - 1)
        index = (token * k + offset)[..., None].expand(-1, -1, _BASES)
        part = flat.gather(1, index).masked_fill(~counts[..., None], -math.inf)
        total = torch.logaddexp(total, part)
        said = said + counts
    silent = (said == 0)[..., None]
    total = total - said.clamp(min=1).log()[..., None]
    return total.masked_fill(silent, -math.log(_BASES))
