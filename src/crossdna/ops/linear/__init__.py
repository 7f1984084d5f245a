"""Linear maps at the speed of the machine's matrix unit.

torch's float32 products go through a library that reaches half of what oneDNN reaches
on some CPUs (AMD with AVX-512: 110 against 240 GFLOP/s a core), as accurately. With
AVX2 it is torch that is ahead. Gradients of weights are always torch's: oneDNN would
copy what lies transposed. Its bfloat16 products take hundreds of times as long on CPUs
without instructions for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdna.ops.dispatch import Backend, always, choose
from crossdna.ops.linear import onednn, reference, widened

if TYPE_CHECKING:
    from torch import Tensor


def _accepts(*_arguments: Tensor | None) -> None:
    return None


BACKENDS = (
    Backend(
        "onednn",
        onednn.linear,
        onednn.reject,
        onednn.unavailable,
        automatic=onednn.FASTER,
    ),
    Backend("widened", widened.linear, widened.reject, widened.unavailable),
    Backend("torch", reference.linear, _accepts, always),
)


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto"
) -> Tensor:
    """Multiply by a weight: x @ weight.T + bias.

    Parameters
    ----------
    x : (..., inputs)
    weight : (outputs, inputs)
    bias : (outputs,), optional
    backend : "auto" or one of `BACKENDS`

    Returns
    -------
    (..., outputs)

    Raises
    ------
    BackendUnavailableError
        The named backend is unknown or cannot take these arguments.
    """
    arguments = (x, weight, bias)
    return choose("linear", BACKENDS, backend, arguments).kernel(*arguments)
