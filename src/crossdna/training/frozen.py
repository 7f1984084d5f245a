"""A frozen network asked once for each sequence, however often a head is shown it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from crossdna.models.headed import Headed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMIT: Final = 2 << 30
"""Bytes of representations that are kept; what is beyond is computed again."""


class Kept:
    """What one frozen network made of sequences, by their ids.

    Parameters
    ----------
    limit : int
        Bytes to keep; what comes then is not.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.size = limit, 0
        self.rows: dict[bytes, Tensor] = {}

    def add(self, key: bytes, hidden: Tensor) -> None:
        """Keep the representation (length, channels) of a sequence if there is room."""
        size = hidden.numel() * hidden.element_size()
        if self.size + size <= self.limit:
            self.rows[key] = hidden
            self.size += size


@contextlib.contextmanager
def asked_once(model: Any, kept: Kept) -> Iterator[None]:
    """Let the network under a head keep what it made of each sequence.

    For networks whose weights do not change: they are put into evaluation mode. Models
    whose head is not ours stay as they are.

    Parameters
    ----------
    kept
        Of this network or of one with the same weights.
    """
    if not isinstance(model, Headed):
        yield
        return
    network = model.base_model
    network.eval()
    network.forward = KeepingForward(network.forward, kept)
    try:
        yield
    finally:
        # What hides the class's own method goes.
        del network.forward


class KeepingForward:
    """The forward of a frozen network, remembered row by row.

    Parameters
    ----------
    compute
        From ids (batch, length) and a mask or None to an output with
        `last_hidden_state`. A row must not depend on its batch or its padding.
    kept
        What is known already, and receives what is not.
    """

    def __init__(self, compute: Callable[..., Any], kept: Kept) -> None:
        self.compute, self.kept = compute, kept

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> Any:
        """What the network makes of a batch; rows known before are not computed."""
        if output_hidden_states:
            return self.compute(
                input_ids, attention_mask, output_hidden_states=output_hidden_states
            )
        spans = _spans(input_ids, attention_mask)
        rows = input_ids.cpu().numpy()
        keys = [
            rows[row, start:end].tobytes() for row, (start, end) in enumerate(spans)
        ]
        new = self._new(input_ids, attention_mask, spans, keys)
        found = [new[key] if key in new else self.kept.rows[key] for key in keys]
        hidden = found[0].new_zeros((*input_ids.shape, found[0].shape[-1]))
        for row, ((start, end), value) in enumerate(zip(spans, found, strict=True)):
            hidden[row, start:end] = value
        return BaseModelOutput(last_hidden_state=hidden)

    def _new(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        spans: list[tuple[int, int]],
        keys: list[bytes],
    ) -> dict[bytes, Tensor]:
        """Compute what is not known, and keep of it what fits."""
        known = self.kept.rows
        missing = {key: row for row, key in enumerate(keys) if key not in known}
        if not missing:
            return {}
        rows = torch.tensor(list(missing.values()), device=input_ids.device)
        # Training cannot use what was made in inference mode.
        with torch.inference_mode(mode=False), torch.no_grad():
            output = self.compute(
                input_ids[rows].clone(),
                None if attention_mask is None else attention_mask[rows].clone(),
                output_hidden_states=False,
            )
        new = {}
        for (key, row), hidden in zip(
            missing.items(), output.last_hidden_state, strict=True
        ):
            start, end = spans[row]
            new[key] = hidden[start:end].clone()
            self.kept.add(key, new[key])
        return new


def _spans(input_ids: Tensor, mask: Tensor | None) -> list[tuple[int, int]]:
    """Where the bases of each row begin and end; padding is on one side."""
    batch, length = input_ids.shape
    if mask is None:
        return [(0, length)] * batch
    present = mask != 0
    starts = present.int().argmax(dim=1).tolist()
    counts = present.sum(dim=1).tolist()
    return [(start, start + n) for start, n in zip(starts, counts, strict=True)]
