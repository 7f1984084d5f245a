"""The gated delta rule with a separate feedback key, one state per head.

Hu et al., Comba: improving bilinear RNNs with closed-loop control (2025), as the
CrossDNA model uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import float32, float64

from crossdna.errors import CrossDNAError
from crossdna.ops import fusion
from crossdna.ops.delta_rule import fla, native, reference
from crossdna.ops.delta_rule import torch as chunked
from crossdna.ops.delta_rule import triton as gpu
from crossdna.ops.dispatch import Backend, always, choose
from crossdna.ops.native import build

if TYPE_CHECKING:
    from torch import Tensor


class DeltaRuleOutput(NamedTuple):
    """What the delta rule gives.

    Attributes
    ----------
    output : (batch, length, heads, values), in the dtype of `v`
    state : (batch, heads, keys, values) after the last token, float32 (float64 for
        float64 inputs)
    """

    output: Tensor
    state: Tensor


def _accepts(*_arguments: Tensor) -> None:
    return None


BACKENDS = (
    Backend("triton", gpu.delta_rule, gpu.reject, fusion.unavailable),
    Backend("fla", fla.delta_rule, fla.reject, fla.unavailable),
    Backend("native", native.delta_rule, native.reject, build.unavailable),
    Backend("torch", chunked.delta_rule, _accepts, always),
    Backend("reference", reference.delta_rule, _accepts, always, automatic=False),
)


def delta_rule(  # noqa: PLR0913 - the operator has these operands
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    feedback: Tensor,
    correction: Tensor,
    *,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
    backend: str = "auto",
) -> DeltaRuleOutput:
    """Read and rewrite one state per head, token by token.

    With p = feedback k and q corrected to q - correction p, all three then scaled to
    unit length per head (and q by keys ** -0.5), each token does, on the state S:
    u = beta (v - S^T p);  S <- exp(log_decay) S + k u^T;  output = S^T q.

    Parameters
    ----------
    q, k : (batch, length, heads, keys), not normalised
    v : (batch, length, heads, values)
    log_decay : (batch, length, heads), at most 0
    beta : (batch, length, heads), how much of the error is written
    feedback, correction : broadcastable to (batch, length, heads)
    initial_state : (batch, heads, keys, values), zero when not given
    mask : (batch, length) bool; a token at False leaves the state as it is. Its q, k
        and v must be finite and reach nothing but its own output, which means nothing
    backend : "auto" or one of `BACKENDS`

    Returns
    -------
    DeltaRuleOutput
        States and decays are computed in float32 under autocast too.

    Raises
    ------
    CrossDNAError
        Shapes that do not fit together.
    BackendUnavailableError
        The named backend cannot run this call.
    """
    _check(q, k, v, log_decay, beta, initial_state, mask)
    batch, _, heads, keys = k.shape
    dtype = float64 if float64 in (q.dtype, k.dtype, v.dtype) else float32
    log_decay, beta = log_decay.to(dtype), beta.to(dtype)
    if mask is not None:
        absent = ~mask.bool()[..., None]
        log_decay = log_decay.masked_fill(absent, 0.0)
        beta = beta.masked_fill(absent, 0.0)
    if initial_state is None:
        initial_state = q.new_zeros((batch, heads, keys, v.shape[-1]), dtype=dtype)
    arguments = (
        q,
        k,
        v,
        log_decay,
        beta,
        feedback.to(dtype),
        correction.to(dtype),
        initial_state.to(dtype),
    )
    chosen = choose("delta_rule", BACKENDS, backend, arguments)
    output, state = chosen.kernel(*arguments)
    return DeltaRuleOutput(output.to(v.dtype), state)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    initial_state: Tensor | None,
    mask: Tensor | None,
) -> None:
    if k.ndim != 4 or q.shape != k.shape or v.shape[:3] != k.shape[:3]:
        raise CrossDNAError(
            "delta_rule: q, k (batch, length, heads, keys) and v (batch, length, "
            f"heads, values) do not fit: {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)}"
        )
    if k.shape[1] == 0:
        raise CrossDNAError("delta_rule: the sequence is empty")
    if log_decay.shape != k.shape[:3] or beta.shape != k.shape[:3]:
        raise CrossDNAError(
            "delta_rule: log_decay and beta must be (batch, length, heads) = "
            f"{tuple(k.shape[:3])}, not {tuple(log_decay.shape)}, {tuple(beta.shape)}"
        )
    state = (k.shape[0], k.shape[2], k.shape[3], v.shape[-1])
    if initial_state is not None and initial_state.shape != state:
        raise CrossDNAError(
            f"delta_rule: initial_state must be {state}, not "
            f"{tuple(initial_state.shape)}"
        )
    if mask is not None and mask.shape != k.shape[:2]:
        raise CrossDNAError(
            f"delta_rule: mask must be {tuple(k.shape[:2])}, not {tuple(mask.shape)}"
        )
