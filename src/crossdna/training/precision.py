"""What training multiplies in."""

from __future__ import annotations

import logging
from typing import Literal

import torch

from crossdna.errors import CrossDNAError
from crossdna.ops.linear import widened

Precision = Literal["auto", "float32", "bf16"]
logger = logging.getLogger(__name__)


def uses_bfloat16(precision: Precision, *, on_cpu: bool) -> bool:
    """Say whether products are taken in bfloat16; ``auto``: where the device gains.

    Raises
    ------
    CrossDNAError
        ``bf16`` is asked of a GPU that has none.
    """
    if precision == "float32":
        return False
    if on_cpu:
        gains = widened.cpu_multiplies_bfloat16()
        if precision == "bf16" and not gains:
            logger.warning(
                "this CPU has no bfloat16 products: CrossDNA takes them through "
                "float32, other families are many times slower than in float32; "
                'precision "auto" or "float32" is faster here'
            )
    else:
        gains = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not torch.cuda.is_bf16_supported():
            raise CrossDNAError("this GPU has no bfloat16; set precision to float32")
    return precision == "bf16" or gains
