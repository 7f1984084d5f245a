"""Checkpoints that bring code of their own: refused, or run when the user says so."""

import json
import sys

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from tests.labelled_sets import rows_with_motif, write_csv
from transformers import AutoModelForSequenceClassification, dynamic_module_utils

from crossdna import alphabet
from crossdna.analysis.inference import load_model
from crossdna.cli import main
from crossdna.errors import CrossDNAError
from crossdna.tokenizers.kmer import separate_kmer_tokenizer

CONFIGURATION = """
from transformers import PreTrainedConfig


class OddConfig(PreTrainedConfig):
    model_type = "odd"
    vocab_size: int = 25
    hidden_size: int = 8
"""
MODELING = """
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from .configuration_odd import OddConfig

Path(WITNESS).touch()


class OddPreTrainedModel(PreTrainedModel):
    config_class = OddConfig
    base_model_prefix = "odd"


class OddModel(OddPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        x = self.words(input_ids)
        x = x * attention_mask[..., None]
        mixed = x + x.roll(1, 1) * attention_mask[..., None]
        return BaseModelOutput(mixed, (x, mixed) if output_hidden_states else None)


class OddForMaskedLM(OddPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.odd = OddModel(config)
        self.decoder = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, attention_mask):
        hidden = self.odd(input_ids, attention_mask).last_hidden_state
        return MaskedLMOutput(logits=self.decoder(hidden))
"""


@pytest.fixture(scope="module", autouse=True)
def _code_cache(tmp_path_factory):
    """transformers copies code before it runs it: not into the user's cache."""
    cache = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
        patch.syspath_prepend(cache)
        yield
    for name in [
        name for name in sys.modules if name.startswith("transformers_modules")
    ]:
        del sys.modules[name]


@pytest.fixture
def checkpoint(tmp_path):
    """A directory with code; `witness` exists once that code has run."""
    path = tmp_path / "odd"
    path.mkdir()
    witness = tmp_path / "witness"
    (path / "configuration_odd.py").write_text(CONFIGURATION)
    code = MODELING.replace("WITNESS", repr(str(witness)))
    (path / "modeling_odd.py").write_text(code)
    classes = {
        "AutoConfig": "configuration_odd.OddConfig",
        "AutoModel": "modeling_odd.OddModel",
        "AutoModelForMaskedLM": "modeling_odd.OddForMaskedLM",
    }
    config = {
        "model_type": "odd", "auto_map": classes, "vocab_size": 25, "hidden_size": 8,
        "architectures": ["OddForMaskedLM"],
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    draw = torch.Generator().manual_seed(0)
    weights = {
        "odd.words.weight": torch.randn(25, 8, generator=draw),
        "decoder.weight": torch.randn(25, 8, generator=draw),
        "decoder.bias": torch.randn(25, generator=draw),
    }
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    separate_kmer_tokenizer(2).save_pretrained(path)
    return path, witness


def run(*arguments):
    return main(list(map(str, arguments)))


def test_code_runs_only_when_it_is_trusted(checkpoint, tmp_path, capsys):
    path, witness = checkpoint
    write_csv(tmp_path / "in.csv", ["sequence"], [("ACGTTGACCA",), ("TTTACG",)])
    command = ["embed", tmp_path / "in.csv", "--model", path, "--device", "cpu"]
    command += ["--output", tmp_path / "e.parquet"]
    assert run(*command) == 2
    told = capsys.readouterr().err.replace("\n", " ")
    for words in ("modeling_odd.OddModel", "all your rights", "--trust-remote-code"):
        assert words in told
    assert not witness.exists()
    assert run(*command, "--trust-remote-code") == 0
    assert witness.exists()
    vectors = pl.read_parquet(tmp_path / "e.parquet")["embedding"].to_list()
    assert np.shape(vectors) == (2, 8)


def test_scores(checkpoint, tmp_path):
    path, _ = checkpoint
    letters = alphabet.decode(np.random.default_rng(0).integers(0, 4, 80))
    (tmp_path / "g.fa").write_text(f">one\n{letters}\n")
    where = ["--genome", tmp_path / "g.fa", "--region", "one:40-42", "--window", 32]
    command = ["ism", "--model", path, "--device", "cpu", *where]
    assert run(*command, "--output", tmp_path / "no") == 2
    assert run(*command, "--output", tmp_path / "ism", "--trust-remote-code") == 0
    assert pl.read_parquet(tmp_path / "ism/ism.parquet")["score"].std() > 0
    with pytest.raises(CrossDNAError, match="no class for AutoModelForSequence"):
        load_model(_with_head(path), "classification", "cpu", trust_remote_code=True)


def _with_head(path):
    config = json.loads((path / "config.json").read_text())
    config["architectures"] = ["OddForSequenceClassification"]
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_a_network_inside_its_language_model(checkpoint):
    """Where the code has no bare network, it is taken out of the one with a head."""
    path, _ = checkpoint
    ids = torch.from_numpy(alphabet.encode("ACGTTGACCA").astype(int))[None]
    bare = load_model(path, "embedding", "cpu", trust_remote_code=True)
    config = json.loads((path / "config.json").read_text())
    del config["auto_map"]["AutoModel"]
    (path / "config.json").write_text(json.dumps(config))
    inside = load_model(path, "embedding", "cpu", trust_remote_code=True)
    assert torch.equal(bare(ids).last_hidden_state, inside(ids).last_hidden_state)


def test_fine_tuned_models_keep_the_code_and_ask_again(checkpoint, tmp_path, capsys):
    path, _ = checkpoint
    rng = np.random.default_rng(0)
    files = []
    for name, count in (("train", 24), ("valid", 12), ("test", 12)):
        rows = rows_with_motif(rng, count, length=26)
        files += [
            f"--{name}",
            write_csv(tmp_path / f"{name}.csv", ["sequence", "label"], rows),
        ]
    command = [
        "finetune", "--model", path, "--device", "cpu", "--epochs", 1, *files,
        "--baselines", "none", "--head", "mean", "--output", tmp_path / "out",
    ]  # fmt: skip
    assert run(*command) == 2
    assert not (tmp_path / "out").exists()
    assert run(*command, "--trust-remote-code") == 0
    assert (tmp_path / "out/modeling_odd.py").is_file()
    command = ["predict", files[5], "--model", tmp_path / "out", "--device", "cpu"]
    command += ["--output", tmp_path / "p.parquet"]
    capsys.readouterr()
    assert run(*command) == 2
    assert "--trust-remote-code" in capsys.readouterr().err
    with pytest.raises(CrossDNAError, match="trust_remote_code"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert run(*command, "--trust-remote-code") == 0
    mine = pl.read_parquet(tmp_path / "p.parquet")["probability"]
    table = pl.read_parquet(tmp_path / "out/predictions.parquet")
    theirs = table.filter(pl.col("evaluated_as") == "test")["probability"]
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
