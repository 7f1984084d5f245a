"""Masking for pretraining: which bases are hidden, drawn once from (seed, index)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.data.draws import MASK_STREAM, TOKEN_STREAM, raw_draws
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IGNORED: Final = -100
"""Label of a base that is not to be predicted."""
_LOW_HALF: Final = np.uint64(0xFFFFFFFF)
_OTHER_BASES: Final = alphabet.NUM_BASES - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig:
    """Shares of bases; what is left of the selected ones is shown unchanged."""

    share: float = 0.15
    """Share of the A C G T bases that are selected, i.e. to be predicted."""
    mask_share: float = 0.8
    """Share of the selected that is shown as [MASK]."""
    random_share: float = 0.1
    """Share of the selected that is shown as one of the three other bases."""
    mean_span: float | None = None
    """Mean length in bases of selected spans; None: each base is selected by itself."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise CrossDNAError(f"share must be between 0 and 1, got {self.share}")
        shares = self.mask_share, self.random_share
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise CrossDNAError(
                "mask_share and random_share must be 0 or more and at most 1 together, "
                f"got {self.mask_share} and {self.random_share}"
            )
        # Bases selected one by one already stand in runs of this mean length.
        shortest = 1 / (1 - self.share)
        if self.mean_span is not None and not self.mean_span >= shortest:
            raise CrossDNAError(
                f"mean_span must be at least {shortest:.3f} at share {self.share}, "
                f"got {self.mean_span}; leave it out to mask single bases"
            )


class Masked(NamedTuple):
    """A batch to learn from; all arrays are (batch, length)."""

    input_ids: NDArray[np.int64]
    """What the model sees."""
    labels: NDArray[np.int64]
    """The true base where it is to be predicted, elsewhere -100."""
    weights: NDArray[np.float32]
    """Weight of each base in the loss; 0 where it is not to be predicted."""


class MaskedTokens(NamedTuple):
    """Tokens to learn from; both arrays are (batch, tokens)."""

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    """The true token where it is to be predicted, elsewhere -100."""


class _Plan(NamedTuple):
    """Which bases are selected and how they show, before the sequence is looked at."""

    selected: NDArray[np.bool_]
    action: NDArray[np.float64]
    """In [0, 1): compared with the shares of [MASK] and of other bases."""
    other: NDArray[np.intp]
    """Which of the other bases would be shown, 0 to 2."""


def mask_bases(
    ids: NDArray[np.uint8],
    indices: Sequence[int] | NDArray[np.integer],
    *,
    seed: int,
    config: MaskingConfig,
    weights: NDArray[np.float32] | None = None,
) -> Masked:
    """Select bases and hide them.

    Row i is a function of (seed, indices[i], ids[i], config) alone: batch-mates,
    workers and the order of the batch do not matter, and a longer row begins like a
    shorter one. N and [PAD] are never selected and never replace a base.

    Parameters
    ----------
    ids : (batch, length) uint8
    indices : (batch,)
        The sample number of each row.
    seed
        Another seed gives the same samples other masks.
    weights : (batch, length) float32, optional
        Weight of each base; 1 by default.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or len(indices) != len(ids):
        raise ValueError(f"ids {ids.shape} need one index a row, got {len(indices)}")
    selected, action, other = _plan(
        raw_draws(seed, MASK_STREAM, indices, ids.shape[1]), config
    )
    selected &= ids < alphabet.NUM_BASES
    masked = selected & (action < config.mask_share)
    replaced = selected & ~masked
    replaced &= action < config.mask_share + config.random_share
    shown = np.where(masked, alphabet.MASK, ids.astype(np.int64))
    shown[replaced] = (shown[replaced] + 1 + other[replaced]) % alphabet.NUM_BASES
    weighting = np.float32(1) if weights is None else weights
    return Masked(
        input_ids=shown,
        labels=np.where(selected, ids, np.int64(IGNORED)),
        weights=np.where(selected, weighting, np.float32(0)),
    )


def mask_tokens(
    ids: NDArray[np.int64],
    eligible: NDArray[np.bool_],
    indices: Sequence[int] | NDArray[np.integer],
    *,
    seed: int,
    config: MaskingConfig,
    mask_id: int,
    others: NDArray[np.int64],
    run: int = 1,
) -> MaskedTokens:
    """Select whole tokens and hide them; see `mask_bases` for what a row depends on.

    Parameters
    ----------
    ids : (batch, tokens) int64
    eligible : (batch, tokens) bool
        Which of them may be selected.
    config
        Shares of tokens. `mean_span` is not read.
    mask_id
        Id that hides a token.
    others
        Ids that a token may be replaced with.
    run
        Tokens that are selected together: the bases of a token for overlapping k-mers,
        since fewer would leave every base readable from its neighbours.
    """
    length = ids.shape[1]
    draws = raw_draws(seed, MASK_STREAM, indices, length)
    # Each token begins a run with this chance, so that `share` of them lie in one.
    begin = 1 - (1 - config.share) ** (1 / run)
    _, action, _ = _plan(draws, config)
    begins = (draws >> np.uint64(32)).astype(np.float64) * 2.0**-32 < begin
    selected = np.zeros_like(begins)
    for shift in range(run):
        selected[:, shift:] |= begins[:, : length - shift]
    opens = selected.copy()
    opens[:, 1:] &= ~selected[:, :-1]
    first = np.maximum.accumulate(np.where(opens, np.arange(length), 0), axis=1)
    if run > 1:
        # A run shows in one way throughout, like a span of bases.
        action = np.take_along_axis(action, first, axis=1)
    selected &= eligible
    masked = selected & (action < config.mask_share)
    replaced = selected & ~masked
    replaced &= action < config.mask_share + config.random_share
    choice = raw_draws(seed, TOKEN_STREAM, indices, length) % np.uint64(len(others))
    shown = np.where(masked, mask_id, ids)
    shown[replaced] = others[choice.astype(np.int64)][replaced]
    return MaskedTokens(shown, np.where(selected, ids, np.int64(IGNORED)))


def _plan(draws: NDArray[np.uint64], config: MaskingConfig) -> _Plan:
    """Turn one draw a base into a plan.

    The upper half of a draw selects; the lower half says how the base shows: its
    first digit in base 3 which other base, the rest the action.
    """
    upper = (draws >> np.uint64(32)).astype(np.float64) * 2.0**-32
    lower = (draws & _LOW_HALF).astype(np.float64) * (_OTHER_BASES * 2.0**-32)
    other = lower.astype(np.intp)
    action = lower - other
    if config.mean_span is None:
        return _Plan(upper < config.share, action, other)
    selected, first = _spans(upper, config.share, config.mean_span)
    # A span shows in one way throughout, else the bases it keeps would give it away.
    return _Plan(selected, np.take_along_axis(action, first, axis=1), other)


def _spans(
    draws: NDArray[np.float64], share: float, mean_span: float
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Select spans of geometric length as a stationary two-state chain.

    A span ends after each base with probability ``1 / mean_span``; gaps are such that
    every base, the first included, is selected with probability `share`.

    Returns
    -------
    selected : (batch, length) bool
    first : (batch, length)
        Position of the first base of the span that a selected base lies in.
    """
    end = 1 / mean_span
    begin = share * end / (1 - share)
    # One draw moves both states: low values select, high values end, the others change
    # nothing. begin + end <= 1 (see MaskingConfig), so that they never collide.
    selects, ends = draws < begin, draws >= 1 - end
    selects[:, :1] = draws[:, :1] < share
    ends[:, :1] = ~selects[:, :1]
    positions = np.arange(draws.shape[1])
    last_event = np.maximum.accumulate(np.where(selects | ends, positions, 0), axis=1)
    selected = np.take_along_axis(selects, last_event, axis=1)
    opens = selected.copy()
    opens[:, 1:] &= ~selected[:, :-1]
    return selected, np.maximum.accumulate(np.where(opens, positions, 0), axis=1)
