"""How a loaded model computes: in which precision, and whether layers are compiled."""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import torch
from transformers import PreTrainedModel

from crossdna.errors import CrossDNAError
from crossdna.models.linear import Linear
from crossdna.ops import fusion
from crossdna.ops.linear import widened

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["float32", "bf16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
logger = logging.getLogger(__name__)


class Execution(NamedTuple):
    """How a model that is only asked, not trained, computes.

    Attributes
    ----------
    precision
        ``bf16`` takes products in bfloat16; weights, states and sums stay float32.
    compiled
        Layers are compiled at their first call, on CUDA devices.
    """

    precision: Precision = "float32"
    compiled: bool = False

    def prepare(self, model: PreTrainedModel) -> None:
        """Let a loaded model compute so whenever it is asked.

        Raises
        ------
        CrossDNAError
            No such precision, a device that has none of it, or nothing to compile.
        """
        if self.precision not in PRECISIONS:
            raise CrossDNAError(
                f"precision must be one of {', '.join(PRECISIONS)}, not "
                f"{self.precision!r}"
            )
        asked_in = None
        if self.precision == "bf16":
            require_bfloat16(model.device)
            asked_in = torch.bfloat16
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                cast("Any", module).asked_in = asked_in
            elif isinstance(module, Linear):
                module.make_ready(asked_in or torch.float32)
        if self.compiled:
            if model.device.type != "cuda":
                raise CrossDNAError(
                    f"layers are compiled for CUDA devices only, not {model.device}: "
                    "leave out --compile"
                )
            if not compile_layers(model, dynamic=None):
                raise CrossDNAError(
                    f"{type(model).__name__} names no layers to compile: leave out "
                    "--compile"
                )


def autocast(model: PreTrainedModel) -> contextlib.AbstractContextManager[Any]:
    """Give the context in which a prepared model is called."""
    dtype = getattr(model, "asked_in", None)
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype)


def precision_of(model: nn.Module) -> Precision:
    """Say in which precision a model is asked."""
    return "float32" if getattr(model, "asked_in", None) is None else "bf16"


def require_bfloat16(device: torch.device) -> None:
    """Refuse a GPU without bfloat16; say so of a CPU that only imitates it."""
    if device.type == "cpu":
        if not widened.cpu_multiplies_bfloat16():
            tell_imitated()
    elif device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise CrossDNAError("this GPU has no bfloat16; set precision to float32")


@functools.cache
def tell_imitated() -> None:
    """Say once what bfloat16 costs on a CPU that has none."""
    logger.warning(
        "this CPU has no bfloat16 products: CrossDNA takes them through float32, other "
        'families are many times slower than in float32; precision "float32" is faster '
        "here"
    )


def compile_layers(
    *networks: nn.Module | None,
    dynamic: bool | None = False,
    backend: str = "inductor",
) -> int:
    """Compile every module of the networks that moves most bytes.

    Module by module, since equal layers share one compilation and a kernel that the
    compiler cannot look into interrupts one layer only.

    Parameters
    ----------
    networks
        Models (their ``compiled_modules`` name what to compile, else
        ``_no_split_modules``), or what else holds such modules, as teachers do: names
        are those of all networks. None is left out.
    dynamic
        Of ``torch.compile``: False compiles each length and batch size once, None those
        that are new after the first for all sizes.
    backend
        Of ``torch.compile``.

    Returns
    -------
    int
        The number of modules.
    """
    fusion.allow_variants()
    given = [network for network in networks if network is not None]
    modules = [module for network in given for module in network.modules()]
    kinds: set[str] = set()
    for module in modules:
        if isinstance(module, PreTrainedModel):
            named = getattr(module, "compiled_modules", module._no_split_modules)
            kinds |= set(named or ())
    found = [module for module in modules if type(module).__name__ in kinds]
    for module in found:
        module.compile(dynamic=dynamic, backend=backend)
    return len(found)
