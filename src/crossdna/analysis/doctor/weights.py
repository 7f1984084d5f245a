"""Weights must be those of the file, and trained.

Every tensor of the loaded model is looked for in the checkpoint's files, read on their
own: under its name, or else by its values, as families rename their tensors on the way
in. A layer that is random though the file is whole is found so. A layer that is random
in the file itself is found by comparison with a fresh model of the same configuration:
training changes a matrix's distribution and stretches its leading direction, and a
matrix that shows neither is as it was drawn.
"""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.stats import ks_2samp

from crossdna.analysis.doctor.check import Check
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import published
from crossdna.models.weight_files import weight_files

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from crossdna.models.opening import Opened

# Smaller matrices do not tell drawn from trained.
_LEAST_SIZE: Final = 1024
_SAMPLE: Final = 20_000
# A matrix as drawn has its distribution and its norm within these of a fresh one's.
_P_FRESH: Final = 0.01
_STRETCH_FRESH: Final = 0.1
_SHOWN: Final = 3
_FOREIGN: Final = "no fresh model to compare with: the code is the checkpoint's own"
_HEADS: Final = ("head.", "lm_head.", "score.", "classifier.", "cls.")


def check_weights(model: Any, opened: Opened) -> Check:
    """Compare every tensor of the model with the files that it was loaded from."""
    stored = _stored(opened, model)
    by_value = {_signature(tensor) for tensor in stored.values()}
    own = {_published_name(name): t for name, t in model.state_dict().items()}
    parameters = {_published_name(name) for name, _ in model.named_parameters()}
    strange = [
        name
        for name, tensor in own.items()
        if _signature(tensor) not in by_value
        and (name in parameters or name in stored)
        and not _is_unused(opened, name)
    ]
    if strange:
        detail = f"not what the file holds: {_named(strange)}"
        return Check("weights read", "fail", detail)
    loaded = {_signature(tensor) for tensor in own.values()}
    heads = () if opened.task in ("masked-lm", "causal-lm") else _HEADS
    unread = [
        name
        for name, tensor in stored.items()
        if _signature(tensor) not in loaded
        and not _is_unused(opened, name)
        and not name.startswith(heads)
    ]
    if unread:
        detail = f"in the file, not in the model: {_named(unread)}"
        return Check("weights read", "fail", detail)
    found = f"{len(own)} tensors, {sum(t.numel() for t in own.values()):,} numbers"
    return Check("weights read", "pass", f"{found}, all as in the file")


class _Matrix(NamedTuple):
    name: str
    p: float
    """Probability of so different a distribution if both were drawn alike."""
    stretch: float
    """Spectral norm over that of the fresh one."""

    @property
    def looks_drawn(self) -> bool:
        return self.p > _P_FRESH and abs(self.stretch - 1) < _STRETCH_FRESH


def check_trained(model: Any, opened: Opened, *, recorded: bool) -> Check:
    """Compare every matrix with one freshly drawn.

    Parameters
    ----------
    recorded
        The weights are those that were saved, digit for digit: then fresh layers are
        how they were meant, and only noted.
    """
    if getattr(opened.config, "remote_code", False):
        return Check("weights trained", "skip", _FOREIGN)
    fresh = _fresh(opened, seed=0)
    found = [
        _compare(name, tensor.detach(), fresh[name].detach())
        for name, tensor in model.named_parameters()
        if tensor.ndim > 1 and tensor.numel() >= _LEAST_SIZE
    ]
    if not found:
        return Check("weights trained", "skip", "no matrix is large enough to tell")
    drawn = [matrix.name for matrix in found if matrix.looks_drawn]
    if drawn:
        # What every fresh model starts from (as the decays of Mamba) is not drawn.
        again = _fresh(opened, seed=1)
        drawn = [name for name in drawn if not torch.equal(fresh[name], again[name])]
    if not drawn:
        detail = f"{len(found)} matrices, all unlike freshly drawn ones"
        return Check("weights trained", "pass", detail)
    detail = f"{len(drawn)} of {len(found)} look freshly drawn: {_named(drawn)}"
    return Check("weights trained", "note" if recorded else "fail", detail)


def _fresh(opened: Opened, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(opened.model(opened.task, random=True).named_parameters())


def check_buffers(model: Any, opened: Opened) -> Check:
    """Compare what is computed at loading (rotary angles, positions) with a new one."""
    if getattr(opened.config, "remote_code", False):
        return Check("constants", "skip", _FOREIGN)
    fresh = dict(opened.model(opened.task, random=True).named_buffers())
    own = dict(model.named_buffers())
    saved = set(model.state_dict())
    wrong = [
        name
        for name, tensor in own.items()
        if name in fresh
        and name not in saved
        and not torch.equal(tensor.cpu(), fresh[name].cpu())
    ]
    if wrong:
        detail = f"not what the configuration gives: {_named(wrong)}"
        return Check("constants", "fail", detail)
    return Check("constants", "pass", f"{len(set(own) - saved)} as the configuration")


def _stored(opened: Opened, model: Any) -> dict[str, Tensor]:
    """Every tensor of the checkpoint's files; of a published CrossDNA as renamed."""
    tensors: dict[str, Tensor] = {}
    files = weight_files(opened.name)
    for path in files:
        tensors |= _read(path)
    config = model.config
    raw, _ = type(config).get_config_dict(opened.name)
    if not opened.wrapped and published.is_published_config(raw):
        return published.convert_state_dict(tensors, config, str(files[0])).weights
    return {_published_name(name): tensor for name, tensor in tensors.items()}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CrossDNAError(f"{path}: cannot be read: {error}") from error


def _published_name(name: str) -> str:
    """A wrapped network's own name of a tensor."""
    return name.removeprefix("network.net.").removeprefix("net.")


def _signature(tensor: Tensor) -> int:
    """A number that is the same for equal values, whatever their type."""
    values: Any = tensor.detach().cpu().to(torch.float32).contiguous().reshape(-1)
    return hash(values.numpy().tobytes())


def _is_unused(opened: Opened, name: str) -> bool:
    """Whether nothing here reads a tensor of that name."""
    if not opened.wrapped:
        return False
    return any(re.search(key, name) for key in opened.config.family.unused)


def _compare(name: str, tensor: Tensor, fresh: Tensor) -> _Matrix:
    own, other = tensor.cpu().float().flatten(1), fresh.cpu().float().flatten(1)
    stretch = torch.linalg.matrix_norm(own, 2) / torch.linalg.matrix_norm(other, 2)
    step = max(1, own.numel() // _SAMPLE)
    parts = [matrix.flatten()[::step].numpy() for matrix in (own, other)]
    with warnings.catch_warnings():
        # Where its exact sum has too many terms it takes the limit, and says so.
        warnings.simplefilter("ignore", RuntimeWarning)
        probability = float(ks_2samp(*parts).pvalue)
    return _Matrix(name, probability, float(stretch))


def _named(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
