"""Checking that the operands of an operator fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def require_shapes(
    operator: str, expected: Mapping[str, tuple[Tensor | None, tuple[int, ...]]]
) -> None:
    """Raise a `CrossDNAError` that names the first operand of another shape.

    Parameters
    ----------
    expected
        Name of an operand to the operand, None where it was not given, and its shape.
    """
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise CrossDNAError(
                f"{operator}: {name} must be {shape}, got {tuple(tensor.shape)}"
            )
