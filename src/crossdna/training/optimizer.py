"""Muon for the matrices inside a network, AdamW for everything else, at one rate.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest matrix whose
singular values are all 1, so that no direction of the gradient drowns the others. Its
updates are scaled to the size that AdamW's have (Liu et al. 2025, "Muon is scalable for
LLM training"), so both parts share a learning rate and a weight decay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

# Matrices that stand for several of one size, one above the other, and how many.
STACKED: Final = {"qkv_proj": 3, "gate_up_proj": 2}
# A quintic step of Newton and Schulz whose slope at 0 is as steep as it can be: five
# of them bring singular values from 0.01 into 0.7 to 1.2, which serves as well as 1.
_QUINTIC: Final = (3.4445, -4.7750, 2.0315)
_STEPS: Final = 5
# What the root mean square of an AdamW update is near, in units of the learning rate.
_ADAMW_SIZE: Final = 0.2


def orthogonalized(matrices: Tensor) -> Tensor:
    """Bring the singular values of each matrix near 1; its directions stay.

    Parameters
    ----------
    matrices : (n, rows, columns)
        Matrices of zeros stay zeros.

    Returns
    -------
    (n, rows, columns) float32; products are bfloat16 on a GPU
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    if x.is_cuda:
        x = x.bfloat16()
    linear, cubic, quintic = _QUINTIC
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = linear * x + (cubic * gram + quintic * gram @ gram) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    """Optimiser of a whole network.

    Nothing in a step asks the device for a value. Where `found_inf` is set and not 0,
    a step changes nothing, as with torch's fused optimisers.

    Parameters
    ----------
    groups
        Of `parameter_groups`.
    lr
        Learning rate; the size of an update's elements is near a fifth of it.
    betas
        Decay of AdamW's means of gradients and of their squares.
    momentum
        Decay of Muon's sum of gradients.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.95,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "momentum": momentum,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "stacked": None,
        }
        super().__init__(groups, defaults)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, with counts of steps where the parameters are.

        torch moves everything else there from where a file was read to.
        """
        super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            if "step" in state:
                state["step"] = state["step"].to(parameter.device)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise NotImplementedError("this optimiser evaluates no closure")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if group["stacked"] is None:
                self._adamw(group, parameters)
            else:
                self._muon(group, parameters)

    def _muon(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        """Update matrices of one shape together: small ones cost calls, not sums."""
        decay, rate = group["momentum"], group["lr"]
        gradients = torch.stack([_gradient(p) for p in parameters])
        going: Tensor | float = 1.0
        if self.found_inf is not None:
            bad = self.found_inf != 0
            gradients = gradients.masked_fill(bad, 0.0)
            going = torch.where(bad, 0.0, 1.0)
        sums = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if not state:
                state["sum"] = torch.zeros_like(parameter, dtype=torch.float32)
            sums.append(state["sum"].mul_(decay).add_(gradient))
        ahead = gradients.add(torch.stack(sums), alpha=decay)
        count, rows, columns = ahead.shape
        update = orthogonalized(
            ahead.view(count * group["stacked"], rows // group["stacked"], columns)
        )
        size = _ADAMW_SIZE * max(update.shape[1:]) ** 0.5
        update = update.reshape(ahead.shape) * (rate * size * going)
        kept = 1 - rate * group["weight_decay"] * going
        for parameter, change in zip(parameters, update, strict=True):
            parameter.mul_(kept).sub_(change)

    def _adamw(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[p] for p in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,  # type: ignore[arg-type]
            [_gradient(p) for p in parameters],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters of a language model as `Muon` wants them.

    Weights of linear layers are Muon's, those of one shape in one group; not what reads
    or writes letters. Decayed is whatever is a matrix or a convolution.
    """
    matrices: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    taken = set()
    for name, module in model.base_model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weight: Any = module.weight
        parent, _, own = name.rpartition(".")
        stacked = STACKED.get(own, 1)
        # Values may be wider than keys: then it is one matrix to Muon.
        sizes = getattr(model.base_model.get_submodule(parent), "sizes", ())
        if own == "qkv_proj" and len(set(sizes)) > 1:
            stacked = 1
        if weight.requires_grad and min(weight.shape) > 1 and weight not in taken:
            key = (*weight.shape, stacked)
            matrices.setdefault(key, []).append(weight)
            taken.add(weight)
    rest = [p for p in model.parameters() if p.requires_grad and p not in taken]
    groups: list[dict[str, Any]] = [
        {"params": found, "stacked": key[-1], "weight_decay": weight_decay}
        for key, found in matrices.items()
    ]
    for decayed in (True, False):
        if found := [p for p in rest if (p.ndim > 1) == decayed]:
            decay = weight_decay if decayed else 0.0
            groups.append({"params": found, "weight_decay": decay})
    return groups


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
