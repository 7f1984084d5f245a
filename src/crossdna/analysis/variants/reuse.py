"""Many edits of one window, each read only from where it differs.

Both branches of CrossDNA are causal on their strand. For a window with one base
changed, the forward strand is the reference's up to that base and the reverse strand is
the reference's down to it. Their states there are computed once, and each edited copy
is read from there on: half of the work when the base is in the middle. For the
prediction at the edited base itself, only what the bridge reaches is fused.

Where a copy is cut depends on its edit alone, never on which other edits are asked for,
so that neighbours do not decide how it is rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from crossdna import alphabet
from crossdna.analysis.inference import asking
from crossdna.analysis.variants.edited_motifs import EditedMotifs
from crossdna.analysis.variants.edits import EditedWindow
from crossdna.models.crossdna import CrossDNAModel
from crossdna.models.crossdna.layers import TILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# From so many edits of one window on, reading the window itself first pays.
_WORTH_SHARING: Final = 4


def can_reuse(model: Any, length: int) -> bool:
    """Whether edits of a window of `length` bases can share what is before them."""
    network = model.base_model
    if not isinstance(network, CrossDNAModel):
        return False
    size = network.config.block_size
    return network.config.strand_alignment == "locus" or size is None or length <= size


def fewest_edits(model: Any, length: int) -> int:
    """How many edits of a window of `length` bases are read as copies of one window.

    Where both ways round alike, the faster one is taken. Where they do not, a CPU takes
    the same way for a single edit, which costs little more (in windows of thousands of
    bases less), so that a score does not depend on how many others there are. Batches
    of a GPU are too good to be left for that.
    """
    exact = length <= min(TILE, model.base_model.config.window_size)
    return 1 if model.device.type == "cpu" and not exact else _WORTH_SHARING


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
        window = EditedWindow(model.base_model, ids)
        edits = torch.full((len(positions),), alphabet.MASK, device=ids.device)
        hidden = [
            window.hidden_at_edits(part)
            for part in window.read(positions, edits, group, whole=False)
        ]
        logits = model.head(torch.cat(hidden))[:, : alphabet.NUM_BASES]
        return logits.float().softmax(-1)


def edited_logits(
    model: Any, ids: Tensor, positions: Sequence[int], bases: Tensor, *, group: int = 8
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
    group
        Neighbouring edits that are read in one batch: what becomes of all bases of so
        many copies should stay in a CPU's cache.
    """
    with asking(model):
        window = EditedWindow(model.base_model, ids)
        motifs = EditedMotifs(model.head, ids)
        outputs = []
        for part in window.read(positions, bases, group, whole=True):
            found = motifs.read(part.edited, part.group.positions)
            hidden = window.hidden_everywhere(part)
            outputs.append(model.head.answer(hidden, found).float())
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
