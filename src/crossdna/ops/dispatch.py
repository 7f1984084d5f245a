"""Choosing the backend that computes an operator, per call and visibly.

Every operator has a table of backends. ``auto`` takes the first one that accepts the
arguments; a name runs that one or raises. The table itself is a tuple of small objects:
building it imports no kernel and looks at no device.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec

import torch
from torch.autograd import forward_ad

from crossdna.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

logger = logging.getLogger(__name__)
PLAIN: Final = "torch"
"""The backend of each operator that is made of torch's own operations."""
_announced: set[tuple[str, str]] = set()


class Backend(NamedTuple):
    """One way of computing an operator.

    Attributes
    ----------
    name : the word users give as ``backend=``
    kernel : called with the operator's prepared arguments
    reject : called with the same arguments; why this call is refused, or None
    unavailable : why the backend cannot run on this machine at all, or None
    automatic : whether ``auto`` may choose it
    """

    name: str
    kernel: Callable[..., Any]
    reject: Callable[..., str | None]
    unavailable: Callable[[], str | None]
    automatic: bool = True


def probe(function: Callable[P, str | None]) -> Callable[P, str | None]:
    """Mark a look at this machine: torch.compile calls it once while tracing."""
    return torch.compiler.assume_constant_result(function)


def has_tangents() -> bool:
    """Whether tensors may carry tangents, which only torch's own operations hand on."""
    return forward_ad._current_level >= 0


def always() -> None:
    """Say that a backend has no needs beyond this package's own dependencies."""


def choose(
    operator: str,
    backends: tuple[Backend, ...],
    name: str,
    arguments: tuple[Any, ...],
) -> Backend:
    """Find the backend to run.

    Raises
    ------
    BackendUnavailableError
        `name` is unknown, or the named backend refuses these arguments.
    """
    if name != "auto":
        return _named(operator, backends, name, arguments)
    for backend in backends:
        # Kernels know of gradients, but not of tangents (forward-mode derivatives).
        if has_tangents() and backend.name != PLAIN:
            continue
        if backend.automatic and backend.reject(*arguments) is None:
            if not torch.compiler.is_compiling():
                _announce(operator, backend.name)
            return backend
    reasons = "; ".join(
        f"{backend.name}: {backend.reject(*arguments)}"
        for backend in backends
        if backend.automatic
    )
    raise BackendUnavailableError(
        f"{operator}: no backend accepts this call: {reasons}"
    )


def _announce(operator: str, name: str) -> None:
    if (operator, name) not in _announced:
        _announced.add((operator, name))
        logger.info("%s runs on backend %s", operator, name)


def _named(
    operator: str,
    backends: tuple[Backend, ...],
    name: str,
    arguments: tuple[Any, ...],
) -> Backend:
    for backend in backends:
        if backend.name == name:
            reason = backend.reject(*arguments)
            if reason is not None:
                raise BackendUnavailableError(
                    f"{operator}: backend {name} cannot run: {reason}"
                )
            return backend
    known = ", ".join(["auto", *(backend.name for backend in backends)])
    raise BackendUnavailableError(
        f"{operator}: unknown backend {name!r}; there are {known}"
    )
