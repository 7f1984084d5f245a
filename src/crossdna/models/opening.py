"""Opening a checkpoint for a task: which class, which weights, which tokenizer.

What opens a checkpoint is decided by the model_type in its config.json and the table in
`crossdna.zoo.families`, never by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
)

from crossdna.errors import CrossDNAError
from crossdna.models.loading import warn_of_new
from crossdna.models.tokenized import (
    OwnHeadForSequenceClassification,
    TokenizedConfig,
    TokenizedForCausalLM,
    TokenizedForMaskedLM,
    TokenizedForSequenceClassification,
    TokenizedForTokenClassification,
    TokenizedModel,
)
from crossdna.models.tokenized.checkpoints import load_network
from crossdna.models.vocabulary import speak_alphabet
from crossdna.models.weight_files import quietly
from crossdna.tokenizers.loading import load_network_tokenizer, load_tokenizer
from crossdna.zoo.families import FAMILIES, NATIVE, Objective, needed_code
from crossdna.zoo.shipped import resolve

Task = Literal["masked-lm", "causal-lm", "classification", "per-base", "embedding"]

_CLASSES: Final[dict[str, Any]] = {
    "masked-lm": AutoModelForMaskedLM,
    "causal-lm": AutoModelForCausalLM,
    "classification": AutoModelForSequenceClassification,
    "per-base": AutoModelForTokenClassification,
    "embedding": AutoModel,
}
_WRAPPERS: Final[dict[str, Any]] = {
    "masked-lm": TokenizedForMaskedLM,
    "causal-lm": TokenizedForCausalLM,
    "classification": TokenizedForSequenceClassification,
    "per-base": TokenizedForTokenClassification,
    "embedding": TokenizedModel,
}
_HEADS: Final = ("classification", "per-base")
_ENDINGS: Final[dict[str, Task]] = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "per-base",
    "ForMaskedLM": "masked-lm",
    "ForCausalLM": "causal-lm",
}


class Opened:
    """A checkpoint's configuration, read and found to be one that can be opened.

    Parameters
    ----------
    name
        Directory, name of shipped weights, or hub id.
    trust_remote_code
        Let code that comes with the checkpoint run.

    Attributes
    ----------
    name : str
    config
        Of our own families, their configuration; of others a `TokenizedConfig`. What a
        head needs may be set in it before `model` is called.
    wrapped : bool
        Whether the checkpoint is one of transformers' families as they are published,
        which `model` wraps.

    Raises
    ------
    CrossDNAError
        No such directory, no checkpoint in it, or a family that cannot be opened.
    """

    def __init__(self, name: str | Path, *, trust_remote_code: bool = False) -> None:
        self.name = resolve(name)
        self.trust_remote_code = trust_remote_code
        require_directory(self.name)
        try:
            raw, _ = PretrainedConfig.get_config_dict(self.name)
        except (OSError, ValueError) as error:
            raise CrossDNAError(f"{name}: {str(error).splitlines()[0]}") from error
        model_type = raw.get("model_type")
        own = model_type in (*NATIVE, TokenizedConfig.model_type)
        self.wrapped = not own
        # Our own families read official files with code beside them without that code.
        network = raw if self.wrapped else _network_of(raw)
        code = needed_code(network)
        if code:
            self._require_trust(network)
        elif self.wrapped:
            raw.pop("auto_map", None)
        if own:
            self._plain()
        else:
            self._wrap(raw)
        if code:
            self.config.code = self.name

    def _require_trust(self, raw: dict[str, Any]) -> None:
        if self.trust_remote_code:
            return
        files = ", ".join(sorted(map(str, raw["auto_map"].values())))
        raise CrossDNAError(
            f"{self.name}: a model of type {raw.get('model_type')!r} that brings code "
            f"of its own ({files}); nothing here reads its weights without it. Running "
            "it means running a program of the checkpoint's authors with all your "
            "rights: it can read, change and send your files. Look at it first; if you "
            "trust it, give --trust-remote-code"
        )

    def _plain(self) -> None:
        try:
            self.config: Any = AutoConfig.from_pretrained(self.name)
        except CrossDNAError:
            raise
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CrossDNAError(f"{self.name}: {reason}") from error

    def _wrap(self, raw: dict[str, Any]) -> None:
        model_type, code = raw.get("model_type"), raw.get("auto_map")
        if not code and model_type not in FAMILIES:
            known = ", ".join(sorted((*NATIVE, *FAMILIES)))
            raise CrossDNAError(
                f"{self.name}: no family of models of type {model_type!r} is known; "
                f"there are {known}"
            )
        objective: Objective
        if code:
            masked = "AutoModelForMaskedLM" in code
            causal = "AutoModelForCausalLM" in code
            objective = "causal" if causal and not masked else "masked"
        else:
            objective = FAMILIES[str(model_type)].objective
            raw = {**raw, **FAMILIES[str(model_type)].settings}
        self.config = TokenizedConfig(network=raw, objective=objective)
        self.config.architectures = raw.get("architectures")

    @property
    def objective(self) -> Objective:
        """What the network was pretrained for."""
        if isinstance(self.config, TokenizedConfig):
            return self.config.objective  # type: ignore[return-value]
        return NATIVE[self.config.model_type]

    @property
    def task(self) -> Task:
        """What the checkpoint was saved for."""
        for name in self.config.architectures or ():
            for ending, task in _ENDINGS.items():
                if name.endswith(ending):
                    return task
            if name.endswith("Model") and not name.endswith("LMHeadModel"):
                return "embedding"
        return "causal-lm" if self.objective == "causal" else "masked-lm"

    @property
    def whole(self) -> Task:
        """The task that takes in all that was saved.

        The bare network where the checkpoint does not say what it was saved for.
        """
        return self.task if self.config.architectures else "embedding"

    def model(self, task: Task, *, random: bool = False, new_head: bool = False) -> Any:
        """Load the model, which takes ids of `crossdna.alphabet`.

        Parameters
        ----------
        random
            Random weights of torch's generator instead of the checkpoint's.
        new_head
            Our own head with random weights, also where the checkpoint has one.

        Raises
        ------
        CrossDNAError
            A family that cannot do the task, or weights or a tokenizer that do not fit.
        """
        self._require(task)
        try:
            if not self.wrapped:
                if random:
                    return speak_alphabet(self._random(task))
                if not new_head:
                    return speak_alphabet(self._own(task))
                # Who asks for a new head is going to train it.
                with quietly():
                    replaced = task == self.task
                    load = self._under_new_head if replaced else self._own
                    return speak_alphabet(load(task))
            own_head = task == self.task == "classification" and not new_head
            if task in _HEADS and not (own_head or new_head or random):
                warn_of_new(self.name, ["head"])
            return self._wrapper(task, random=random, own_head=own_head)
        except CrossDNAError:
            raise
        except (ImportError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CrossDNAError(f"{self.name}: {reason}") from error

    def _require(self, task: Task) -> None:
        if not self.wrapped:
            possible = type(self.config) in _CLASSES[task]._model_mapping
            kind = self.config.model_type
        else:
            objectives = {"masked-lm": "masked", "causal-lm": "causal"}
            possible = objectives.get(task, self.objective) == self.objective
            kind = self.config.network_type
        if not possible:
            raise CrossDNAError(
                f"{self.name}: a model of type {kind!r} cannot do {task!r}"
            )

    def _own(self, task: Task) -> Any:
        return _CLASSES[task].from_pretrained(self.name, config=self.config)

    def _random(self, task: Task) -> Any:
        model = _CLASSES[task].from_config(self.config)
        if isinstance(self.config, TokenizedConfig):
            model.read_with(load_network_tokenizer(self.name))
        return model

    def _under_new_head(self, task: Task) -> Any:
        model = self._random(task)
        model.base_model.load_state_dict(self._own("embedding").state_dict())
        return model

    def _wrapper(self, task: Task, *, random: bool, own_head: bool) -> Any:
        wrapper = _WRAPPERS[task]
        self.config.part = "language" if task.endswith("-lm") else "base"
        code = (self.config.network or {}).get("auto_map")
        if code and "AutoModel" not in code and self.config.part == "base":
            # The network is taken out of the class with a language head.
            self.config.part = "language"
        if own_head:
            wrapper, self.config.part = OwnHeadForSequenceClassification, "sequence"
            network = self.config.network_config()
            self.config.id2label = network.id2label
            self.config.label2id = network.label2id
            self.config.problem_type = network.problem_type
        tokenizer = load_tokenizer(self.name, trust_remote_code=self.trust_remote_code)
        net = None if random else load_network(self.name, self.config)
        model = wrapper(self.config, net)
        try:
            model.read_with(tokenizer)
        except CrossDNAError as error:
            raise CrossDNAError(f"{self.name}: {error}") from None
        model.name_or_path = self.name
        return model.to(torch.float32)


def _network_of(raw: dict[str, Any]) -> dict[str, Any]:
    """The wrapped network's part of a raw configuration; empty where there is none."""
    return raw.get("network") or {}


def require_directory(name: str | Path) -> None:
    """Refuse what is neither a directory with a config.json nor looks like a hub id.

    Raises
    ------
    CrossDNAError
        Says which.
    """
    path = Path(name)
    if path.exists() and not (path / "config.json").is_file():
        raise CrossDNAError(f"{name}: no config.json, so no checkpoint of a model")
    if not path.exists() and (path.is_absolute() or len(path.parts) > 2):
        raise CrossDNAError(f"{name}: no such directory")
