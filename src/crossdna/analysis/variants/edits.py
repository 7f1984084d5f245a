"""Copies of windows with one base changed, read from where they differ.

A copy's edit lies in a cell of the window; where the copy is cut is a matter of the
cell. At such places both strands can be read in two parts with the bits of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from crossdna.models.crossdna.bridge import BRIDGE_DILATIONS, BRIDGE_KERNEL
from crossdna.models.crossdna.layers import LayerState
from crossdna.models.crossdna.modeling import STEM_REACH
from crossdna.ops.window_attention import WindowCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from crossdna.models.crossdna import CrossDNAModel
    from crossdna.models.crossdna.bridge import TokenBridge
    from crossdna.models.crossdna.layers import Branch, BranchState

_BRIDGE_REACH: Final = max(BRIDGE_DILATIONS) * (BRIDGE_KERNEL // 2)
# Tokens that the compiled delta rule takes at once: cutting between them is exact.
_CHUNK: Final = 16
_CELL: Final = 2 * _CHUNK


class Edit(NamedTuple):
    """One base of one window that is changed."""

    window: int
    """Number of the window."""
    position: int
    """0-based, in the window."""
    base: int
    """Id that is put there."""


def cut_of(network: CrossDNAModel, edit: Edit) -> tuple[int, int]:
    """An edit's block and cell: copies that share both are cut at the same place."""
    size = network.config.block_size
    block = 0 if size is None else edit.position // size
    # A cell begins where its first feature that an edit changes is a cut.
    return block, (edit.position - STEM_REACH) // _CELL


class _Block(NamedTuple):
    """A block of one strand in reading order, and the branch that reads it."""

    start: int
    end: int
    branch: Branch


class _Group(NamedTuple):
    """Edits of one cell."""

    rows: slice
    windows: Tensor
    """(edits,): numbers."""
    positions: Tensor
    """(edits,)"""
    first: int
    """Where the forward strand is cut; no edit changes a feature before."""
    behind: int
    """Where the reverse strand is cut; no edit changes a feature from here on."""
    low: int
    """First base whose representation is wanted."""
    high: int
    """First base behind those."""


class _Read(NamedTuple):
    """A group of edits, and what both strands give for it."""

    group: _Group
    edited: Tensor
    """(edits, length): ids of the copies."""
    forward: Tensor
    """(edits, high - low, d_model), as `reverse`."""
    reverse: Tensor


class _Prefix(NamedTuple):
    """The references of one strand up to a place."""

    outputs: Tensor
    """(windows, place, d_model)"""
    state: BranchState | None


class _Strand:
    """One strand of the references, in reading order."""

    def __init__(self, features: Tensor, blocks: list[_Block], recurrent: bool) -> None:
        self.features = features
        self.blocks = blocks
        self.recurrent = recurrent
        # Neighbouring groups are cut at the same place.
        self._last: tuple[int, _Prefix] | None = None

    def cut(self, place: int) -> int:
        """Round down to where reading in two parts gives the same bits as in one."""
        block = next(b for b in reversed(self.blocks) if b.start <= place)
        return block.start + (place - block.start) // _CHUNK * _CHUNK

    def prefix(self, place: int) -> _Prefix:
        """Read the references up to `place`, always in one go."""
        if self._last is None or self._last[0] != place:
            self._last = place, _Prefix(*self.read(self.features[:, :place], 0, None))
        return self._last[1]

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


class EditedWindows:
    """Windows as they are, and copies of them with one base changed.

    Parameters
    ----------
    network
    ids : (windows, length) int64
    """

    def __init__(self, network: CrossDNAModel, ids: Tensor) -> None:
        self.network = network
        self.ids = ids
        self.length = ids.shape[1]
        size = network.config.block_size or self.length
        bounds = [
            (start, min(start + size, self.length))
            for start in range(0, self.length, size)
        ]
        self.bounds = bounds
        self._sent: dict[tuple[str, int], _Sent] = {}
        pair = network.branch_a, network.branch_b
        in_order = network.config.a_reads_forward
        readers = [pair if in_order(i) else pair[::-1] for i in range(len(bounds))]
        recurrent = network.config.block_context == "recurrent"
        self.forward = _Strand(
            network.features_forward(ids),
            [_Block(*b, ahead) for b, (ahead, _) in zip(bounds, readers, strict=True)],
            recurrent,
        )
        mirrored = [
            _Block(self.length - end, self.length - start, back)
            for (start, end), (_, back) in zip(bounds, readers, strict=True)
        ]
        self.reverse = _Strand(
            network.features_reverse(ids).flip(1), mirrored[::-1], recurrent
        )

    def read(
        self, edits: Sequence[Edit], group: int, *, whole: bool
    ) -> Iterator[_Read]:
        """Read groups of edits.

        Parameters
        ----------
        edits
            Those that are cut alike one behind the other, by ascending positions.
            Up to each cut all windows are read, whether they have an edit there or not.
        group
            Most edits in one batch.
        whole
            For all bases; else for those of the edited block.
        """
        for part in self._groups(edits, group, whole):
            edited = _of(self.ids, part.windows)
            bases = [[edit.base] for edit in edits[part.rows]]
            edited = edited.scatter(
                1, part.positions[:, None], torch.tensor(bases, device=edited.device)
            )
            ahead = self._read_strand(
                self.forward,
                self._features(self.network.features_forward, edited, part),
                part,
                part.first,
                (part.low, part.high),
            )
            back = self._read_strand(
                self.reverse,
                self._features(self.network.features_reverse, edited, part).flip(1),
                part,
                self.length - part.behind,
                (self.length - part.high, self.length - part.low),
            )
            yield _Read(part, edited, ahead, back.flip(1))

    def _groups(self, edits: Sequence[Edit], size: int, whole: bool) -> list[_Group]:
        groups: list[_Group] = []
        cuts = [cut_of(self.network, edit) for edit in edits]
        start = 0
        while start < len(edits):
            block, cell = cuts[start]
            low, high = self.bounds[block]
            end = start + 1
            while end < min(start + size, len(edits)) and cuts[end] == cuts[start]:
                end += 1
            first = cell * _CELL + STEM_REACH
            behind = min(self.length, first + _CELL + STEM_REACH)
            here = slice(start, end)
            groups.append(
                _Group(
                    here,
                    self._tensor([edit.window for edit in edits[here]]),
                    self._tensor([edit.position for edit in edits[here]]),
                    self.forward.cut(max(0, first - STEM_REACH)),
                    self.length - self.reverse.cut(self.length - behind),
                    0 if whole else low,
                    self.length if whole else high,
                )
            )
            start = end
        return groups

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, device=self.ids.device)

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
        part: _Group,
        start: int,
        wanted: tuple[int, int],
    ) -> Tensor:
        """Outputs (edits, wanted, d_model) of copies with `changed` features.

        All places are in the strand's reading order.
        """
        low, high = wanted
        behind = start + changed.shape[1]
        before = strand.prefix(start)
        rest = _of(strand.features[:, behind:high], part.windows)
        x = torch.cat([changed, rest], dim=1)
        y, _ = strand.read(x, start, _state_of(before.state, part.windows))
        same = _of(before.outputs[:, low:start], part.windows)
        return torch.cat([same, y[:, max(0, low - start) : high - start]], dim=1)

    def hidden_everywhere(self, part: _Read) -> Tensor:
        """Representation (edits, length, d_model) of a group read whole."""
        fused, in_order = [], self.network.config.a_reads_forward
        for number, (low, high) in enumerate(self.bounds):
            ahead = _Stream(part.forward[:, low:high], 0, part.group.first - low)
            back = _Stream(
                part.reverse[:, low:high], part.group.behind - low, high - low
            )
            a, b = (ahead, back) if in_order(number) else (back, ahead)
            fused.append(self._fuse(number, a, b))
        return torch.cat(fused, dim=1)

    def _fuse(self, number: int, a: _Stream, b: _Stream) -> Tensor:
        """Fuse a block of all copies as `CrossDNAModel.fuse` does."""
        x, y, bridge = a.outputs, b.outputs, self.network.bridge
        if bridge is not None:
            around_a = self._around(a, bridge.around_a, ("a", number))
            around_b = self._around(b, bridge.around_b, ("b", number))
            x, y = bridge.receive(x, y, *_received(bridge, x, y, around_a, around_b))
        return self.network.blend(x, y).hidden

    def _around(
        self, stream: _Stream, read: Callable[[Tensor], Tensor], key: tuple[str, int]
    ) -> Tensor:
        """What the bridge sends from a stream, (edits, block, d_model).

        Where the copies of one window are the same around a base, it is computed once
        for all groups of a cell.
        """
        edits, length, _ = stream.outputs.shape
        start, end = stream.same_around()
        if end <= start or len(self.ids) > 1:
            return read(stream.outputs)

        def part(rows: int, low: int, high: int) -> Tensor:
            first = max(0, low - _BRIDGE_REACH)
            x = stream.outputs[:rows, first : high + _BRIDGE_REACH]
            return read(x)[:, low - first : high - first]

        if key not in self._sent or self._sent[key].place != (start, end):
            self._sent[key] = _Sent((start, end), part(1, start, end))
        parts = [self._sent[key].same.expand(edits, -1, -1)]
        if start:
            parts.insert(0, part(edits, 0, start))
        if end < length:
            parts.append(part(edits, end, length))
        return torch.cat(parts, dim=1)

    def hidden_at_edits(self, part: _Read) -> Tensor:
        """Representation (edits, d_model) of the edited bases."""
        group = part.group
        number = next(i for i, bound in enumerate(self.bounds) if bound[0] == group.low)
        a, b = part.forward, part.reverse
        a, b = (a, b) if self.network.config.a_reads_forward(number) else (b, a)
        first = int(group.positions.min()) - group.low - _BRIDGE_REACH
        last = int(group.positions.max()) - group.low + _BRIDGE_REACH
        near = slice(max(0, first), last + 1)
        bridge, x, y = self.network.bridge, a[:, near], b[:, near]
        if bridge is not None:
            # The convolutions do not reach from outside the part to the edits.
            around = bridge.around_a(x), bridge.around_b(y)
            x, y = bridge.receive(x, y, *_received(bridge, a, b, *around))
        hidden = self.network.blend(x, y).hidden
        places = group.positions - group.low - near.start
        return hidden[torch.arange(len(places), device=places.device), places]


class _Stream(NamedTuple):
    """What one strand gives for a block of some copies."""

    outputs: Tensor
    """(edits, block, d_model)"""
    start: int
    """From here to `end`, which may lie outside the block, all copies are the same."""
    end: int

    def same_around(self) -> tuple[int, int]:
        """From where to where all copies are the same as far as the bridge reaches."""
        length = self.outputs.shape[1]
        start = 0 if self.start <= 0 else min(self.start + _BRIDGE_REACH, length)
        end = length if self.end >= length else max(self.end - _BRIDGE_REACH, 0)
        return start, end


class _Sent(NamedTuple):
    """What the bridge sends from where all copies of a block are the same."""

    place: tuple[int, int]
    same: Tensor
    """(1, end - start, d_model)"""


def _received(
    bridge: TokenBridge, a: Tensor, b: Tensor, around_a: Tensor, around_b: Tensor
) -> tuple[Tensor, Tensor]:
    """What both branches receive in (part of) a block with outputs `a` and `b`."""
    return (
        around_b + bridge.global_a(b.mean(1, keepdim=True)),
        around_a + bridge.global_b(a.mean(1, keepdim=True)),
    )


def _of(x: Tensor, windows: Tensor) -> Tensor:
    """Rows of `x` for copies, given each copy's window."""
    # A view where there is one row to choose from.
    return x.expand(len(windows), *x.shape[1:]) if len(x) == 1 else x[windows]


def _state_of(state: BranchState | None, windows: Tensor) -> BranchState | None:
    """The states of copies, given each copy's window."""
    if state is None:
        return None
    return tuple(
        LayerState(
            _of(layer.conv, windows),
            _of(layer.delta, windows),
            WindowCache(
                _of(layer.window.keys, windows),
                _of(layer.window.values, windows),
                None,
            ),
        )
        for layer in state
    )
