"""Configuration of a wrapped network."""

from __future__ import annotations

from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig

from crossdna.errors import CrossDNAError
from crossdna.models.families import FAMILIES, Family

Part = Literal["base", "language", "sequence", "token"]


class TokenizedConfig(PreTrainedConfig):
    """A network of transformers that reads tokens, asked about bases.

    Parameters
    ----------
    network : dict
        The configuration of the network, as in its own config.json.
    part : str
        Which class of its family the network is: the bare one, or with its own head
        for language, sequences or tokens.
    objective : str
        "masked" or "causal".
    head_pooling, head_length, head_dropout, head_motifs, head_width
        Of our heads; see `crossdna.models.heads`.

    Raises
    ------
    CrossDNAError
        A family that is not in the table and has no code of its own.
    """

    model_type = "tokenized_dna"

    network: dict[str, Any] | None = None
    part: str = "base"
    objective: str = "masked"
    head_pooling: str = "mean"
    head_length: int | None = None
    head_dropout: float = 0.0
    head_motifs: int = 0
    head_width: int = 0

    @property
    def network_type(self) -> str:
        """The network's model_type."""
        return str((self.network or {}).get("model_type"))

    @property
    def family(self) -> Family:
        """The network's entry in the table; a plain one for code of its own."""
        if self.remote_code:
            return Family(objective=self.objective)  # type: ignore[arg-type]
        if self.network_type not in FAMILIES:
            raise CrossDNAError(
                f"networks of type {self.network_type!r} are not wrapped; there are "
                f"{', '.join(FAMILIES)}"
            )
        return FAMILIES[self.network_type]

    @property
    def remote_code(self) -> bool:
        """Whether the network's code comes with the checkpoint."""
        return "auto_map" in (self.network or {})

    @property
    def hidden_size(self) -> int:
        """Channels of the network's hidden states."""
        plain = (self.network or {}).get("hidden_size")
        return int(plain or self.network_config().hidden_size)

    def network_config(self) -> Any:
        """The network's configuration as its own class."""
        assert self.network is not None
        return AutoConfig.for_model(**self.network)
