"""The slowly moving copies of the branches that keep a strand's own meaning.

Two teachers, one for each branch, and a teacher bridge follow the student as
exponential moving averages. Both teachers read both strands and are bridged within a
strand, so that what they say of a strand knows nothing of the other; a branch is asked
to stay near what its own teacher says of the strand that the branch read.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from crossdna.models.crossdna.streams import cut_blocks, join_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from crossdna.models.crossdna import CrossDNAModel


class StrandFeatures(NamedTuple):
    """What the two teachers say of one strand, in forward order, bridged.

    Attributes
    ----------
    a, b : (B, L, d)
    """

    a: Tensor
    b: Tensor


class TeacherTargets(NamedTuple):
    """The features of both strands, arranged by the student's blocks.

    Slice ``[start:end]`` of `reverse` belongs to the reverse-strand bases that the
    student's block ``[start:end]`` read, whichever locus these have.
    """

    forward: StrandFeatures
    reverse: StrandFeatures


class Teacher(nn.Module):
    """Exponential moving averages of both branches and of the bridge.

    Never trained, no dropout. Its state dict is what a checkpoint keeps.

    Parameters
    ----------
    student
        The network to follow; the averages start as copies of it.
    decay
        Share of the average that stays at each update.
    """

    def __init__(self, student: CrossDNAModel, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.branch_a = copy.deepcopy(student.branch_a)
        self.branch_b = copy.deepcopy(student.branch_b)
        self.bridge = copy.deepcopy(student.bridge)
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def update(self, student: CrossDNAModel) -> None:
        """Move towards the student; call it once after each optimiser step."""
        current = dict(student.named_parameters())
        names, averages = zip(*self.named_parameters(), strict=True)
        # One operation over all of them: a GPU would start hundreds of small ones.
        torch._foreach_lerp_(
            list(averages), [current[name] for name in names], 1 - self.decay
        )

    @torch.no_grad()
    def targets(self, student: CrossDNAModel, ids: Tensor) -> TeacherTargets:
        """Read both strands of a batch.

        The student's stems serve, without dropout. With ``block_context`` "independent"
        stems and teachers see each block alone, as published; with "recurrent" they
        see what lies before it on its strand, as the student does. The bridge always
        works within a block.

        Parameters
        ----------
        student
            The network whose stems and configuration to use.
        ids : (B, L) int64
            What the student saw, without padding.
        """
        config, (batch, length) = student.config, ids.shape
        block = min(config.block_size or length, length)
        alone = config.block_context == "independent"
        # Published models pair block t with block t of the whole reverse complement,
        # which is as far from the right end as block t is from the left one.
        mirrored = config.strand_alignment == "sequence"
        piece = block if alone else length
        pieces = zip(
            cut_blocks(ids, piece),
            cut_blocks(ids, piece, mirrored=mirrored),
            strict=True,
        )
        read = [self._read(student, forward, reverse) for forward, reverse in pieces]
        fa, fb, ra, rb = (
            join_blocks(parts, batch) for parts in zip(*read, strict=True)
        )
        return TeacherTargets(
            self._bridged(fa, fb, block, mirrored=False),
            self._bridged(ra, rb, block, mirrored=mirrored and not alone),
        )

    def _read(
        self, student: CrossDNAModel, forward: Tensor, reverse: Tensor
    ) -> tuple[Tensor, ...]:
        """Read the + strand of `forward` and the - strand of `reverse`, each twice."""
        x = torch.cat(
            [
                student.features_forward(forward),
                student.features_reverse(reverse).flip(1),
            ]
        )
        a_forward, a_reverse = self.branch_a(x)[0].chunk(2)
        b_forward, b_reverse = self.branch_b(x)[0].chunk(2)
        return a_forward, b_forward, a_reverse.flip(1), b_reverse.flip(1)

    def _bridged(
        self, a: Tensor, b: Tensor, block: int, *, mirrored: bool
    ) -> StrandFeatures:
        batch = a.shape[0]
        stacks = list(
            zip(
                cut_blocks(a, block, mirrored=mirrored),
                cut_blocks(b, block, mirrored=mirrored),
                strict=True,
            )
        )
        if self.bridge is not None:
            stacks = [self.bridge(*pair) for pair in stacks]
        return StrandFeatures(
            *(join_blocks(parts, batch) for parts in zip(*stacks, strict=True))
        )
