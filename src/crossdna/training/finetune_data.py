"""Batches of labelled sequences: bucketed by length, strands drawn per epoch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from crossdna import alphabet
from crossdna.data.labelled import IGNORED
from crossdna.models.batched import pad_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from crossdna.data.labelled import LabelledSet

_BUCKET_BATCHES = 50
"""Rows of so many batches are shuffled, then sorted by length among themselves."""


class TargetScale(NamedTuple):
    """Mean and standard deviation of regression targets in the training set."""

    means: NDArray[np.float64]
    scales: NDArray[np.float64]


def target_scale(train: LabelledSet) -> TargetScale:
    """Measure; nothing for other kinds of task."""
    if train.task.kind != "regression":
        return TargetScale(np.zeros(0), np.ones(0))
    return TargetScale(train.labels.mean(0), train.labels.std(0))


class Sample(NamedTuple):
    """One row: ids (length,) and its label as training wants it."""

    ids: NDArray[np.uint8]
    label: NDArray | np.int64


class TrainingRows(Dataset):
    """Rows of a labelled set, with `both_strands` each on a strand that is drawn.

    With `noise`, that share of the bases reads N. What is turned and hidden depends on
    seed, epoch and row only, so that a resumed run sees what an uninterrupted one does.
    """

    def __init__(
        self,
        data: LabelledSet,
        scale: TargetScale,
        *,
        both_strands: bool,
        seed: int,
        noise: float = 0.0,
    ) -> None:
        self.data, self.scale = data, scale
        self.both_strands, self.seed, self.noise = both_strands, seed, noise
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the strands of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        turned = generator.random(len(self.data)) < 0.5
        self.turned = turned & self.both_strands
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> Sample:
        ids, label = self.data.table.ids[row], self.data.labels[row]
        if self.data.task.kind == "regression":
            label = (label - self.scale.means) / self.scale.scales
        if self.turned[row]:
            ids = alphabet.reverse_complement(ids)
            if self.data.task.kind == "per-base":
                label = label[::-1]
        if self.noise:
            generator = np.random.default_rng([self.seed, self.epoch, row])
            hidden = generator.random(len(ids)) < self.noise
            ids = np.where(hidden, np.uint8(alphabet.N), ids)
        return Sample(ids, label)


class BucketSampler(Sampler[list[int]]):
    """Shuffled batches of rows with similar lengths; the epoch decides the order."""

    def __init__(self, lengths: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch, 1])
        order = generator.permutation(len(self.lengths))
        span = self.batch_size * _BUCKET_BATCHES
        if np.ptp(self.lengths):
            parts = [order[i : i + span] for i in range(0, len(order), span)]
            order = np.concatenate(
                [p[np.argsort(self.lengths[p], kind="stable")] for p in parts]
            )
        starts = np.arange(0, len(order), self.batch_size)
        for start in generator.permutation(starts):
            yield order[start : start + self.batch_size].tolist()


def collate(samples: Sequence[Sample], *, per_base: bool) -> dict[str, Tensor]:
    """Put samples into a batch: input_ids, attention_mask where needed, and labels."""
    batch = pad_batch([sample.ids for sample in samples])
    inputs = {"input_ids": batch.input_ids}
    if batch.attention_mask is not None:
        inputs["attention_mask"] = batch.attention_mask
    if per_base:
        labels = np.full(batch.input_ids.shape, IGNORED, np.int64)
        for row, sample in zip(labels, samples, strict=True):
            row[: len(sample.ids)] = sample.label
        inputs["labels"] = torch.from_numpy(labels)
    else:
        stacked = np.stack([np.asarray(sample.label) for sample in samples])
        dtype = torch.int64 if stacked.dtype.kind == "i" else torch.float32
        inputs["labels"] = torch.from_numpy(stacked).to(dtype)
    return inputs


class EpochLoader(DataLoader):
    """Batches of an epoch; transformers' Trainer says which epoch it is."""

    def __init__(self, rows: TrainingRows, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.order = BucketSampler(rows.data.table.lengths, batch_size, seed)
        per_base = rows.data.task.kind == "per-base"
        super().__init__(
            rows,
            batch_sampler=self.order,
            collate_fn=functools.partial(collate, per_base=per_base),
        )

    def set_epoch(self, epoch: int) -> None:
        """Draw order and strands anew."""
        self.order.epoch = epoch
        self.rows.set_epoch(epoch)


def class_weights(train: LabelledSet) -> Tensor:
    """Weights that give every class the same share of the loss, 1 on average.

    For several labels: how much more a positive weighs than a negative.
    """
    labels, outputs = train.labels, train.task.outputs
    if train.task.kind == "multilabel":
        positives = np.maximum(labels.sum(0), 1)
        return torch.from_numpy((len(labels) - positives) / positives).float()
    flat = np.concatenate(labels) if train.task.kind == "per-base" else labels
    counts = np.bincount(flat[flat != IGNORED], minlength=outputs)
    weights = counts.sum() / (outputs * np.maximum(counts, 1))
    return torch.from_numpy(weights).float()
