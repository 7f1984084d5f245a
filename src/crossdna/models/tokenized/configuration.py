"""Configuration of a wrapped network."""

from __future__ import annotations

from typing import Any, Literal

from transformers import AutoConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from crossdna.errors import CrossDNAError
from crossdna.zoo.families import FAMILIES, Family, unknown_family

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
    head_pooling, head_length, head_dropout, head_motifs, head_width, head_standard
        Of our heads; see `crossdna.models.heads`.
    code : str, optional
        Directory or hub id with code for the network that the user lets run; not saved.

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
    head_standard: bool = False
    code: str | None = None

    @property
    def network_type(self) -> str:
        """The network's model_type."""
        return str((self.network or {}).get("model_type"))

    @property
    def family(self) -> Family:
        """The network's entry in the table; a plain one for code of its own."""
        if self.remote_code:
            return unknown_family(self.objective)  # type: ignore[arg-type]
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
        if self.remote_code:
            return self.remote_class("AutoConfig")(**self.network)
        return AutoConfig.for_model(**self.network)

    def remote_class(self, auto: str) -> Any:
        """A class of the checkpoint's own code, by the Auto class it stands for.

        Raises
        ------
        CrossDNAError
            The user has not allowed that code to run, or it has no such class.
        """
        classes = (self.network or {}).get("auto_map", {})
        if self.code is None:
            raise CrossDNAError(
                "this network's code comes with the checkpoint and was not allowed to "
                "run; open it with trust_remote_code (--trust-remote-code)"
            )
        if auto not in classes:
            raise CrossDNAError(f"{self.code}: its code has no class for {auto}")
        return get_class_from_dynamic_module(classes[auto], self.code)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the permission to run code, which is given anew each time."""
        table = super().to_dict()
        table.pop("code", None)
        return table
