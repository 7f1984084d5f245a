"""Long causal convolution: one filter per channel, as long as the sequence.

Poli et al., Hyena hierarchy: towards larger convolutional language models (2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import float32, promote_types

from crossdna.errors import CrossDNAError
from crossdna.ops.dispatch import Backend, always, choose
from crossdna.ops.long_conv import reference
from crossdna.ops.long_conv import torch as fourier

if TYPE_CHECKING:
    from torch import Tensor


def _accepts(*_arguments: Tensor) -> None:
    return None


# No kernel of its own for GPUs: PyTorch's transforms are the vendor's there.
BACKENDS = (
    Backend("torch", fourier.long_conv, _accepts, always),
    Backend("reference", reference.long_conv, _accepts, always, automatic=False),
)


def long_conv(
    u: Tensor,
    kernel: Tensor,
    skip: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Convolve each channel causally with its own filter.

    ``y[t] = kernel[0] u[t] + kernel[1] u[t - 1] + ... + kernel[t] u[0] + skip u[t]``,
    with zeros before the start (linear, not circular).

    Parameters
    ----------
    u : (batch, length, channels)
    kernel : (length, channels)
    skip : (channels,), zero when not given
    mask : (batch, length) bool; inputs at False count as zero
    backend : "auto" or one of `BACKENDS`

    Returns
    -------
    (batch, length, channels), in the dtype of `u`; computed in float32 at least

    Raises
    ------
    CrossDNAError
        Shapes that do not fit together, or an empty sequence.
    BackendUnavailableError
        The named backend cannot run this call.
    """
    _check(u, kernel, skip, mask)
    kind = promote_types(u.dtype, float32)
    skip = u.new_zeros(u.shape[2], dtype=kind) if skip is None else skip.to(kind)
    if mask is not None:
        u = u.masked_fill(~mask.bool()[..., None], 0.0)
    arguments = (u, kernel, skip)
    chosen = choose("long_conv", BACKENDS, backend, arguments)
    y: Tensor = chosen.kernel(*arguments)
    return y.to(u.dtype)


def _check(u: Tensor, kernel: Tensor, skip: Tensor | None, mask: Tensor | None) -> None:
    if u.ndim != 3 or tuple(kernel.shape) != tuple(u.shape[1:]):
        raise CrossDNAError(
            "long_conv: u (batch, length, channels) and kernel (length, channels) do "
            f"not fit: {tuple(u.shape)}, {tuple(kernel.shape)}"
        )
    if u.shape[1] == 0:
        raise CrossDNAError("long_conv: the sequence is empty")
    if skip is not None and skip.shape != u.shape[2:]:
        raise CrossDNAError(
            f"long_conv: skip must be {tuple(u.shape[2:])}, not {tuple(skip.shape)}"
        )
    if mask is not None and mask.shape != u.shape[:2]:
        raise CrossDNAError(
            f"long_conv: mask must be {tuple(u.shape[:2])}, not {tuple(mask.shape)}"
        )
