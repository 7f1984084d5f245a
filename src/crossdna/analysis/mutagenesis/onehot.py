"""One-hot in, scores out: a model as attribution tools want it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossdna import alphabet
from crossdna.analysis.heads import read_head
from crossdna.analysis.inference import choose_strand, sequence_logits
from crossdna.analysis.variants.readings import window_likelihoods
from crossdna.analysis.variants.score import ScoreSettings
from crossdna.data.variants import Window
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import CrossDNAModel, StrandContext
from crossdna.models.crossdna.modeling import STEM_REACH
from crossdna.models.crossdna.padding import Alignment
from crossdna.models.crossdna.streams import TwoStrandPass
from crossdna.models.record import has_head

if TYPE_CHECKING:
    from crossdna.alphabet import Strand
    from crossdna.models.crossdna import CrossDNAConfig


class OneHotModel(nn.Module):
    """A model that takes one-hot sequences (batch, 4, length) in the order A C G T.

    A column of zeros is N. Models with a sequence head give what they say of their
    labels (batch, labels), see `crossdna.analysis.heads.Head`: of two classes the
    log-odds of the second; masked models the pseudo-log-likelihood (batch, 1), causal
    ones the log-likelihood, see
    `crossdna.analysis.variants.readings.window_likelihoods`.

    Where the input asks for gradients, a CrossDNA with a sequence head is read so that
    they reach it, the input then counting as numbers and not as letters.

    Parameters
    ----------
    model
        See `crossdna.analysis.inference.load_model`.
    strand
        What the model reads; None: both, or the one that its head was trained on.
    mask_spacing
        For masked models, see `ScoreSettings`.
    """

    def __init__(
        self,
        model: Any,
        *,
        strand: Strand | None = None,
        mask_spacing: int = 8,
    ) -> None:
        super().__init__()
        self.model = model.eval()
        self.head = read_head(model)
        self.strand = choose_strand(model, strand)
        self.mask_spacing = mask_spacing

    def forward(self, x: Tensor) -> Tensor:
        """Score sequences.

        Parameters
        ----------
        x : (batch, 4, length)

        Raises
        ------
        CrossDNAError
            Another shape, numbers other than 0 and 1 where no gradient is wanted, or
            gradients of a model that has none to give.
        """
        if x.dim() != 3 or x.shape[1] != alphabet.NUM_BASES:
            raise CrossDNAError(f"one-hot is (batch, 4, length), got {tuple(x.shape)}")
        if x.requires_grad and torch.is_grad_enabled():
            return self._differentiable(x)
        ids = one_hot_to_ids(x)
        if has_head(self.model):
            logits = sequence_logits(self.model, ids, strand=self.strand)
            return self.head.outputs(logits.clone())
        settings = ScoreSettings(
            scores=("pll",), mask_spacing=self.mask_spacing, strand=self.strand
        )
        rows = ids.cpu().numpy().astype(np.uint8)
        windows = [Window(row, np.arange(len(row))) for row in rows]
        sums = window_likelihoods(self.model, windows, settings)
        return torch.from_numpy(sums).to(x.device, torch.float32)[:, None]

    def _differentiable(self, x: Tensor) -> Tensor:
        network = self.model.base_model
        single = (
            network.config.strand_alignment == "locus"
            if isinstance(network, CrossDNAModel)
            else False
        )
        if not has_head(self.model) or not single:
            raise CrossDNAError(
                "gradients reach the one-hot input of a CrossDNA with a sequence head "
                'and strand_alignment "locus" only; other models can be asked without '
                "gradients (in-silico mutagenesis)"
            )
        logits = alphabet.of_strand(
            self.strand,
            lambda: self._soft_logits(network, x),
            lambda: self._soft_logits(network, x.flip(1, 2)),
        )
        return self.head.outputs(logits)

    def _soft_logits(self, network: CrossDNAModel, x: Tensor) -> Tensor:
        return self.model.head(_read_soft(network, x), bases=x)


def one_hot_to_ids(x: Tensor) -> Tensor:
    """Turn (batch, 4, length) into ids (batch, length); zeros are N.

    Raises
    ------
    CrossDNAError
        A column that is neither a base nor zeros.
    """
    sums = x.sum(1)
    binary = ((x == 0) | (x == 1)).all()
    if not bool(binary & (sums <= 1).all()):
        raise CrossDNAError(
            "a one-hot column has a single 1 (a base) or none (N), and else zeros"
        )
    return x.argmax(1).where(sums > 0, alphabet.N)


def _read_soft(network: CrossDNAModel, x: Tensor) -> Tensor:
    """Representation (batch, length, d_model) that is differentiable in the one-hot."""
    ids = torch.zeros(x.shape[0], x.shape[2], dtype=torch.long, device=x.device)
    soft: Any = _SoftStems(network, x)
    reading = TwoStrandPass(soft, Alignment(ids), StrandContext(), want_layers=False)
    return reading.fused_fields(("hidden",))["hidden"]


class _SoftStems:
    """A network whose stems read a one-hot instead of ids."""

    def __init__(self, network: CrossDNAModel, x: Tensor) -> None:
        self.config: CrossDNAConfig = network.config
        self.branch_a, self.branch_b = network.branch_a, network.branch_b
        self.dropout, self.fuse = network.dropout, network.fuse
        self._network, self._x = network, x

    def features_forward(self, ids: Tensor, left: None, right: None) -> Tensor:
        stem = self._network.stem_forward
        return self._stem(self._x, stem.weight, stem)

    def features_reverse(self, ids: Tensor, left: None, right: None) -> Tensor:
        stem = self._network.stem_reverse
        # The complement of A C G T is the order of the channels turned round.
        return self._stem(self._x.flip(1), stem.weight.flip(-1), stem)

    def _stem(self, x: Tensor, weight: Tensor, stem: nn.Conv1d) -> Tensor:
        unknown = 1 - x.sum(1, keepdim=True)
        rest = x.new_zeros(x.shape[0], weight.shape[1] - alphabet.N - 1, x.shape[2])
        channels = torch.cat([x, unknown, rest], dim=1).to(weight.dtype)
        y = F.gelu(F.conv1d(channels, weight, stem.bias, padding=STEM_REACH))
        return y.transpose(1, 2)
