"""What a fine-tuning run does: every choice, kept beside the model it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeVar, get_args

from crossdna.errors import CrossDNAError
from crossdna.training.devices import TrainingDevice
from crossdna.training.precision import Precision

NEW: Final = "new:"
RANDOM: Final = "random:"

_NEW_RATE: Final = 2e-3
_FROZEN_RATE: Final = 5e-3

_T = TypeVar("_T")

Method = Literal["full", "head", "lora"]
Pooling = Literal["mean", "max_mean", "attention", "position"]
Head = Literal["auto"] | Pooling
StrandPolicy = Literal["auto", "both", "forward"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneRecipe:
    """Settings of a fine-tuning run.

    Raises
    ------
    CrossDNAError
        A value that makes no sense.
    """

    model: str
    """Directory or name of a checkpoint; ``new:SIZE`` or ``random:CHECKPOINT`` for
    random weights, of a size of ours or of a checkpoint's configuration."""
    method: Method = "full"
    """full: all weights; head: the head only, the network frozen; lora: low-rank
    updates of all linear layers, and the head."""
    head: Head = "auto"
    """How bases are summed up; auto: what is best on the development set in a short
    trial."""
    strands: StrandPolicy = "auto"
    """both: random strand in training, average of both in prediction; forward: neither;
    auto: chosen together with the head."""
    epochs: int | None = None
    """None: 20; 60 with ``method="head"``, whose epochs cost next to nothing."""
    batch_size: int = 32
    """Sequences in a step."""
    lr: float | None = None
    """Peak learning rate; None: 2e-3 for new models, 5e-3 for a head alone, 5e-4 for
    lora, 3e-4 for pretrained weights."""
    head_lr: float | None = None
    """Peak learning rate of the head, which is new in any case; None: `lr` where that
    is given, else 2e-3, and 5e-3 with ``method="head"``."""
    weight_decay: float = 0.01
    """Of matrices; vectors such as biases and norms are left."""
    warmup: float = 0.06
    """Share of the steps with a rising learning rate."""
    clip: float = 1.0
    """Largest norm of a step's gradient."""
    patience: int | None = None
    """Stop after so many epochs without improvement on the development set; None: 5,
    and 15 with ``method="head"``."""
    class_weights: bool = False
    """Weigh classes in the loss by the inverse of how often they occur."""
    dropout: float | None = None
    """Of the network; None: as in the checkpoint, of CrossDNA at least 0.15."""
    head_dropout: float | None = None
    """Of the head; None: 0.3, and 0.1 with ``method="head"``."""
    head_motifs: int | None = None
    """Motif detectors that a head for sequences has on the bases themselves; None: 128,
    and none with ``method="head"``, which asks what the network alone has learned."""
    head_width: int | None = None
    """Width of the dense layer behind the pooling, 0 for none; None: 64, and none with
    ``method="head"``."""
    standard: bool = True
    """Whether the head reads the network's channels in units of their spread over the
    training set before training. Heads of a family's own do not."""
    noise: float | None = None
    """Share of the bases that training shows as N, drawn anew in each epoch: makes
    small training sets last longer. None: 0.05, and none with ``method="head"``, whose
    network is asked once for each sequence instead of once in each epoch."""
    lora_rank: int = 8
    """Rank of the updates with ``method="lora"``."""
    precision: Precision = "float32"
    """``auto``: bf16 where the device gains by it, else float32."""
    max_length: int = 65536
    """A longer training sequence is an error."""
    seeds: tuple[int, ...] = (0,)
    """One model for each."""
    trials: int = 0
    """Rounds of a search for learning rate, weight decay, dropout and batch size."""
    trial_share: float = 0.25
    """Share of the epochs that trials of heads and of the search get."""
    device: TrainingDevice = "auto"
    """Auto: a GPU where there is one."""
    trust_remote_code: bool = False
    """Run code that comes with the checkpoint."""

    def __post_init__(self) -> None:
        if self.device not in get_args(TrainingDevice):
            known = ", ".join(get_args(TrainingDevice))
            raise CrossDNAError(f"device {self.device!r} is not one of {known}")
        for name in ("head_motifs", "head_width", "trials"):
            if (getattr(self, name) or 0) < 0:
                raise CrossDNAError(
                    f"{name} must not be negative, got {getattr(self, name)}"
                )
        for name in ("epochs", "batch_size", "patience", "lora_rank", "max_length"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        for name in ("warmup", "dropout", "head_dropout", "noise"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise CrossDNAError(f"{name} must lie in [0, 1)")
        if not 0 < self.trial_share <= 1:
            raise CrossDNAError("trial_share must lie in (0, 1]")
        for name in ("lr", "head_lr"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise CrossDNAError(
                    f"{name} must be positive, got {getattr(self, name)}"
                )
        if any(not 0 <= seed < 2**32 for seed in self.seeds):
            raise CrossDNAError(f"seeds are from 0 to 2**32 - 1, got {self.seeds}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise CrossDNAError(
                f"seeds {self.seeds} must be distinct, and at least one"
            )

    @property
    def is_new(self) -> bool:
        """Whether the network starts from random weights."""
        return self.model.startswith((NEW, RANDOM))

    @property
    def frozen(self) -> bool:
        """Whether nothing but the head is trained."""
        return self.method == "head"

    def _or(self, given: _T | None, usual: _T, head_alone: _T) -> _T:
        """What was given, or the default, which differs when the head trains alone."""
        if given is not None:
            return given
        return head_alone if self.frozen else usual

    @property
    def most_epochs(self) -> int:
        """Epochs unless training stops before."""
        return self._or(self.epochs, 20, 60)

    @property
    def waits(self) -> int:
        """Epochs without improvement after which training stops."""
        return self._or(self.patience, 5, 15)

    @property
    def learning_rate(self) -> float:
        """The rate that was given, or the default of the method."""
        if self.lr is not None:
            return self.lr
        if self.frozen:
            return _FROZEN_RATE
        if self.is_new:
            return _NEW_RATE
        return 5e-4 if self.method == "lora" else 3e-4

    @property
    def head_learning_rate(self) -> float:
        """The rate of the head's weights."""
        given = self.lr if self.head_lr is None else self.head_lr
        return self._or(given, _NEW_RATE, _FROZEN_RATE)

    @property
    def dropped(self) -> float:
        """Dropout of the head."""
        return self._or(self.head_dropout, 0.3, 0.1)

    @property
    def dense_width(self) -> int:
        """Width of the head's dense layer."""
        return self._or(self.head_width, 64, 0)

    @property
    def motifs(self) -> int:
        """Motif detectors of the head."""
        return self._or(self.head_motifs, 128, 0)

    @property
    def hidden_share(self) -> float:
        """Share of the bases that training shows as N."""
        return self._or(self.noise, 0.05, 0.0)

    def settled(self) -> dict[str, int | float]:
        """The values that were used where none was given, by the fields' names."""
        return {
            "epochs": self.most_epochs,
            "patience": self.waits,
            "lr": self.learning_rate,
            "head_lr": self.head_learning_rate,
            "head_dropout": self.dropped,
            "head_width": self.dense_width,
            "head_motifs": self.motifs,
            "noise": self.hidden_share,
        }

    @property
    def trial_epochs(self) -> int:
        """Epochs of a short trial."""
        return max(1, round(self.most_epochs * self.trial_share))
