"""How a genome is read for tracks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossdna import alphabet
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from crossdna.alphabet import Strand


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackSettings:
    """How a genome is read."""

    mask_spacing: int = 8
    """Every base is predicted while it and every so-manieth other is hidden, in as many
    passes; 0 hides nothing and takes one pass."""
    window: int = 1024
    """Bases in a window, for a head and for models that are not streamed."""
    step: int = 128
    """Bases from one window of a head to the next."""
    piece: int = 65536
    """Bases read at once from a stream; changes memory, not results."""
    strand: Strand = "+"
    """What the model reads; of both the predictions are averaged."""
    batch_size: int = 16
    """Windows per forward pass."""
    bin: int = 0
    """Bases whose representations are averaged; 0 for tracks of predictions."""
    components: int = 3
    """Principal components of the bins that become tracks."""

    def __post_init__(self) -> None:
        alphabet.require_strand(self.strand)
        for name in ("window", "step", "piece", "batch_size"):
            if getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.bin < 0 or self.components < 1:
            raise CrossDNAError(
                f"a bin has at least 1 base and there is at least 1 component, got "
                f"{self.bin} and {self.components}"
            )
        if self.mask_spacing < 0 or self.mask_spacing == 1:
            raise CrossDNAError(
                f"mask_spacing must be 0 or at least 2, got {self.mask_spacing}"
            )
