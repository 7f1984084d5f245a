"""The linear layer that our networks are made of."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossdna.ops.linear import linear, packed
from crossdna.ops.native.call import is_traced


class Source(NamedTuple):
    """Which weights were packed.

    Versions tell changes in place, but not those through ``.data``, as peft merges
    adapters: a sample with a number of every row and every column tells them, and the
    whole bias. Who changes single weights through ``.data`` may go unnoticed.
    """

    marks: tuple[tuple[int, int], ...]
    sample: Tensor
    seen: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None) -> Source:
        """Look at the weights as they are now."""
        sample = weight.detach().reshape(-1)[:: _stride(*weight.shape)]
        offset = None if bias is None else bias.detach().clone()
        return cls(_marks(weight, bias), sample, sample.clone(), offset)

    def is_still(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether they are the same."""
        return (
            _marks(weight, bias) == self.marks
            and torch.equal(self.sample, self.seen)
            and (bias is None or self.bias is None or torch.equal(bias, self.bias))
        )


def _stride(rows: int, columns: int) -> int:
    """The longest step through a matrix that meets every row and every column."""
    shorter = range(min(rows, columns) - 1, 0, -1)
    return next((step for step in shorter if math.gcd(step, columns) == 1), 1)


def _marks(*tensors: Tensor | None) -> tuple[tuple[int, int], ...]:
    """Where tensors lie, and how often they were changed in place."""
    return tuple(
        (x.data_ptr(), -1 if x.is_inference() else x._version)
        for x in tensors
        if x is not None
    )


class Ready(NamedTuple):
    """A layer's weights as oneDNN's products in one precision read them.

    Attributes
    ----------
    weight, bias
        Rounded to `dtype`, the weight packed.
    source
        Of what.
    """

    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    source: Source


class Linear(nn.Linear):
    """`torch.nn.Linear` computed by `crossdna.ops.linear`."""

    _ready: Ready | None = None

    def make_ready(self, dtype: torch.dtype) -> None:
        """Round and lay out the weights once, for a layer that is only asked.

        On a CPU with a library for it; elsewhere nothing happens. Answers are the same,
        sooner. Weights that change later are noticed, and read as they are from then
        on.

        Parameters
        ----------
        dtype
            In which the layer will be asked: its own, or autocast's.
        """
        self._ready = None
        weight, bias = self.weight, self.bias
        unfit = weight.device.type != "cpu" or weight.is_inference()
        if unfit or packed.unavailable(dtype) is not None:
            return
        self._ready = Ready(
            packed.pack(weight.detach().to(dtype)),
            None if bias is None else bias.detach().to(dtype),
            dtype,
            Source.of(weight, bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        ready = self._ready
        if ready is None or is_traced() or not self._fits(ready, x):
            return linear(x, self.weight, self.bias)
        return packed.linear(x, ready.weight, ready.bias)

    def _fits(self, ready: Ready, x: Tensor) -> bool:
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return False
        dtype = x.dtype
        if torch.is_autocast_enabled("cpu") and dtype != torch.float64:
            dtype = torch.get_autocast_dtype("cpu")
        return dtype == ready.dtype and ready.source.is_still(self.weight, self.bias)

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again, which neither copies nor files can hold."""
        return self.__dict__ | {"_ready": None}
