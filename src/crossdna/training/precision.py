"""What training multiplies in."""

from __future__ import annotations

from typing import Literal

import torch

from crossdna.models.execution import require_bfloat16
from crossdna.ops.linear import widened

Precision = Literal["auto", "float32", "bf16"]


def uses_bfloat16(precision: Precision, *, on_cpu: bool) -> bool:
    """Say whether products are taken in bfloat16; ``auto``: where the device gains.

    Raises
    ------
    CrossDNAError
        ``bf16`` is asked of a GPU that has none.
    """
    if precision == "float32":
        return False
    if precision == "bf16":
        require_bfloat16(torch.device("cpu" if on_cpu else "cuda"))
        return True
    if on_cpu:
        return widened.cpu_multiplies_bfloat16()
    return torch.cuda.is_bf16_supported(including_emulation=False)
