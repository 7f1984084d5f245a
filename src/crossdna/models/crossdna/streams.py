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

    from crossdna.models.crossdna.modeling import CrossDNAModel


class StrandContext(NamedTuple):
    """Everything that lies outside a piece of a longer sequence and matters inside.

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


class Block(NamedTuple):
    """One block of a piece: where it lies and which branch reads its forward strand."""

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
        for block, forward in self._read_forward():
            mirrored = reverse.pop(block.start)
            a, b = forward, mirrored
            if not block.a_reads_forward:
                a, b = b, a
            fused = self.model.fuse(a, b, self._mask(block))
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

    def _blocks(self) -> list[Block]:
        length = self.ids.shape[1]
        size = self.config.block_size or length
        first = self.context.first_block
        return [
            Block(
                start,
                min(start + size, length),
                self.config.a_reads_forward(first + i),
            )
            for i, start in enumerate(range(0, length, size))
        ]

    def _mask(self, block: Block) -> Tensor | None:
        return None if self.mask is None else self.mask[:, block.start : block.end]

    def _read_forward(self) -> Iterator[tuple[Block, Tensor]]:
        model, context = self.model, self.context
        features = model.features_forward(self.ids, context.left, context.right)
        features = model.dropout(features)
        for block in self._blocks():
            branch = model.branch_a if block.a_reads_forward else model.branch_b
            x = features[:, block.start : block.end]
            y, self.forward_state = self._read(
                branch, x, self._mask(block), self.forward_state, self.forward_layers
            )
            yield block, y

    def _read_reverse(self) -> dict[int, Tensor]:
        """Outputs of the reverse stream in forward order, by the block's start."""
        if self.config.strand_alignment == "sequence":
            return self._read_reverse_by_sequence()
        model, context = self.model, self.context
        features = model.features_reverse(self.ids, context.left, context.right)
        features = model.dropout(features)
        outputs: dict[int, Tensor] = {}
        for block in reversed(self._blocks()):
            branch = model.branch_b if block.a_reads_forward else model.branch_a
            x = features[:, block.start : block.end].flip(1)
            mask = self._mask(block)
            mask = None if mask is None else mask.flip(1)
            y, self.reverse_state = self._read(
                branch, x, mask, self.reverse_state, self.reverse_layers, mirror=_flip
            )
            outputs[block.start] = y.flip(1)
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
        for block in self._blocks():
            branch = model.branch_b if block.a_reads_forward else model.branch_a
            size = block.end - block.start
            valid = self.lengths
            valid = None if valid is None else (valid - block.start).clamp(0, size)

            def mirror(x: Tensor, valid: Tensor | None = valid) -> Tensor:
                return flip_valid(x, valid)

            y, self.reverse_state = self._read(
                branch,
                features[:, block.start : block.end],
                self._mask(block),
                self.reverse_state,
                self.reverse_layers,
                mirror=mirror,
            )
            outputs[block.start] = mirror(y)
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


def _flip(x: Tensor) -> Tensor:
    return x.flip(1)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
