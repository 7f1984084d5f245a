"""Many edits of windows, each read only from where it differs.

Both branches of CrossDNA are causal on their strand. For a window with one base
changed, the forward strand is the reference's up to that base and the reverse strand is
the reference's down to it. Their states there are computed once for the edits of a
window, and each edited copy is read from there on: half of the work when the base is in
the middle. For the prediction at the edited base itself, only what the bridge reaches
is fused. Edits of different windows have nothing in common but fill a batch.

Where a copy is cut depends on its edit alone, never on which other edits are asked for,
so that neighbours do not decide how it is rounded.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import torch

from crossdna import alphabet
from crossdna.analysis.inference import asking
from crossdna.analysis.variants.edited_motifs import EditedMotifs
from crossdna.analysis.variants.edits import Edit, EditedWindows, cut_of
from crossdna.models.crossdna import CrossDNAModel
from crossdna.models.crossdna.layers import TILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from crossdna.alphabet import Strand

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
    """How many edits of a window of `length` bases are read as copies of the window.

    Where both ways round alike, the faster one is taken. Where they do not, a CPU takes
    the same way for a single edit, so that a score does not depend on how many others
    there are. Batches of a GPU are too good to be left for that.
    """
    exact = length <= min(TILE, model.base_model.config.window_size)
    return 1 if model.device.type == "cpu" and not exact else _WORTH_SHARING


def masked_probabilities(
    model: Any, ids: Tensor, edits: Sequence[Edit], *, group: int = 16
) -> Tensor:
    """Probabilities of A C G T at edited positions, each edited by itself.

    Parameters
    ----------
    model
        A CrossDNA for masked language modelling.
    ids : (windows, length) int64
    edits
        In any order; their bases are [MASK].
    group
        Most edits that are read in one batch.

    Returns
    -------
    (edits, 4) float32
        Of the windows as they are; see
        `crossdna.analysis.inference.reverse_complement` for the other strand.
    """
    results = torch.empty(len(edits), alphabet.NUM_BASES, device=ids.device)
    with asking(model):
        for own, rows, ordered in _batches(model.base_model, ids, edits, group):
            windows = EditedWindows(model.base_model, own)
            hidden = [
                windows.hidden_at_edits(part)
                for part in windows.read(ordered, group, whole=False)
            ]
            logits = model.head(torch.cat(hidden))[:, : alphabet.NUM_BASES]
            results[rows] = logits.float().softmax(-1)
    return results


def edited_logits(
    model: Any, ids: Tensor, edits: Sequence[Edit], *, group: int = 8
) -> Tensor:
    """Output (edits, labels) of a sequence head for windows with one base changed.

    Parameters
    ----------
    model
        A CrossDNA for sequence classification.
    ids : (windows, length) int64
    edits
        In any order; the same position may come several times.
    group
        Most edits that are read in one batch: what becomes of all bases of so many
        copies should stay in a CPU's cache.
    """
    results = torch.empty(len(edits), model.config.num_labels, device=ids.device)
    with asking(model):
        for own, rows, ordered in _batches(model.base_model, ids, edits, group):
            windows = EditedWindows(model.base_model, own)
            motifs = EditedMotifs(model.head, own)
            outputs = []
            for part in windows.read(ordered, group, whole=True):
                places = part.group.windows, part.group.positions
                found = motifs.read(part.edited, *places)
                hidden = windows.hidden_everywhere(part)
                outputs.append(model.head.answer(hidden, found).float())
            results[rows] = torch.cat(outputs)
    return results


def _batches(
    network: CrossDNAModel, ids: Tensor, edits: Sequence[Edit], most: int
) -> Iterator[tuple[Tensor, list[int], list[Edit]]]:
    """What is read together: windows, which edits, and these with the windows' numbers.

    A single window comes whole, as it is read once for all its cuts. Of several, those
    come together that have edits with the same cut.
    """

    def place(row: int) -> tuple[tuple[int, int], int, int]:
        edit = edits[row]
        return cut_of(network, edit), edit.window, edit.position

    order = sorted(range(len(edits)), key=place)
    if len(ids) == 1:
        # Groups want ascending positions, and there is no other window.
        yield ids, order, [edits[row] for row in order]
        return
    for _, alike in groupby(order, key=lambda row: cut_of(network, edits[row])):
        rows = list(alike)
        for start in range(0, len(rows), most):
            part = rows[start : start + most]
            here = sorted({edits[row].window for row in part})
            own = [
                edits[row]._replace(window=here.index(edits[row].window))
                for row in part
            ]
            yield ids[here], part, own


def edited_marginals(
    model: Any,
    ids: Tensor,
    edits: Sequence[Edit],
    *,
    strand: Strand,
) -> Tensor:
    """Log-probabilities (edits, 4) like `base_log_probabilities` of masked copies.

    Parameters
    ----------
    ids : (windows, length) int64
    edits
        In any order; their bases are [MASK].
    """
    mean = alphabet.of_strand(
        strand,
        lambda: masked_probabilities(model, ids, edits),
        lambda: masked_probabilities(model, *_other_strand(ids, edits)).flip(1),
    )
    return mean.log()


def edited_outputs(
    model: Any,
    ids: Tensor,
    edits: Sequence[Edit],
    *,
    strand: Strand,
) -> Tensor:
    """Logits (edits, labels) like `sequence_logits` of copies with one base changed.

    Parameters
    ----------
    ids : (windows, length) int64
    edits
        In any order.
    """
    return alphabet.of_strand(
        strand,
        lambda: edited_logits(model, ids, edits),
        lambda: edited_logits(model, *_other_strand(ids, edits)),
    )


def _other_strand(ids: Tensor, edits: Sequence[Edit]) -> tuple[Tensor, list[Edit]]:
    """Windows and edits as they are on the reverse complement."""
    last = ids.shape[1] - 1
    bases = alphabet.complement_ids(torch.tensor([edit.base for edit in edits]))
    mirrored = [
        Edit(edit.window, last - edit.position, base)
        for edit, base in zip(edits, bases.tolist(), strict=True)
    ]
    return alphabet.complement_ids(ids).flip(1), mirrored
