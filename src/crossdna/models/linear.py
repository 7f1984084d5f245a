"""The linear layer that our networks are made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossdna.ops.linear import linear, packed
from crossdna.ops.native.call import is_traced


class Ready(NamedTuple):
    """A layer's weights as products in one precision read them.

    Attributes
    ----------
    weight, bias
        Rounded to `dtype`; the weight packed on a CPU.
    source
        Where and in which version the layer's own weights were read.
    """

    weight: Tensor
    bias: Tensor | None
    dtype: torch.dtype
    source: tuple[tuple[int, int], ...]


class Linear(nn.Linear):
    """`torch.nn.Linear` computed by `crossdna.ops.linear`."""

    _ready: Ready | None = None

    def make_ready(self, dtype: torch.dtype) -> None:
        """Round and lay out the weights once, for a layer that is only asked.

        It gives the same answers, sooner. Weights that change later are noticed, and
        read as they are from then on.

        Parameters
        ----------
        dtype
            In which the layer will be asked: its own, or autocast's.
        """
        self._ready = None
        if any(x.is_inference() for x in self.parameters()):
            return
        weight = self.weight.detach().to(dtype)
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        if weight.device.type == "cpu":
            if packed.unavailable(dtype) is not None:
                return
            weight = packed.pack(weight)
        elif dtype == self.weight.dtype:
            return
        self._ready = Ready(weight, bias, dtype, self._source())

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        ready = self._ready
        if ready is None or is_traced() or not self._fits(ready, x):
            return linear(x, self.weight, self.bias)
        multiply = packed.linear if x.device.type == "cpu" else linear
        return multiply(x, ready.weight, ready.bias)

    def _fits(self, ready: Ready, x: Tensor) -> bool:
        device = x.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        else:
            dtype = x.dtype
        return (
            dtype == ready.dtype
            and x.dtype != torch.float64
            and x.device == self.weight.device
            and not torch.is_grad_enabled()
            and ready.source == self._source()
        )

    def _source(self) -> tuple[tuple[int, int], ...]:
        """What changes with the weights."""
        own = self._parameters["weight"], self._parameters["bias"]
        return tuple(
            (x.data_ptr(), 0 if x.is_inference() else x._version)
            for x in own
            if x is not None
        )

    def __getstate__(self) -> dict[str, Any]:
        """Without what can be made again, which neither copies nor files can hold."""
        return self.__dict__ | {"_ready": None}
