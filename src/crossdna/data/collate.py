"""From windows to the tensors that pretraining takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from crossdna.data.draws import check_seed
from crossdna.data.masking import MaskingConfig, mask_bases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crossdna.data.windows import Window


@dataclass(frozen=True)
class MaskingCollator:
    """Stack and mask windows of one length; for torch's DataLoader.

    Masks depend on the seed and each window's sample number alone.
    """

    seed: int
    masking: MaskingConfig = field(default_factory=MaskingConfig)

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def __call__(self, windows: Sequence[Window]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Returns
        -------
        batch
            ``input_ids`` and ``labels`` (-100 where nothing is to be predicted), int64,
            ``loss_weights`` (0 there), float32, all (batch, length), and ``samples``
            (batch,) int64, the sample numbers, from which `WindowDataset.locus` tells
            the loci.
        """
        samples = np.array([window.sample for window in windows], np.int64)
        masked = mask_bases(
            np.stack([window.ids for window in windows]),
            samples,
            seed=self.seed,
            config=self.masking,
            weights=np.stack([window.weights for window in windows]),
        )
        return {
            "input_ids": torch.from_numpy(masked.input_ids),
            "labels": torch.from_numpy(masked.labels),
            "loss_weights": torch.from_numpy(masked.weights),
            "samples": torch.from_numpy(samples),
        }
