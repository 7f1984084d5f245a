"""Normalisations and gates, each a single pass over memory where a kernel is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdna.errors import CrossDNAError
from crossdna.ops import fusion
from crossdna.ops.dispatch import Backend, always, choose
from crossdna.ops.gates import gpu, native, reference
from crossdna.ops.shapes import require_shapes

if TYPE_CHECKING:
    from torch import Tensor


def _accepts(*_arguments: object) -> None:
    return None


def _table(name: str) -> tuple[Backend, ...]:
    return (
        Backend("fused", getattr(gpu, name), fusion.reject, fusion.unavailable),
        Backend(
            "native",
            getattr(native, name),
            getattr(native, f"reject_{name}"),
            native.unavailable,
        ),
        Backend("torch", getattr(reference, name), _accepts, always),
    )


RMS_NORM, SWIGLU, BLEND_NORM = map(_table, ("rms_norm", "swiglu", "blend_norm"))
BACKENDS = RMS_NORM


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    gate: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Scale to unit root mean square along the last axis, then weigh and gate.

    Parameters
    ----------
    x : (..., width)
    weight : (width,)
    eps : added to the mean square
    gate : same shape as `x`, optional; its sigmoid multiplies the result
    backend : "auto" or one of `BACKENDS`

    Returns
    -------
    same shape and dtype as `x`

    Raises
    ------
    CrossDNAError
        Shapes that do not fit together.
    BackendUnavailableError
        The named backend is unknown or cannot take these arguments.
    """
    shapes = {"weight": (weight, x.shape[-1:]), "gate": (gate, x.shape)}
    require_shapes("rms_norm", shapes)
    arguments = (x, weight, eps, gate)
    return choose("rms_norm", RMS_NORM, backend, arguments).kernel(*arguments)


def swiglu(x: Tensor, *, backend: str = "auto") -> Tensor:
    """Multiply the second half of the last axis by the SiLU of the first.

    Parameters
    ----------
    x : (..., 2 * width)
    backend : "auto" or one of `BACKENDS`

    Returns
    -------
    (..., width)

    Raises
    ------
    CrossDNAError
        Shapes that do not fit together.
    BackendUnavailableError
        The named backend is unknown or cannot take these arguments.
    """
    if x.shape[-1] % 2:
        raise CrossDNAError(
            f"swiglu: the last axis must have two halves, got {tuple(x.shape)}"
        )
    return choose("swiglu", SWIGLU, backend, (x,)).kernel(x)


def blend_norm(
    m: Tensor,
    t: Tensor,
    gate: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    backend: str = "auto",
) -> Tensor:
    """Layer normalisation of m + sigmoid(gate) (t - m).

    Parameters
    ----------
    m, t, gate : (..., width)
    weight, bias : (width,)
    eps : added to the variance
    backend : "auto" or one of `BACKENDS`

    Returns
    -------
    same shape and dtype as `m`

    Raises
    ------
    CrossDNAError
        Shapes that do not fit together.
    BackendUnavailableError
        The named backend is unknown or cannot take these arguments.
    """
    width = m.shape[-1:]
    require_shapes(
        "blend_norm",
        {
            "t": (t, m.shape),
            "gate": (gate, m.shape),
            "weight": (weight, width),
            "bias": (bias, width),
        },
    )
    arguments = (m, t, gate, weight, bias, eps)
    return choose("blend_norm", BLEND_NORM, backend, arguments).kernel(*arguments)
