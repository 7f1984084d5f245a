"""Reading a piece of sequence on both strands, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from crossdna import alphabet
from crossdna.models.crossdna.layers import Branch, BranchState
from crossdna.models.crossdna.padding import Alignment, flip_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from crossdna.models.crossdna.configuration import CrossDNAConfig
    from crossdna.models.crossdna.modeling import CrossDNAModel


class StrandContext(NamedTuple):
    """Everything that lies outside a piece of a longer sequence and matters inside.

    Pieces begin at multiples of the model's `block_size`.

    Attributes
    ----------
    forward : BranchState or None
        State of the forward stream at the piece's left end.
    reverse : BranchState or None
        State of the reverse-complement stream at the piece's right end.
    left, right : (batch, up to 4) int64 or None
        The bases that touch the piece, for the stems' convolutions.
    first_block : int
        How many blocks lie to the left of the piece.
    """

    forward: BranchState | None = None
    reverse: BranchState | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    first_block: int = 0


class FusedBlock(NamedTuple):
    """What becomes of a block, each (batch, length, d_model)."""

    hidden: Tensor
    branch_a: Tensor
    branch_b: Tensor
    logits: Tensor


class Run(NamedTuple):
    """Blocks of a piece that are read in one go: where, and who reads + there."""

    start: int
    end: int
    a_reads_forward: bool


class TwoStrandPass:
    """One pass over a piece: the reverse stream first, then the forward one."""

    def __init__(
        self,
        model: CrossDNAModel,
        aligned: Alignment,
        context: StrandContext,
        want_layers: bool,
    ) -> None:
        self.model, self.config = model, model.config
        self.ids, self.mask, self.lengths = aligned.ids, aligned.mask, aligned.lengths
        self.context = context
        self.forward_state = context.forward
        self.reverse_state = context.reverse
        self.forward_layers: list[list[Tensor]] | None = [] if want_layers else None
        self.reverse_layers: list[list[Tensor]] | None = [] if want_layers else None

    def fused_fields(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Run everything and keep the named fields of `FusedBlock`, blocks joined."""
        reverse = self._read_reverse()
        kept: dict[str, list[Tensor]] = {name: [] for name in names}
        for run, forward in self._read_forward():
            mirrored = reverse.pop(run.start)
            a, b = forward, mirrored
            if not run.a_reads_forward:
                a, b = b, a
            fused = self._fuse(a, b, self._mask(run))
            for name, parts in kept.items():
                parts.append(getattr(fused, name))
        return {name: _join(parts) for name, parts in kept.items()}

    def layer_means(self, fused: Tensor) -> list[Tensor]:
        """Stems, each layer's mean over the strands, and the fused representation."""
        assert self.forward_layers is not None
        assert self.reverse_layers is not None
        streams = [
            [_join(list(parts)) for parts in zip(*stream, strict=True)]
            for stream in (self.forward_layers, self.reverse_layers)
        ]
        means = [(f + r) / 2 for f, r in zip(*streams, strict=True)]
        return [*means, fused]

    def context_at_ends(self) -> StrandContext:
        """States after the last block that each stream has read."""
        return self.context._replace(
            forward=self.forward_state, reverse=self.reverse_state
        )

    def _runs(self) -> list[Run]:
        """Block after block, or all at once where nothing changes in between."""
        length, config = self.ids.shape[1], self.config
        size = config.block_size or length
        if reads_at_once(config, self.ids.device):
            return [Run(0, length, config.a_reads_forward(0))]
        first = self.context.first_block
        return [
            Run(start, min(start + size, length), config.a_reads_forward(first + i))
            for i, start in enumerate(range(0, length, size))
        ]

    def _fuse(self, a: Tensor, b: Tensor, mask: Tensor | None) -> FusedBlock:
        """Let both branches meet block by block, whole blocks as a batch."""
        length, size = a.shape[1], self.config.block_size or a.shape[1]
        if length <= size:
            return self.model.fuse(a, b, mask)
        parts_a, parts_b = cut_blocks(a, size), cut_blocks(b, size)
        masks = [None] * len(parts_a) if mask is None else cut_blocks(mask, size)
        fused = [
            self.model.fuse(*part) for part in zip(parts_a, parts_b, masks, strict=True)
        ]
        return FusedBlock(
            *(join_blocks(parts, a.shape[0]) for parts in zip(*fused, strict=True))
        )

    def _mask(self, run: Run) -> Tensor | None:
        return None if self.mask is None else self.mask[:, run.start : run.end]

    def _read_forward(self) -> Iterator[tuple[Run, Tensor]]:
        model, context = self.model, self.context
        features = model.features_forward(self.ids, context.left, context.right)
        features = model.dropout(features)
        for run in self._runs():
            branch = model.branch_a if run.a_reads_forward else model.branch_b
            x = features[:, run.start : run.end]
            y, self.forward_state = self._read(
                branch, x, self._mask(run), self.forward_state, self.forward_layers
            )
            yield run, y

    def _read_reverse(self) -> dict[int, Tensor]:
        """Outputs of the reverse stream in forward order, by the block's start."""
        if self.config.strand_alignment == "sequence":
            return self._read_reverse_by_sequence()
        model, context = self.model, self.context
        features = model.features_reverse(self.ids, context.left, context.right)
        features = model.dropout(features)
        outputs: dict[int, Tensor] = {}
        for run in reversed(self._runs()):
            branch = model.branch_b if run.a_reads_forward else model.branch_a
            x = features[:, run.start : run.end].flip(1)
            mask = self._mask(run)
            mask = None if mask is None else mask.flip(1)
            y, self.reverse_state = self._read(
                branch, x, mask, self.reverse_state, self.reverse_layers, mirror=_flip
            )
            outputs[run.start] = y.flip(1)
        if self.reverse_layers is not None:
            self.reverse_layers.reverse()
        return outputs

    def _read_reverse_by_sequence(self) -> dict[int, Tensor]:
        """Published alignment: block t of the whole sequence's reverse complement."""
        model = self.model
        ids = flip_valid(alphabet.complement_ids(self.ids), self.lengths)
        features = model.stem(
            ids, None, None, model.stem_reverse.weight, model.stem_reverse
        )
        features = model.dropout(features)
        outputs: dict[int, Tensor] = {}
        for run in self._runs():
            branch = model.branch_b if run.a_reads_forward else model.branch_a
            size = run.end - run.start
            valid = self.lengths
            valid = None if valid is None else (valid - run.start).clamp(0, size)

            def mirror(x: Tensor, valid: Tensor | None = valid) -> Tensor:
                return flip_valid(x, valid)

            y, self.reverse_state = self._read(
                branch,
                features[:, run.start : run.end],
                self._mask(run),
                self.reverse_state,
                self.reverse_layers,
                mirror=mirror,
            )
            outputs[run.start] = mirror(y)
        return outputs

    def _read(
        self,
        branch: Branch,
        x: Tensor,
        mask: Tensor | None,
        state: BranchState | None,
        layers: list[list[Tensor]] | None,
        mirror: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, BranchState | None]:
        collect = None if layers is None else [x]
        y, state = branch(x, mask, state, collect)
        if layers is not None and collect is not None:
            layers.append([mirror(part) for part in collect] if mirror else collect)
        return y, state if self.config.block_context == "recurrent" else None


def reads_at_once(config: CrossDNAConfig, device: torch.device) -> bool:
    """Whether a strand is read whole: nothing changes between its blocks."""
    one_reading = (
        config.block_context == "recurrent"
        and config.strand_alignment == "locus"
        and not config.swap_strands
    )
    return one_reading and joins_blocks(device)


def joins_blocks(device: torch.device) -> bool:
    """Whether a device gains by reading a strand in one go.

    A GPU would wait for the host between small blocks; a CPU has them in its cache.
    """
    return device.type != "cpu"


def _flip(x: Tensor) -> Tensor:
    return x.flip(1)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def cut_blocks(x: Tensor, size: int, *, mirrored: bool = False) -> list[Tensor]:
    """Cut (B, L, ...) into blocks: (B * blocks, size, ...) and a short rest, if any.

    Mirrored, block t is the one that lies as far from the right end as block t
    otherwise lies from the left end.
    """
    rest = x.shape[1] % size
    short, full = (
        (x[:, :rest], x[:, rest:])
        if mirrored
        else (x[:, x.shape[1] - rest :], x[:, : x.shape[1] - rest])
    )
    blocks = full.unflatten(1, (full.shape[1] // size, size))
    if mirrored:
        blocks = blocks.flip(1)
    return [part for part in (blocks.flatten(0, 1), short) if part.shape[1]]


def join_blocks(parts: Sequence[Tensor], batch: int) -> Tensor:
    """Undo `cut_blocks`: the blocks of each sequence side by side."""
    rows = [part.unflatten(0, (batch, -1)).flatten(1, 2) for part in parts]
    return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)
