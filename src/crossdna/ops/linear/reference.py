"""The linear map as torch computes it, on any device."""

from torch import Tensor
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Multiply; arguments as in `crossdna.ops.linear.linear`."""
    return F.linear(x, weight, bias)
