"""Heads on a per-base representation: one prediction per sequence or per base.

How a sequence head sums up the bases is the configuration's `head_pooling`:

``mean``
    Mean over the bases.
``max_mean``
    Maximum and mean side by side: a motif counts wherever it stands.
``attention``
    Learned weights over the bases, several sets of them.
``position``
    A small convolution, then a layer with weights of its own for every position. For
    windows of one length that are anchored (at a transcription start, a splice site);
    needs `head_length`, the number of bases in a window.

With `head_motifs` the head also sees the bases themselves, through so many convolution
filters (motif detectors) and half as many that look at those. Filters learn a motif in
few steps, which a network that has never seen DNA takes epochs for. With ``position``
they read the strand that is given, base by base beside the representation; else both
strands, so that a motif counts alike on either. With `head_width` a dense layer of that
width stands between what was pooled and the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossdna import alphabet
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ATTENTION_SETS = 4
MOTIF_KERNEL = 13
MOTIF_CONTEXT_KERNEL = 7
POSITION_CHANNELS = 32
POSITION_KERNEL = 5
POSITION_POOL = 4
POSITION_WIDTH = 64


def pool_mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the bases of (batch, length, channels)."""
    if mask is None:
        return hidden.mean(dim=1)
    weights = (mask != 0).unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)


def pool_max(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Maximum over the bases of (batch, length, channels)."""
    if mask is not None:
        lowest = torch.finfo(hidden.dtype).min
        hidden = hidden.masked_fill((mask == 0).unsqueeze(-1), lowest)
    return hidden.amax(dim=1)


class MeanPooling(nn.Module):
    """Mean over the bases."""

    def __init__(self, config: Any, channels: int) -> None:
        super().__init__()
        self.width = channels

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, length, channels) to (batch, channels)."""
        return pool_mean(hidden, mask)


class MaxMeanPooling(nn.Module):
    """Maximum and mean over the bases."""

    def __init__(self, config: Any, channels: int) -> None:
        super().__init__()
        self.width = 2 * channels

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, length, channels) to (batch, 2 * channels)."""
        return torch.cat([pool_max(hidden, mask), pool_mean(hidden, mask)], dim=-1)


class AttentionPooling(nn.Module):
    """Means under learned weights."""

    def __init__(self, config: Any, channels: int) -> None:
        super().__init__()
        self.width = ATTENTION_SETS * channels
        self.score = nn.Linear(channels, ATTENTION_SETS)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, length, channels) to (batch, sets * channels)."""
        scores = self.score(hidden).float()
        if mask is not None:
            scores = scores.masked_fill((mask == 0).unsqueeze(-1), float("-inf"))
        weights = scores.softmax(dim=1).to(hidden.dtype)
        return torch.einsum("bls,blc->bsc", weights, hidden).flatten(1)


class PositionPooling(nn.Module):
    """Weights for every position of windows of one length; zeros end shorter ones."""

    def __init__(self, config: Any, channels: int) -> None:
        super().__init__()
        if not config.head_length:
            raise CrossDNAError(
                "head_pooling 'position' needs head_length, the bases in a window"
            )
        self.length = config.head_length
        self.width = POSITION_WIDTH
        self.conv = nn.Conv1d(
            channels,
            POSITION_CHANNELS,
            POSITION_KERNEL,
            padding=POSITION_KERNEL // 2,
        )
        self.dropout = nn.Dropout(config.head_dropout)
        cells = -(-self.length // POSITION_POOL)
        self.dense = nn.Linear(POSITION_CHANNELS * cells, POSITION_WIDTH)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, length, channels) to (batch, width)."""
        x = _left_aligned(hidden, mask)
        if x.shape[1] > self.length:
            _refuse_longer(x.shape[1], mask, self.length)
            x = x[:, : self.length]
        x = F.pad(x, (0, 0, 0, self.length - x.shape[1])).transpose(1, 2)
        x = F.max_pool1d(F.gelu(self.conv(x)), POSITION_POOL, ceil_mode=True)
        return F.gelu(self.dense(self.dropout(x.flatten(1))))


def _left_aligned(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Each row from its first base on, zeros behind its last."""
    if mask is None:
        return hidden
    present = mask != 0
    shift = present.int().argmax(dim=1, keepdim=True)
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    index = ((positions + shift) % hidden.shape[1]).unsqueeze(-1)
    hidden = hidden * present.unsqueeze(-1).to(hidden.dtype)
    return hidden.gather(1, index.expand(-1, -1, hidden.shape[-1]))


def _refuse_longer(length: int, mask: Tensor | None, limit: int) -> None:
    # On a GPU the mask is not asked, since everything would wait for the answer.
    if mask is not None and mask.device.type == "cpu":
        length = int((mask != 0).sum(1).max())
    if mask is None or (mask.device.type == "cpu" and length > limit):
        raise CrossDNAError(
            f"a sequence of {length} bases, but this head has weights for {limit}"
        )


POOLINGS: dict[str, Callable[[Any, int], nn.Module]] = {
    "mean": MeanPooling,
    "max_mean": MaxMeanPooling,
    "attention": AttentionPooling,
    "position": PositionPooling,
}


class Standard(nn.Module):
    """Channels less their mean, in units of their standard deviation.

    Both are measured before training and stay; until then nothing is changed.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def reset_parameters(self) -> None:
        """Change nothing again."""
        self.mean.zero_()
        self.scale.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., channels) to the same shape."""
        return (x - self.mean.to(x.dtype)) * self.scale.to(x.dtype)

    def measure(self, rows: Iterable[Tensor]) -> None:
        """Learn mean and spread of all rows, each (rows, channels), float64 inside.

        A channel that never changes is left at its own scale.
        """
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for part in rows:
            values = part.double()
            count += len(values)
            total = total + values.sum(0)
            squares = squares + values.square().sum(0)
        mean = total / count
        spread = (squares / count - mean.square()).clamp(min=0).sqrt()
        steady = spread <= 1e-6 * mean.abs() + 1e-12
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(steady, torch.ones_like(spread), 1 / spread))


def one_hot_bases(bases: Tensor) -> Tensor:
    """Ids (batch, length) of `crossdna.alphabet` to (batch, 4, length), 0 but at ACGT.

    What is one-hot already, and may carry gradients, is given back as it is.
    """
    if bases.dim() == 3:
        return bases
    letters = torch.arange(alphabet.NUM_BASES, device=bases.device)
    return (bases.unsqueeze(1) == letters[:, None]).float()


class MotifDetectors(nn.Module):
    """Convolutions on the bases: filters for motifs, and filters on their answers."""

    def __init__(self, motifs: int) -> None:
        super().__init__()
        self.width = motifs + motifs // 2
        self.motifs = nn.Conv1d(
            alphabet.NUM_BASES, motifs, MOTIF_KERNEL, padding=MOTIF_KERNEL // 2
        )
        self.context = nn.Conv1d(
            motifs,
            motifs // 2,
            MOTIF_CONTEXT_KERNEL,
            padding=MOTIF_CONTEXT_KERNEL // 2,
        )

    def forward(self, bases: Tensor, mask: Tensor | None) -> Tensor:
        """Ids (batch, length) or one-hot to (batch, length, width)."""
        hot = one_hot_bases(bases).to(self.motifs.weight.dtype)
        # Beyond the ends of a sequence there is nothing, in a batch as alone.
        present = None if mask is None else (mask != 0).unsqueeze(1).to(hot.dtype)
        hot = hot if present is None else hot * present
        found = F.relu(self.motifs(hot))
        # Autocast gives narrower answers than its inputs, and so they stay.
        found = found if present is None else found * present.to(found.dtype)
        wider = F.relu(self.context(found))
        return torch.cat([found, wider], dim=1).transpose(1, 2)


class StrandMotifs(nn.Module):
    """Maximum and mean of motif detectors, on the strand that has more of each."""

    def __init__(self, motifs: int) -> None:
        super().__init__()
        self.detectors = MotifDetectors(motifs)
        self.width = 2 * self.detectors.width

    def forward(self, bases: Tensor, mask: Tensor | None) -> Tensor:
        """Ids (batch, length) or one-hot to (batch, width), alike for both strands."""
        hot = one_hot_bases(bases)
        return torch.maximum(
            self._pooled(hot, mask),
            # The complement of A C G T is the order of the channels turned round.
            self._pooled(hot.flip(1, 2), None if mask is None else mask.flip(1)),
        )

    def _pooled(self, hot: Tensor, mask: Tensor | None) -> Tensor:
        found = self.detectors(hot, mask)
        return torch.cat([pool_max(found, mask), pool_mean(found, mask)], dim=-1)


def _as_narrow(hidden: Tensor, weight: Tensor) -> Tensor:
    """Round to a narrower head's dtype: some networks sum in float32 all the same."""
    return hidden if weight.dtype == torch.float32 else hidden.to(weight.dtype)


class SequenceHead(nn.Module):
    """Pool over the bases, then one or two dense layers.

    Raises
    ------
    CrossDNAError
        A `head_pooling` that does not exist, or one that lacks its `head_length`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        if config.head_pooling not in POOLINGS:
            raise CrossDNAError(
                f"head_pooling {config.head_pooling!r} is not one of "
                f"{', '.join(POOLINGS)}"
            )
        channels, beside = config.hidden_size, 0
        self.base_motifs: MotifDetectors | None = None
        self.strand_motifs: StrandMotifs | None = None
        # Families whose ids are not bases have no such field.
        motifs = getattr(config, "head_motifs", 0)
        if motifs and config.head_pooling == "position":
            self.base_motifs = MotifDetectors(motifs)
            channels += self.base_motifs.width
        elif motifs:
            self.strand_motifs = StrandMotifs(motifs)
            beside = self.strand_motifs.width
        self.pooling = POOLINGS[config.head_pooling](config, channels)
        # Without weights of its own a pooling gives what can be measured at once.
        self.measures_pooled = not any(True for _ in self.pooling.parameters())
        self.standard: Standard | None = None
        if getattr(config, "head_standard", False):
            pooled = int(self.pooling.width)  # type: ignore[arg-type]
            self.standard = Standard(
                pooled if self.measures_pooled else config.hidden_size
            )
        self.dropout = nn.Dropout(config.head_dropout)
        width = int(self.pooling.width) + beside  # type: ignore[arg-type]
        self.dense: nn.Linear | None = None
        if getattr(config, "head_width", 0):
            self.dense = nn.Linear(width, config.head_width)
            width = config.head_width
        self.linear = nn.Linear(width, config.num_labels)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        bases: Tensor | None = None,
    ) -> Tensor:
        """(batch, length, channels) to logits (batch, num_labels).

        Parameters
        ----------
        bases : (batch, length) int64, or one-hot (batch, 4, length)
            What a head with motif detectors reads beside `hidden`.
        """
        found = None if bases is None else self.read_bases(bases, attention_mask)
        return self.answer(hidden, found, attention_mask)

    def read_bases(self, bases: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """What the motif detectors find, if there are any.

        (batch, length, width) with ``position``, else (batch, width).
        """
        detectors = self.base_motifs or self.strand_motifs
        return None if detectors is None else detectors(bases, mask)

    def answer(
        self, hidden: Tensor, found: Tensor | None, mask: Tensor | None = None
    ) -> Tensor:
        """Logits (batch, num_labels) of `hidden` and what `read_bases` gave."""
        hidden = _as_narrow(hidden, self.linear.weight)
        if self.standard is not None and not self.measures_pooled:
            hidden = self.standard(hidden)
        if self.base_motifs is not None:
            assert found is not None
            hidden = torch.cat([hidden, found.to(hidden.dtype)], dim=-1)
        pooled = self.pooling(hidden, mask)
        if self.standard is not None and self.measures_pooled:
            pooled = self.standard(pooled)
        if self.strand_motifs is not None:
            assert found is not None
            pooled = torch.cat([pooled, found.to(pooled.dtype)], dim=-1)
        pooled = self.dropout(pooled)
        if self.dense is not None:
            pooled = self.dropout(F.relu(self.dense(pooled)))
        return self.linear(pooled)

    def measured(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """What `standard` sees of a batch, (rows, channels)."""
        if self.measures_pooled:
            return self.pooling(hidden, mask)
        return present_bases(hidden, mask)


def present_bases(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """(batch, length, channels) to (bases, channels), without padding."""
    return hidden.flatten(0, 1) if mask is None else hidden[mask != 0]


class TokenHead(nn.Module):
    """A linear layer on each base."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.standard: Standard | None = None
        if getattr(config, "head_standard", False):
            self.standard = Standard(config.hidden_size)
        self.dropout = nn.Dropout(config.head_dropout)
        self.linear = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, length, channels) to logits (batch, length, num_labels)."""
        hidden = _as_narrow(hidden, self.linear.weight)
        if self.standard is not None:
            hidden = self.standard(hidden)
        return self.linear(self.dropout(hidden))

    def measured(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """What `standard` sees of a batch, (bases, channels)."""
        return present_bases(hidden, mask)


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the positions whose label is not -100, in float32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def sequence_loss(config: Any, logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Loss by ``config.problem_type``, which is inferred once as transformers does.

    Raises
    ------
    CrossDNAError
        A `problem_type` that does not exist.
    """
    if labels is None:
        return None
    if config.problem_type is None:
        if config.num_labels == 1:
            config.problem_type = "regression"
        elif labels.dtype in (torch.long, torch.int):
            config.problem_type = "single_label_classification"
        else:
            config.problem_type = "multi_label_classification"
    logits = logits.float()
    if config.problem_type == "regression":
        return F.mse_loss(logits, labels.float().view_as(logits))
    if config.problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels.view(-1))
    if config.problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.float())
    raise CrossDNAError(
        f"problem_type {config.problem_type!r} is not one of regression, "
        "single_label_classification, multi_label_classification"
    )
