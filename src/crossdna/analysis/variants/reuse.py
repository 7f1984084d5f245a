"""Many edits of one window, each read only from where it differs.

Both branches of CrossDNA are causal on their strand. For a window with one base
changed, the forward strand is the reference's up to that base and the reverse strand is
the reference's down to it. Their states there are computed once, and each edited copy
is read from there on: half of the work when the base is in the middle. For the
prediction at the edited base itself, only what the bridge reaches is fused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

from crossdna import alphabet
from crossdna.analysis.inference import asking
from crossdna.models.crossdna import CrossDNAModel
from crossdna.models.crossdna.bridge import BRIDGE_DILATIONS, BRIDGE_KERNEL
from crossdna.models.crossdna.layers import LayerState
from crossdna.models.crossdna.modeling import STEM_REACH
from crossdna.ops.window_attention import WindowCache

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from crossdna.models.crossdna.layers import Branch, BranchState

_BRIDGE_REACH = max(BRIDGE_DILATIONS) * (BRIDGE_KERNEL // 2)


def can_reuse(model: Any, length: int) -> bool:
    """Whether edits of a window of `length` bases can share what is before them."""
    network = model.base_model
    if not isinstance(network, CrossDNAModel):
        return False
    size = network.config.block_size
    return network.config.strand_alignment == "locus" or size is None or length <= size


def masked_probabilities(
    model: Any, ids: Tensor, positions: Sequence[int], *, group: int = 16
) -> Tensor:
    """Probabilities of A C G T at positions of one window, each masked by itself.

    Parameters
    ----------
    model
        A CrossDNA for masked language modelling.
    ids : (length,) int64
        The window.
    positions
        Ascending, 0-based.
    group
        Neighbouring positions that are read in one batch.

    Returns
    -------
    (positions, 4) float32
        Of the window as it is; see `crossdna.analysis.inference.reverse_complement`
        for the other strand.
    """
    with asking(model):
        window = _Window(model.base_model, ids)
        edits = torch.full((len(positions),), alphabet.MASK, device=ids.device)
        hidden = [
            window.hidden_at_edits(part)
            for part in window.read(positions, edits, group, whole=False)
        ]
        logits = model.head(torch.cat(hidden))[:, : alphabet.NUM_BASES]
        return logits.float().softmax(-1)


def edited_logits(
    model: Any, ids: Tensor, positions: Sequence[int], bases: Tensor, *, group: int = 16
) -> Tensor:
    """Output (edits, labels) of a sequence head for a window with one base changed.

    Parameters
    ----------
    model
        A CrossDNA for sequence classification.
    ids : (length,) int64
    positions
        Ascending, 0-based; the same position may come several times.
    bases : (edits,) int64
        What is put there.
    """
    with asking(model):
        window = _Window(model.base_model, ids)
        outputs = [
            model.head(window.hidden_everywhere(part), None).float()
            for part in window.read(positions, bases, group, whole=True)
        ]
        return torch.cat(outputs)


def marginals_of_one_window(
    model: Any, ids: Tensor, positions: Sequence[int], *, strand_average: bool
) -> Tensor:
    """Log-probabilities (positions, 4) like `base_log_probabilities` of masked copies.

    Parameters
    ----------
    ids : (length,) int64
    positions
        0-based, in any order, each once.
    """
    order = sorted(range(len(positions)), key=lambda row: positions[row])
    ascending = [positions[row] for row in order]
    mean = masked_probabilities(model, ids, ascending)
    if strand_average:
        other = alphabet.complement_ids(ids).flip(0)
        mirrored = [len(ids) - 1 - position for position in reversed(ascending)]
        back = masked_probabilities(model, other, mirrored)
        mean = (mean + back.flip(0, 1)) / 2
    return mean.log()[torch.tensor(order, device=ids.device).argsort()]


def logits_of_one_window(
    model: Any,
    ids: Tensor,
    positions: Sequence[int],
    bases: Tensor,
    *,
    strand_average: bool,
) -> Tensor:
    """Logits (edits, labels) like `sequence_logits` of copies with one base changed.

    Parameters
    ----------
    ids : (length,) int64
    positions
        0-based, in any order.
    bases : (edits,) int64
        What is put there.
    """
    order = torch.tensor(positions).argsort(stable=True).to(ids.device)
    ascending = [positions[row] for row in order.tolist()]
    mean = edited_logits(model, ids, ascending, bases[order])
    if strand_average:
        other = alphabet.complement_ids(ids).flip(0)
        mirrored = [len(ids) - 1 - position for position in reversed(ascending)]
        complements = alphabet.complement_ids(bases[order]).flip(0)
        mean = (mean + edited_logits(model, other, mirrored, complements).flip(0)) / 2
    return mean[order.argsort()]


class _Block(NamedTuple):
    """A block of one strand in reading order, and the branch that reads it."""

    start: int
    end: int
    branch: Branch


class _Group(NamedTuple):
    """Edits that lie close together."""

    rows: slice
    positions: Tensor
    """(edits,)"""
    first: int
    """First base whose features an edit changes."""
    behind: int
    """First base behind those."""
    low: int
    """First base whose representation is wanted."""
    high: int
    """First base behind those."""


class _Read(NamedTuple):
    """What both strands give for a group, each (edits, high - low, d_model)."""

    group: _Group
    forward: Tensor
    reverse: Tensor


class _Strand:
    """One strand of the reference, in reading order, read as far as was asked."""

    def __init__(self, features: Tensor, blocks: list[_Block], recurrent: bool) -> None:
        self.features = features
        self.blocks = blocks
        self.recurrent = recurrent
        self._at = 0
        self._state: BranchState | None = None
        self._outputs = [features[:, :0]]

    def state_at(self, place: int) -> BranchState | None:
        """Read on to `place`, which never goes back, and give the state there."""
        if place > self._at:
            x = self.features[:, self._at : place]
            y, self._state = self.read(x, self._at, self._state)
            self._outputs.append(y)
            self._at = place
        return self._state

    def outputs(self, start: int, end: int) -> Tensor:
        """What the reference gives from `start` to `end`, as far as it was read."""
        if len(self._outputs) > 1:
            self._outputs = [torch.cat(self._outputs, dim=1)]
        return self._outputs[0][:, start:end]

    def read(
        self, x: Tensor, start: int, state: BranchState | None
    ) -> tuple[Tensor, BranchState | None]:
        """Read features that stand at `start`, changing branches between blocks."""
        outputs = [x[:, :0]]
        end = start + x.shape[1]
        for block in self.blocks:
            low, high = max(start, block.start), min(end, block.end)
            if low >= high:
                continue
            if low == block.start and not self.recurrent:
                state = None
            y, state = block.branch(x[:, low - start : high - start], None, state)
            outputs.append(y)
        return torch.cat(outputs, dim=1), state


class _Window:
    """A window as it is, and copies of it with one base changed."""

    def __init__(self, network: CrossDNAModel, ids: Tensor) -> None:
        self.network = network
        self.ids = ids
        self.length = len(ids)
        size = network.config.block_size or self.length
        bounds = [
            (start, min(start + size, self.length))
            for start in range(0, self.length, size)
        ]
        self.bounds = bounds
        branches = network.branch_a, network.branch_b
        recurrent = network.config.block_context == "recurrent"
        self.forward = _Strand(
            network.features_forward(ids[None]),
            [_Block(*bound, branches[i % 2]) for i, bound in enumerate(bounds)],
            recurrent,
        )
        mirrored = [
            _Block(self.length - end, self.length - start, branches[1 - i % 2])
            for i, (start, end) in enumerate(bounds)
        ]
        self.reverse = _Strand(
            network.features_reverse(ids[None]).flip(1), mirrored[::-1], recurrent
        )

    def read(
        self, positions: Sequence[int], bases: Tensor, group: int, *, whole: bool
    ) -> Iterator[_Read]:
        """Read groups of edits; `whole` for all bases, else the edited block's."""
        groups = self._groups(positions, group, whole)
        # The reverse strand is read towards the left, so its last group comes first.
        behind = [self.length - part.behind for part in groups]
        reverse_states = [self.reverse.state_at(place) for place in behind[::-1]][::-1]
        for part, reverse_state in zip(groups, reverse_states, strict=True):
            edited = self.ids.repeat(len(part.positions), 1)
            edited.scatter_(1, part.positions[:, None], bases[part.rows, None])
            ahead = self._read_strand(
                self.forward,
                self._features(self.network.features_forward, edited, part),
                part.first,
                (part.low, part.high),
                self.forward.state_at(part.first),
            )
            back = self._read_strand(
                self.reverse,
                self._features(self.network.features_reverse, edited, part).flip(1),
                self.length - part.behind,
                (self.length - part.high, self.length - part.low),
                reverse_state,
            )
            yield _Read(part, ahead, back.flip(1))

    def _groups(self, positions: Sequence[int], size: int, whole: bool) -> list[_Group]:
        groups: list[_Group] = []
        start = 0
        while start < len(positions):
            low, high = next(b for b in self.bounds if b[0] <= positions[start] < b[1])
            end = start + 1
            while end < min(start + size, len(positions)) and positions[end] < high:
                end += 1
            chosen = positions[start:end]
            groups.append(
                _Group(
                    slice(start, end),
                    torch.tensor(chosen, device=self.ids.device),
                    max(0, chosen[0] - STEM_REACH),
                    min(self.length, chosen[-1] + STEM_REACH + 1),
                    0 if whole else low,
                    self.length if whole else high,
                )
            )
            start = end
        return groups

    @staticmethod
    def _features(stem: Any, edited: Tensor, part: _Group) -> Tensor:
        """Features of the bases that the group's edits reach, in forward order."""
        left = edited[:, max(0, part.first - STEM_REACH) : part.first]
        right = edited[:, part.behind : part.behind + STEM_REACH]
        return stem(edited[:, part.first : part.behind], left, right)

    @staticmethod
    def _read_strand(
        strand: _Strand,
        changed: Tensor,
        start: int,
        wanted: tuple[int, int],
        state: BranchState | None,
    ) -> Tensor:
        """Outputs (edits, wanted, d_model) of copies with `changed` features.

        All places are in the strand's reading order.
        """
        low, high = wanted
        edits, behind = len(changed), start + changed.shape[1]
        rest = strand.features[:, behind:high].expand(edits, -1, -1)
        x = torch.cat([changed, rest], dim=1)
        y, _ = strand.read(x, start, _expanded(state, edits))
        before = strand.outputs(low, start).expand(edits, -1, -1)
        return torch.cat([before, y[:, max(0, low - start) : high - start]], dim=1)

    def hidden_everywhere(self, part: _Read) -> Tensor:
        """Representation (edits, length, d_model) of a group read whole."""
        fused = []
        for number, (low, high) in enumerate(self.bounds):
            a, b = part.forward[:, low:high], part.reverse[:, low:high]
            a, b = (a, b) if number % 2 == 0 else (b, a)
            fused.append(self.network.fuse(a, b).hidden)
        return torch.cat(fused, dim=1)

    def hidden_at_edits(self, part: _Read) -> Tensor:
        """Representation (edits, d_model) of the edited bases."""
        group = part.group
        number = next(i for i, bound in enumerate(self.bounds) if bound[0] == group.low)
        a, b = part.forward, part.reverse
        a, b = (a, b) if number % 2 == 0 else (b, a)
        first = int(group.positions[0]) - group.low - _BRIDGE_REACH
        last = int(group.positions[-1]) - group.low + _BRIDGE_REACH
        near = slice(max(0, first), last + 1)
        hidden = fuse_part(self.network, a, b, near)
        places = group.positions - group.low - near.start
        return hidden[torch.arange(len(places), device=places.device), places]


def fuse_part(network: CrossDNAModel, a: Tensor, b: Tensor, near: slice) -> Tensor:
    """Fuse a part of a block as `CrossDNAModel.fuse` does within the whole.

    Right only where the bridge's convolutions do not reach beyond the part, unless the
    block ends there.

    Parameters
    ----------
    a, b : (batch, block, d_model)
        The branches' outputs for the whole block.
    near
        The part.

    Returns
    -------
    (batch, part, d_model)
    """
    bridge = network.bridge
    x, y = a[:, near], b[:, near]
    if bridge is not None:
        mean_a, mean_b = a.mean(1, keepdim=True), b.mean(1, keepdim=True)
        to_a = bridge.local_a(y + bridge.context_b(y)) + bridge.global_a(mean_b)
        to_b = bridge.local_b(x + bridge.context_a(x)) + bridge.global_b(mean_a)
        gate = bridge.gate(torch.cat([x, y, x - y, x * y], dim=-1)).sigmoid()
        gate_a, gate_b = gate.chunk(2, dim=-1)
        x, y = bridge.norm_a(x + gate_a * to_a), bridge.norm_b(y + gate_b * to_b)
    x, y = network.project_a(x), network.project_b(y)
    logits = network.fusion_gate(torch.cat([x, y], dim=-1))
    logits = logits / network.config.gate_temperature
    weight = 0.5 if network.config.gate_frozen else logits.sigmoid()
    blended = y + weight * (x - y)
    return F.layer_norm(blended, (x.shape[-1],), eps=network.config.norm_eps)


def _expanded(state: BranchState | None, batch: int) -> BranchState | None:
    """The state of one sequence for a batch of copies."""
    if state is None:
        return None

    def copies(x: Tensor) -> Tensor:
        return x.expand(batch, *x.shape[1:])

    return tuple(
        LayerState(
            copies(layer.conv),
            copies(layer.delta),
            WindowCache(copies(layer.window.keys), copies(layer.window.values), None),
        )
        for layer in state
    )
