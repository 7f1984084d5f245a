"""Selective scan: the state space recurrence of Mamba.

Gu and Dao, Mamba: linear-time sequence modeling with selective state spaces (2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import float32, promote_types

from crossdna.errors import CrossDNAError
from crossdna.ops.dispatch import Backend, always, choose
from crossdna.ops.native import build
from crossdna.ops.selective_scan import gpu, native, reference
from crossdna.ops.selective_scan import torch as tiled
from crossdna.ops.shapes import require_shapes

if TYPE_CHECKING:
    from torch import Tensor


class SelectiveScanOutput(NamedTuple):
    """What the selective scan gives.

    Attributes
    ----------
    output : (batch, length, channels), in the dtype of `u`
    state : (batch, channels, states) after the last position, float32 (float64 for
        float64 inputs). Backend "mamba_ssm" gives it without a gradient
    """

    output: Tensor
    state: Tensor


def _accepts(*_arguments: Tensor | None) -> None:
    return None


BACKENDS = (
    Backend("mamba_ssm", gpu.selective_scan, gpu.reject, gpu.unavailable),
    Backend("native", native.selective_scan, native.reject, build.unavailable),
    Backend("torch", tiled.selective_scan, _accepts, always),
    Backend("reference", reference.selective_scan, _accepts, always, automatic=False),
)


def selective_scan(  # noqa: PLR0913 - the operator has these operands
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> SelectiveScanOutput:
    """Run one linear state space per channel whose step size depends on the input.

    At each position, with the state h of a channel:
    h <- exp(delta A) h + delta u B;  output = h . C + D u.

    Parameters
    ----------
    u : (batch, length, channels)
    delta : (batch, length, channels), step sizes, at least 0 (after the softplus)
    A : (channels, states), at most 0
    B, C : (batch, length, states)
    D : (channels,), zero when not given
    initial_state : (batch, channels, states), zero when not given
    mask : (batch, length) bool; a position at False leaves the state as it is. Its
        inputs must be finite and reach nothing but its own output, which means nothing
    backend : "auto" or one of `BACKENDS`

    Returns
    -------
    SelectiveScanOutput
        States and decays are computed in float32 under autocast too.

    Raises
    ------
    CrossDNAError
        Shapes that do not fit together.
    BackendUnavailableError
        The named backend cannot run this call.
    """
    _check(u, delta, A, B, C, D, initial_state, mask)
    kind = promote_types(u.dtype, float32)
    if mask is not None:
        delta = delta.masked_fill(~mask.bool()[..., None], 0.0)
    arguments = (
        u,
        delta,
        A.to(kind),
        B,
        C,
        None if D is None else D.to(kind),
        None if initial_state is None else initial_state.to(kind),
    )
    chosen = choose("selective_scan", BACKENDS, backend, arguments)
    return SelectiveScanOutput(*chosen.kernel(*arguments))


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    mask: Tensor | None,
) -> None:
    if u.ndim != 3 or A.ndim != 2:
        raise CrossDNAError(
            "selective_scan: u is (batch, length, channels) and A (channels, states), "
            f"got {tuple(u.shape)} and {tuple(A.shape)}"
        )
    batch, length, channels = u.shape
    states = A.shape[1]
    if length == 0:
        raise CrossDNAError("selective_scan: the sequence is empty")
    expected = {
        "delta": (delta, (batch, length, channels)),
        "A": (A, (channels, states)),
        "B": (B, (batch, length, states)),
        "C": (C, (batch, length, states)),
        "D": (D, (channels,)),
        "initial_state": (initial_state, (batch, channels, states)),
        "mask": (mask, (batch, length)),
    }
    require_shapes("selective_scan", expected)
