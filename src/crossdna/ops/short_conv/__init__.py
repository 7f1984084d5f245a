"""Short depthwise convolutions: causal with a carried tail, or around each position."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import cat

from crossdna.errors import CrossDNAError
from crossdna.ops import fusion
from crossdna.ops.dispatch import Backend, always, choose
from crossdna.ops.native import build
from crossdna.ops.short_conv import gpu, native, reference
from crossdna.ops.short_conv import torch as taps

if TYPE_CHECKING:
    from torch import Tensor


class ShortConvOutput(NamedTuple):
    """What the convolution gives.

    Attributes
    ----------
    output : (batch, length, channels)
    tail : (batch, width - 1, channels), the last inputs, for the next piece
    """

    output: Tensor
    tail: Tensor


def _accepts(*_arguments: object) -> None:
    return None


BACKENDS = (
    Backend("triton", gpu.short_conv, gpu.reject, fusion.unavailable),
    Backend("native", native.short_conv, native.reject, build.unavailable),
    Backend("torch", taps.short_conv, _accepts, always),
    Backend("reference", reference.short_conv, _accepts, always, automatic=False),
)

DILATED_BACKENDS = (
    Backend("triton", gpu.dilated_conv, gpu.reject_dilated, fusion.unavailable),
    Backend("native", native.dilated_conv, native.reject_dilated, build.unavailable),
    Backend("torch", taps.dilated_conv, _accepts, always),
    Backend("reference", reference.dilated_conv, _accepts, always, automatic=False),
)


def short_conv(
    x: Tensor,
    weight: Tensor,
    *,
    tail: Tensor | None = None,
    mask: Tensor | None = None,
    activation: str | None = None,
    backend: str = "auto",
) -> ShortConvOutput:
    """Convolve each channel with its own few taps, causally, without bias.

    Parameters
    ----------
    x : (batch, length, channels)
    weight : (channels, width); the last tap meets the current input
    tail : (batch, width - 1, channels), the inputs before `x`; zeros when not given
    mask : (batch, length) bool; inputs at False count as zero, whatever they hold
    activation : None or "silu", applied to the output
    backend : "auto" or one of `BACKENDS`

    Raises
    ------
    CrossDNAError
        Shapes that do not fit together, or an unknown activation.
    BackendUnavailableError
        The named backend cannot run this call.
    """
    _check("short_conv", x, weight)
    _check_options(x, weight, tail, mask, activation)
    width = weight.shape[1]
    if mask is not None:
        x = x.masked_fill(~mask.bool()[..., None], 0.0)
    if tail is None:
        tail = x.new_zeros((x.shape[0], width - 1, x.shape[2]))
    tail = tail.to(x.dtype)
    chosen = choose("short_conv", BACKENDS, backend, (x, weight, tail))
    output = chosen.kernel(x, weight, tail, silu=activation == "silu")
    start = max(0, x.shape[1] - width + 1)
    ending = cat([tail, x[:, start:]], 1)
    return ShortConvOutput(output, ending[:, ending.shape[1] - width + 1 :].clone())


def dilated_conv(
    x: Tensor, weight: Tensor, dilation: int, *, backend: str = "auto"
) -> Tensor:
    """Convolve each channel with taps around each position, without bias.

    Parameters
    ----------
    x : (batch, length, channels)
    weight : (channels, width), width odd; the middle tap meets the position itself
    dilation : int
        Positions from one tap to the next; beyond the ends there are zeros.
    backend : "auto" or one of `DILATED_BACKENDS`

    Returns
    -------
    (batch, length, channels)

    Raises
    ------
    CrossDNAError
        Shapes that do not fit together, or an even width.
    BackendUnavailableError
        The named backend cannot run this call.
    """
    _check("dilated_conv", x, weight)
    if weight.shape[1] % 2 == 0:
        raise CrossDNAError(
            f"dilated_conv: {weight.shape[1]} taps have no middle, width must be odd"
        )
    arguments = (x, weight, dilation)
    chosen = choose("dilated_conv", DILATED_BACKENDS, backend, arguments)
    return chosen.kernel(*arguments)


def _check(operator: str, x: Tensor, weight: Tensor) -> None:
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[2]:
        raise CrossDNAError(
            f"{operator}: x (batch, length, channels) and weight (channels, width) do "
            f"not fit: {tuple(x.shape)}, {tuple(weight.shape)}"
        )
    if x.shape[1] == 0:
        raise CrossDNAError(f"{operator}: the sequence is empty")


def _check_options(
    x: Tensor,
    weight: Tensor,
    tail: Tensor | None,
    mask: Tensor | None,
    activation: str | None,
) -> None:
    expected = (x.shape[0], weight.shape[1] - 1, x.shape[2])
    if tail is not None and tail.shape != expected:
        raise CrossDNAError(
            f"short_conv: tail must be {expected}, not {tuple(tail.shape)}"
        )
    if mask is not None and mask.shape != x.shape[:2]:
        raise CrossDNAError(
            f"short_conv: mask must be {tuple(x.shape[:2])}, not {tuple(mask.shape)}"
        )
    if activation not in (None, "silu"):
        raise CrossDNAError(f"short_conv: unknown activation {activation!r}, know silu")
