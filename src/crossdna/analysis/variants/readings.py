"""Reading windows in batches: masked bases, likelihoods, heads and embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from crossdna import alphabet
from crossdna.analysis.heads import read_head
from crossdna.analysis.inference import (
    asking,
    base_log_probabilities,
    embedding_size,
    embeddings,
    gives_base_probabilities,
    hiding_unit,
    is_causal,
    reverse_complement,
    sequence_logits,
)
from crossdna.analysis.likelihood import log_likelihoods
from crossdna.analysis.variants.edits import Edit
from crossdna.analysis.variants.reuse import (
    can_reuse,
    edited_marginals,
    edited_outputs,
    fewest_edits,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from crossdna.analysis.variants.score import ScoreSettings
    from crossdna.data.variants import Window, WindowPair


# From so many edits on, a window is not read together with others.
_FILLS_BATCHES: Final = 16


def masked_marginals(
    model: Any,
    windows: Sequence[NDArray[np.uint8]],
    positions: Sequence[int],
    settings: ScoreSettings,
) -> NDArray[np.float64]:
    """Log-probabilities (windows, 4) of A C G T at one masked base of each window.

    Where that saves work they are read from where they differ; see
    `crossdna.analysis.variants.reuse`.
    """
    results = np.empty((len(windows), alphabet.NUM_BASES))
    groups, alone = _edited_together(model, windows)
    for group in groups:
        logs = edited_marginals(
            model,
            torch.from_numpy(np.stack(group.windows).astype(np.int64)).to(model.device),
            [
                Edit(window, positions[row], alphabet.MASK)
                for window, row in zip(group.owners, group.rows, strict=True)
            ],
            strand=settings.strand,
        )
        results[group.rows] = logs.double().cpu().numpy()
    masked = [windows[row].copy() for row in alone]
    for window, row in zip(masked, alone, strict=True):
        window[positions[row]] = alphabet.MASK

    def read(ids: Tensor, chosen: list[int]) -> Tensor:
        logs = base_log_probabilities(model, ids, strand=settings.strand)
        at = torch.tensor([positions[alone[i]] for i in chosen], device=ids.device)
        return logs[torch.arange(len(chosen), device=ids.device), at]

    width = alphabet.NUM_BASES
    results[alone] = _in_batches(read, masked, model, settings.batch_size, width)
    return results


class _Edited(NamedTuple):
    """Edits to be read together."""

    windows: list[NDArray[np.uint8]]
    """Of one length."""
    rows: list[int]
    """The edits."""
    owners: list[int]
    """The window of each."""


def _edited_together(
    model: Any, windows: Sequence[NDArray[np.uint8]]
) -> tuple[list[_Edited], list[int]]:
    """Edits of windows that are read from where they differ, and all others.

    A window with many edits fills batches by itself; the others fill them together.
    """
    rows: dict[bytes, list[int]] = {}
    for row, ids in enumerate(windows):
        rows.setdefault(ids.tobytes(), []).append(row)
    groups: list[_Edited] = []
    together: dict[int, _Edited] = {}
    alone = []
    for same in rows.values():
        window = windows[same[0]]
        length = len(window)
        if not can_reuse(model, length) or len(same) < fewest_edits(model, length):
            alone += same
        elif len(same) >= _FILLS_BATCHES:
            groups.append(_Edited([window], same, [0] * len(same)))
        else:
            group = together.setdefault(length, _Edited([], [], []))
            group.rows.extend(same)
            group.owners.extend([len(group.windows)] * len(same))
            group.windows.append(window)
    return [*groups, *together.values()], alone


def entropy_bits(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in bits over the last axis of natural log-probabilities."""
    entropy: NDArray[np.float64] = -(np.exp(logs) * logs).sum(-1) / np.log(2)
    return entropy


def likelihood_differences(
    model: Any, pairs: Sequence[WindowPair], settings: ScoreSettings
) -> NDArray[np.float64]:
    """(Pseudo-)log-likelihood (pairs, 1) of alternate minus reference windows."""

    def likelihoods(windows: Sequence[Window]) -> NDArray[np.float64]:
        return window_likelihoods(model, windows, settings)[:, None]

    return _differences(likelihoods, pairs)


def window_likelihoods(
    model: Any, windows: Sequence[Window], settings: ScoreSettings
) -> NDArray[np.float64]:
    """Log-likelihood of windows, (windows,): of a masked model the pseudo-one.

    Of models that read tokens the sum over tokens, so that both strands' are averaged
    as logarithms: their tokens differ.
    """
    if is_causal(model):
        return _causal_log_likelihoods(model, windows, settings)
    alone = gives_base_probabilities(model) and hiding_unit(model) == 1
    if not alone and not model.reader.overlapping:
        return _token_pseudo_log_likelihoods(model, windows, settings)
    return pseudo_log_likelihoods(model, windows, settings)


def _causal_log_likelihoods(
    model: Any, windows: Sequence[Window], settings: ScoreSettings
) -> NDArray[np.float64]:
    def read(ids: Tensor, rows: list[int]) -> Tensor:
        return log_likelihoods(model, ids, strand=settings.strand)[:, None]

    ids = [window.ids for window in windows]
    return _in_batches(read, ids, model, settings.batch_size, 1)[:, 0]


def _token_pseudo_log_likelihoods(
    model: Any, windows: Sequence[Window], settings: ScoreSettings
) -> NDArray[np.float64]:
    spacing = settings.mask_spacing

    def read(ids: Tensor, rows: list[int]) -> Tensor:
        loci = torch.from_numpy(np.stack([windows[row].loci for row in rows]))
        loci = loci.to(ids.device)

        def ahead() -> Tensor:
            return model.pseudo_log_likelihoods(ids, loci, spacing=spacing)

        def back() -> Tensor:
            other, _ = reverse_complement(ids)
            return model.pseudo_log_likelihoods(other, loci.flip(1), spacing=spacing)

        with asking(model):
            return alphabet.of_strand(settings.strand, ahead, back)[:, None]

    ids = [window.ids for window in windows]
    return _in_batches(read, ids, model, settings.batch_size, 1)[:, 0]


def pseudo_log_likelihoods(
    model: Any, windows: Sequence[Window], settings: ScoreSettings
) -> NDArray[np.float64]:
    """Sum of the log-probability of each base while it is masked, (windows,).

    Bases whose positions in the genome leave the same rest on division by
    `mask_spacing` are masked together. So a base has the same companions in a window
    with and without an insertion or deletion. N is neither masked nor counted. Of
    overlapping k-mers a masked base hides k, so the bases stand k times as far apart.
    """
    spacing = settings.mask_spacing * hiding_unit(model)
    truths, hidden = [], []
    for window in windows:
        for rest in range(spacing):
            hide = (window.loci % spacing == rest) & (window.ids < alphabet.NUM_BASES)
            truths.append(window.ids)
            hidden.append(hide)
    masked = [
        np.where(hide, np.uint8(alphabet.MASK), ids)
        for ids, hide in zip(truths, hidden, strict=True)
    ]

    def read(ids: Tensor, rows: list[int]) -> Tensor:
        logs = base_log_probabilities(model, ids, strand=settings.strand)
        bases = torch.from_numpy(np.stack([truths[row] for row in rows]))
        bases = bases.long().clamp(max=alphabet.NUM_BASES - 1).to(ids.device)
        own = logs.gather(2, bases[..., None])[..., 0].double()
        return (own * (ids == alphabet.MASK)).sum(1, keepdim=True)

    parts = _in_batches(read, masked, model, settings.batch_size, 1)
    sums: NDArray[np.float64] = parts.reshape(len(windows), spacing).sum(1)
    return sums


def head_differences(
    model: Any, pairs: Sequence[WindowPair], settings: ScoreSettings
) -> NDArray[np.float64]:
    """What a head says of alternate minus reference windows, (pairs, labels).

    Log-odds or numbers, see `crossdna.analysis.heads`.

    Where that saves work substitutions are read from where they differ; see
    `crossdna.analysis.variants.reuse`.
    """
    head, width = read_head(model), model.config.num_labels

    def read(ids: Tensor, rows: list[int]) -> Tensor:
        return sequence_logits(model, ids, strand=settings.strand)

    def outputs(windows: Sequence[Window]) -> NDArray[np.float64]:
        return said([window.ids for window in windows])

    def said(ids: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        logits = _in_batches(read, ids, model, settings.batch_size, width)
        return head.outputs(torch.from_numpy(logits)).numpy()

    results = np.empty((len(pairs), len(head.labels)))
    single = [row for row, pair in enumerate(pairs) if _is_single(pair)]
    groups, _ = _edited_together(model, [pairs[row].reference.ids for row in single])
    done: set[int] = set()
    for group in groups:
        rows = [single[place] for place in group.rows]
        logits = edited_outputs(
            model,
            torch.from_numpy(np.stack(group.windows).astype(np.int64)).to(model.device),
            [
                Edit(window, pair.offset, int(pair.alternate.ids[pair.offset]))
                for window, pair in zip(
                    group.owners, [pairs[row] for row in rows], strict=True
                )
            ],
            strand=settings.strand,
        )
        after = head.outputs(logits.double().cpu())
        results[rows] = after.numpy() - said(group.windows)[group.owners]
        done.update(rows)
    alone = [row for row in range(len(pairs)) if row not in done]
    results[alone] = _differences(outputs, [pairs[row] for row in alone])
    return results


def _is_single(pair: WindowPair) -> bool:
    """Whether the windows differ in one base and nothing is moved."""
    return (
        np.array_equal(pair.reference.loci, pair.alternate.loci)
        and np.count_nonzero(pair.reference.ids != pair.alternate.ids) == 1
    )


def embedding_differences(
    model: Any, pairs: Sequence[WindowPair], settings: ScoreSettings
) -> NDArray[np.float64]:
    """Mean embedding (pairs, channels) of alternate minus reference windows."""

    def read(ids: Tensor, rows: list[int]) -> Tensor:
        vectors = embeddings(model, ids, strand=settings.strand)
        return vectors.double().mean(1)

    def means(windows: Sequence[Window]) -> NDArray[np.float64]:
        ids = [window.ids for window in windows]
        width = embedding_size(model.config)
        return _in_batches(read, ids, model, settings.batch_size, width)

    return _differences(means, pairs)


def _differences(
    read: Callable[[Sequence[Window]], NDArray[np.float64]],
    pairs: Sequence[WindowPair],
) -> NDArray[np.float64]:
    """Read each distinct window once; alternate minus reference."""
    places: dict[Hashable, int] = {}
    windows: list[Window] = []

    def place(window: Window) -> int:
        key = window.ids.tobytes(), window.loci.tobytes()
        if key not in places:
            places[key] = len(windows)
            windows.append(window)
        return places[key]

    references = [place(pair.reference) for pair in pairs]
    alternates = [place(pair.alternate) for pair in pairs]
    values = read(windows)
    return values[alternates] - values[references]


def _in_batches(
    read: Callable[[Tensor, list[int]], Tensor],
    windows: Sequence[NDArray[np.uint8]],
    model: Any,
    batch_size: int,
    width: int,
) -> NDArray[np.float64]:
    """Read windows in batches of one length, so that none needs padding.

    Parameters
    ----------
    read
        Given ids (batch, length) and the numbers of the windows; gives (batch, width).
    """
    results = np.empty((len(windows), width))
    order = sorted(range(len(windows)), key=lambda row: len(windows[row]))
    while order:
        length = len(windows[order[0]])
        rows = [row for row in order[:batch_size] if len(windows[row]) == length]
        ids = torch.from_numpy(np.stack([windows[row] for row in rows]))
        values = read(ids.long().to(model.device), rows)
        results[rows] = values.double().cpu().numpy()
        order = order[len(rows) :]
    return results
