"""Two compact convolutional networks, trained from scratch, as baselines to beat."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossdna import alphabet
from crossdna.data import metrics
from crossdna.data.task_card import TaskCard
from crossdna.data.temperature import fit_temperature
from crossdna.models.batched import length_batches, pad_batch
from crossdna.models.task_loss import IGNORED, task_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crossdna.data.labelled import LabelledSet

EPOCHS = 20
_PATIENCE = 5
_BATCH = 64
_RATE = 1e-3
_BASES = 1 << 16


class SymmetricNet(nn.Module):
    """Motif scanner whose answer is the same for both strands: global pooling."""

    def __init__(self, outputs: int, length: int) -> None:
        super().__init__()
        self.motifs = nn.Conv1d(alphabet.NUM_BASES, 128, 13, padding=6)
        self.context = nn.Conv1d(128, 64, 7, padding=3)
        self.dropout = nn.Dropout(0.3)
        self.dense = nn.Linear(2 * 64 + 128, 64)
        self.out = nn.Linear(64, outputs)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """(batch, 4, length) one-hot, (batch, 1, length) mask, to (batch, outputs)."""
        ahead = self._features(x, present)
        # One-hot order A C G T: reversing both axes is the reverse complement.
        back = self._features(x.flip(1, 2), present.flip(2))
        both = torch.maximum(ahead, back)
        return self.out(self.dropout(F.relu(self.dense(self.dropout(both)))))

    def _features(self, x: Tensor, present: Tensor) -> Tensor:
        motifs = F.relu(self.motifs(x)) * present
        wider = F.relu(self.context(motifs)) * present
        mean = wider.sum(2) / present.sum(2).clamp(min=1)
        return torch.cat([motifs.amax(2), wider.amax(2), mean], dim=1)


class PositionNet(nn.Module):
    """Small convolutional net with weights for every position of a fixed length."""

    def __init__(self, outputs: int, length: int) -> None:
        super().__init__()
        self.length = length
        self.first = nn.Conv1d(alphabet.NUM_BASES, 64, 9, padding=4)
        self.second = nn.Conv1d(64, 64, 5, padding=2)
        self.dropout = nn.Dropout(0.4)
        cells = math.ceil(math.ceil(length / 3) / 2)
        self.dense = nn.Linear(64 * cells, 64)
        self.out = nn.Linear(64, outputs)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """(batch, 4, length) one-hot to (batch, outputs)."""
        x = F.pad(x, (0, self.length - x.shape[2]))
        x = F.max_pool1d(F.relu(self.first(x)), 3, ceil_mode=True)
        x = F.max_pool1d(F.relu(self.second(x)), 2, ceil_mode=True)
        x = F.relu(self.dense(self.dropout(x.flatten(1))))
        return self.out(self.dropout(x))


class BaseNet(nn.Module):
    """Small dilated convolutional net with a prediction per base."""

    def __init__(self, outputs: int, length: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(alphabet.NUM_BASES, 48, 9, padding=4)
        self.middle = nn.ModuleList(
            nn.Conv1d(48, 48, 5, padding=2 * dilation, dilation=dilation)
            for dilation in (1, 3, 9)
        )
        self.out = nn.Conv1d(48, outputs, 1)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """(batch, 4, length) one-hot to (batch, length, outputs)."""
        x = F.relu(self.first(x)) * present
        for layer in self.middle:
            x = x + F.relu(layer(x)) * present
        return self.out(x).transpose(1, 2)


class CompactModel:
    """A trained net and how its outputs are read."""

    def __init__(self, name: str, net: nn.Module, card: TaskCard) -> None:
        self.name, self.net, self.card = name, net, card
        self.temperature = 1.0

    def scores(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """(sequences, outputs), or per base an object array of (length, outputs)."""
        return self.card.scores(self.logits(sequences) / self.temperature)

    def logits(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray:
        """Like `scores`, as the net gives them."""
        per_base = self.card.task.kind == "per-base"
        results: list[NDArray] = [np.empty(0)] * len(sequences)
        self.net.eval()
        with torch.inference_mode():
            for rows in length_batches([len(ids) for ids in sequences], _BASES):
                batch = [sequences[row] for row in rows]
                logits = self.net(*one_hot(batch)).numpy()
                for row, value in zip(rows, logits, strict=True):
                    results[row] = value[: len(sequences[row])] if per_base else value
        if not per_base:
            return np.stack(results)
        ragged = np.empty(len(results), object)
        ragged[:] = results
        return ragged


def one_hot(sequences: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
    """(batch, 4, length) float32, N and padding all zeros; and (batch, 1, length)."""
    ids = pad_batch(sequences).input_ids
    hot = F.one_hot(ids, alphabet.VOCAB_SIZE)[..., : alphabet.NUM_BASES]
    present = (ids != alphabet.PAD).unsqueeze(1).float()
    return hot.transpose(1, 2).float(), present


def fit_compact(
    name: str,
    build: Callable[[int, int], nn.Module],
    train: LabelledSet,
    valid: LabelledSet,
    *,
    seed: int = 0,
    augment: bool = False,
) -> CompactModel:
    """Train a net with Adam; the epoch that is best on the development set is kept.

    Parameters
    ----------
    build
        Makes the net from the number of outputs and the longest sequence.
    augment
        Turn half of the sequences to the other strand in each epoch.
    """
    regression = train.task.kind == "regression"
    longest = int(max(train.table.lengths.max(), valid.table.lengths.max()))
    card = TaskCard(
        task=train.task,
        strands="forward",
        max_length=longest,
        means=tuple(train.labels.mean(0).tolist()) if regression else (),
        scales=tuple(train.labels.std(0).tolist()) if regression else (),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CompactModel(name, build(train.task.outputs, longest), card)
        _train(model, train, valid, np.random.default_rng(seed), augment)
    model.temperature = fit_temperature(
        valid.task, valid.labels, model.logits(valid.table.ids)
    )
    return model


def _train(
    model: CompactModel,
    train: LabelledSet,
    valid: LabelledSet,
    generator: np.random.Generator,
    augment: bool,
) -> None:
    optimiser = torch.optim.Adam(model.net.parameters(), lr=_RATE, weight_decay=1e-5)
    best, kept, waited = (-np.inf, -np.inf), copy.deepcopy(model.net.state_dict()), 0
    for _ in range(EPOCHS):
        _epoch(model, train, optimiser, generator, augment)
        found = _judged(model, valid)
        if found > best:
            best, kept, waited = found, copy.deepcopy(model.net.state_dict()), 0
        else:
            waited += 1
        if waited == _PATIENCE:
            break
    model.net.load_state_dict(kept)


def _epoch(
    model: CompactModel,
    train: LabelledSet,
    optimiser: torch.optim.Optimizer,
    generator: np.random.Generator,
    augment: bool,
) -> None:
    model.net.train()
    kind = train.task.kind
    order = generator.permutation(len(train))
    turned = generator.random(len(train)) < (0.5 if augment else 0.0)
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        batch = [
            alphabet.reverse_complement(ids) if turned[row] else ids
            for row, ids in ((row, train.table.ids[row]) for row in rows)
        ]
        labels = _targets(model.card, train.labels[rows], turned[rows])
        loss = task_loss(kind, model.net(*one_hot(batch)), labels, None)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _targets(card: TaskCard, labels: NDArray, turned: NDArray[np.bool_]) -> Tensor:
    if card.task.kind == "per-base":
        padded = np.full((len(labels), max(map(len, labels))), IGNORED, np.int64)
        for row, (values, flip) in enumerate(zip(labels, turned, strict=True)):
            padded[row, : len(values)] = values[::-1] if flip else values
        return torch.from_numpy(padded)
    return torch.from_numpy(_in_units(card, labels))


def _in_units(card: TaskCard, labels: NDArray) -> NDArray:
    """Labels as a net is asked for them: targets of a regression by their spread."""
    if card.task.kind == "regression":
        labels = (labels - np.asarray(card.means)) / np.asarray(card.scales)
    return np.ascontiguousarray(labels)


def _judged(model: CompactModel, valid: LabelledSet) -> tuple[float, float]:
    """What decides on the development set, and among equals: minus the loss."""
    task, labels, logits = valid.task, valid.labels, model.logits(valid.table.ids)
    found = metrics.selecting(task, labels, model.card.scores(logits))
    kind = task.kind
    if kind == "per-base":
        kind, (logits, labels) = "multiclass", metrics.flatten_bases(logits, labels)
    truth = torch.from_numpy(_in_units(model.card, labels))
    loss = task_loss(kind, torch.from_numpy(logits), truth, None)
    return found, -loss.item()
