"""Head scan: the state space recurrence of Mamba-2, one decay for each head.

Dao and Gu, Transformers are SSMs: generalized models and efficient algorithms through
structured state space duality (2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import float32, promote_types

from crossdna.errors import CrossDNAError
from crossdna.ops.dispatch import Backend, always, choose
from crossdna.ops.head_scan import reference
from crossdna.ops.head_scan import torch as chunked
from crossdna.ops.shapes import require_shapes

if TYPE_CHECKING:
    from torch import Tensor


class HeadScanOutput(NamedTuple):
    """What the head scan gives.

    Attributes
    ----------
    output : (batch, length, heads, width), in the dtype of `u`
    state : (batch, heads, width, states) after the last position, float32 (float64 for
        float64 inputs)
    """

    output: Tensor
    state: Tensor


def _accepts(*_arguments: Tensor | None) -> None:
    return None


BACKENDS = (
    Backend("torch", chunked.head_scan, _accepts, always),
    Backend("reference", reference.head_scan, _accepts, always, automatic=False),
)


def head_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    backend: str = "auto",
) -> HeadScanOutput:
    """Run one linear state space per channel; those of a head forget at one rate.

    At each position, with the state h (width, states) of a head:
    h <- exp(delta A) h + delta u B^T;  output = h C + D u.

    Parameters
    ----------
    u : (batch, length, heads, width)
    delta : (batch, length, heads), step sizes, at least 0 (after the softplus)
    A : (heads,), at most 0
    B, C : (batch, length, groups, states); as many heads that follow each other share
        a group
    D : (heads,), zero when not given
    initial_state : (batch, heads, width, states), zero when not given
    backend : "auto" or one of `BACKENDS`

    Returns
    -------
    HeadScanOutput
        States and decays are computed in float32 under autocast too.

    Raises
    ------
    CrossDNAError
        Shapes that do not fit together.
    BackendUnavailableError
        The named backend cannot run this call.
    """
    _check(u, delta, A, B, C, D, initial_state)
    kind = promote_types(u.dtype, float32)
    batch, _, heads, width = u.shape
    if D is None:
        D = A.new_zeros(heads)
    if initial_state is None:
        initial_state = u.new_zeros(batch, heads, width, B.shape[3])
    operands = (u, delta, A, B, C, D, initial_state)
    arguments = tuple(x.to(kind) for x in operands)
    chosen = choose("head_scan", BACKENDS, backend, arguments)
    output, state = chosen.kernel(*arguments)
    return HeadScanOutput(output.to(u.dtype), state)


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if u.ndim != 4 or B.ndim != 4:
        raise CrossDNAError(
            "head_scan: u is (batch, length, heads, width) and B (batch, length, "
            f"groups, states), got {tuple(u.shape)} and {tuple(B.shape)}"
        )
    batch, length, heads, width = u.shape
    groups, states = B.shape[2:]
    if length == 0:
        raise CrossDNAError("head_scan: the sequence is empty")
    if groups == 0 or heads % groups:
        raise CrossDNAError(
            f"head_scan: {heads} heads cannot share {groups} groups of B and C"
        )
    expected = {
        "delta": (delta, (batch, length, heads)),
        "A": (A, (heads,)),
        "B": (B, (batch, length, groups, states)),
        "C": (C, (batch, length, groups, states)),
        "D": (D, (heads,)),
        "initial_state": (initial_state, (batch, heads, width, states)),
    }
    require_shapes("head_scan", expected)
