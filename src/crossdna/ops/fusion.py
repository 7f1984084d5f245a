"""Several of torch's operations as one kernel, where a GPU would start one for each.

Between two matrix products a GPU is as fast as it moves bytes: a normalisation from
separate operations moves several times its own.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

import torch

from crossdna.ops.dispatch import probe

if TYPE_CHECKING:
    from collections.abc import Callable


VARIANTS = 64
"""How many kinds of operands a function is compiled for."""
PLAIN: set[str] = set()
"""Functions to run as they are, by name, to compare with."""


def fused(
    function: Callable[..., Any], backend: str = "inductor"
) -> Callable[..., Any]:
    """Let the compiler join what a function does, once for each kind of operands.

    Inside a larger graph that is being compiled, the function is part of that one.

    Parameters
    ----------
    function
        Of tensors and settings, without side effects.
    backend
        Of ``torch.compile``.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        if torch.compiler.is_compiling() or function.__name__ in PLAIN:
            return function(*arguments, **settings)
        return _compiled(function, backend)(*arguments, **settings)

    return call


@functools.cache
def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    allow_variants()
    # Sizes stay symbols: a shorter last batch compiles nothing anew.
    return torch.compile(function, dynamic=True, backend=backend)


def allow_variants() -> None:
    """Raise torch's limit, beyond which what is compiled runs as it is.

    Training with teachers asks for more variants (precisions, with gradients and
    without) than the eight that torch allows by itself.
    """
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, VARIANTS)


@probe
def unavailable() -> str | None:
    """Say what is missing on this machine, or None."""
    return _missing()


@functools.cache
def _missing() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported ({error}), torch.compile needs it"
    return None


def reject(*operands: Any) -> str | None:
    """Say why a fused kernel cannot take these operands, or None."""
    for x in operands:
        if isinstance(x, torch.Tensor) and x.device.type != "cuda":
            return f"needs CUDA tensors, got {x.device.type}"
    return unavailable()
