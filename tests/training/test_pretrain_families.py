"""Every family pretrains under the same verb, resumes, and loads back."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
)

from crossdna import alphabet
from crossdna.config import from_table
from crossdna.data.windows import Locus, Window
from crossdna.errors import CrossDNAError
from crossdna.models.building import new_language_model
from crossdna.tokenizers.bpe import train_byte_pairs
from crossdna.tokenizers.kmer import OverlappingKmerTokenizer, separate_kmer_tokenizer
from crossdna.training.pretrain import pretrain
from crossdna.training.pretraining_recipe import (
    PretrainRecipe,
    model_config,
    window_encoding,
)

_TRANSFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
_SSM = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
SIZES = {
    "caduceus": {"d_model": 8, "n_layer": 1, "rcps": True},
    "bert": _TRANSFORMER,
    "roberta": _TRANSFORMER,
    "esm": _TRANSFORMER | {"position_embedding_type": "rotary"},
    "modernbert": _TRANSFORMER,
    "big_bird": _TRANSFORMER | {"attention_type": "original_full"},
    "hyenadna": {"d_model": 16, "n_layer": 1, "max_seq_len": 64},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2},
    "llama": _TRANSFORMER,
    "mistral": _TRANSFORMER | {"num_key_value_heads": 1},
    "gemma": _TRANSFORMER | {"num_key_value_heads": 1, "head_dim": 8},
    "mamba": _SSM,
    "mamba2": _SSM | {"num_heads": 4, "head_dim": 8, "n_groups": 1},
}
MASKED = ("caduceus", "bert", "roberta", "esm", "modernbert", "big_bird")


@pytest.fixture(autouse=True)
def no_side_effects():
    """Trainer seeds global generators; give them back as they were."""
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


@pytest.fixture
def recipe(toy_genome):
    """Make the recipe of a tiny model."""

    def make(model_type, *, model=None, **sections):
        table = {
            "model": {
                "type": model_type,
                **(SIZES[model_type] if model is None else model),
            },
            "genome": {"toy": {"fasta": str(toy_genome), "valid": ["two"]}},
            "windows": {"length": 32, "valid_windows": 8},
            "train": {
                "steps": 3,
                "batch_size": 4,
                "device": "cpu",
                "log_every": 1,
                "evaluate_every": 3,
                "save_every": 2,
                "keep": "last",
            },
        }
        for name, values in sections.items():
            table[name] = table.get(name, {}) | values
        return from_table(table, PretrainRecipe)

    return make


def rows(folder):
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(folder):
    return load_file(folder / "model.safetensors")


def forget_the_end(folder):
    """Leave what a run that was killed after its second step leaves."""
    shutil.rmtree(folder / "checkpoints" / "checkpoint-3")
    for name in ("provenance.json", "model.safetensors", "config.json"):
        (folder / name).unlink()


@pytest.mark.parametrize("name", SIZES)
def test_trains_resumes_and_loads(recipe, tmp_path, name):
    out = pretrain(recipe(name), tmp_path / "run")
    whole = weights(out)
    assert all(value.isfinite().all() for value in whole.values())
    term = "loss_masked" if name in MASKED else "loss_next"
    losses = [row[term] for row in rows(out) if term in row]
    assert len(losses) == 3
    (held_out,) = (row for row in rows(out) if "eval_loss" in row)
    assert 0.5 < held_out["eval_bits_per_base"] < 4
    forget_the_end(out)
    pretrain(recipe(name), out, resume=True)
    for key, value in weights(out).items():
        torch.testing.assert_close(value, whole[key], atol=1e-6, rtol=0)
    auto = AutoModelForMaskedLM if name in MASKED else AutoModelForCausalLM
    model = auto.from_pretrained(out).eval()
    batch = AutoTokenizer.from_pretrained(out)("ACGTNacgt", return_tensors="pt")
    size = len(batch["input_ids"][0])
    assert size == (10 if name in ("caduceus", "hyenadna") else 9)
    assert model(batch["input_ids"]).logits.shape[:2] == (1, size)
    assert AutoConfig.from_pretrained(out).model_type == name


@pytest.mark.parametrize("name", ["crossdna", *SIZES])
def test_every_weight_that_learns_has_a_gradient(recipe, name):
    """Data parallel training waits for the gradient of each of them."""
    size = {"d_model": 16, "depth": 1, "num_heads": 2, "head_dim": 8, "block_size": 16}
    size |= {"attention_heads": 2}
    mine = recipe(name, model=size if name == "crossdna" else None)
    encoding = window_encoding(mine)
    model = new_language_model(model_config(mine.model, encoding.tokenizer))
    options = {"output_branches": True} if name == "crossdna" else {}
    output = model(input_ids=torch.tensor([encoding_ids(encoding)]), **options)
    loss = output.logits.square().mean()
    if name == "crossdna":
        loss = loss + output.fusion_logits.mean()
    loss.backward()
    idle = [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert idle == []


def encoding_ids(encoding):
    """Ids of a few bases for a model with this encoding."""
    return encoding.tokenizer("ACGTTGCAACGTACGT" * 2)["input_ids"][:32]


def test_one_id_per_base_is_the_alphabets_own(recipe, tmp_path):
    out = pretrain(recipe("bert"), tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids(list(alphabet.TOKENS)) == list(range(7))
    config = AutoConfig.from_pretrained(out)
    assert (config.vocab_size, config.pad_token_id) == (7, alphabet.PAD)


def test_causal_models_learn_what_comes_next(recipe, tmp_path):
    changes = {"steps": 150, "batch_size": 16, "lr": 1e-2, "log_every": 50}
    changes |= {"evaluate_every": 150, "save_every": 150}
    size = _TRANSFORMER | {"num_key_value_heads": 2, "num_hidden_layers": 2}
    out = pretrain(recipe("mistral", model=size, train=changes), tmp_path / "run")
    (held_out,) = (row for row in rows(out) if "eval_loss" in row)
    # Words of 12 bases: once a word is known, its rest is.
    assert held_out["eval_bits_per_base"] < 1.2
    assert held_out["eval_accuracy"] > 0.6


def _save_tokenizer(kind, folder, toy_genome):
    tokenizer = {
        "overlapping": lambda: OverlappingKmerTokenizer(3),
        "separate": lambda: separate_kmer_tokenizer(3),
        "bpe": lambda: train_byte_pairs([toy_genome], vocab_size=64).tokenizer,
    }[kind]()
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("kind", ["overlapping", "separate", "bpe"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_tokens_of_several_bases(recipe, toy_genome, tmp_path, name, kind):
    tokenizer = _save_tokenizer(kind, tmp_path / "tokens", toy_genome)
    mine = recipe(name, tokenizer={"path": str(tmp_path / "tokens")})
    out = pretrain(mine, tmp_path / "run")
    again = AutoTokenizer.from_pretrained(out)
    text = "ACGTACGGTCA"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    config = AutoConfig.from_pretrained(out)
    assert config.vocab_size == len(tokenizer)
    assert config.pad_token_id == tokenizer.pad_token_id
    (held_out,) = (row for row in rows(out) if "eval_loss" in row)
    # A blind guess among all tokens of a length costs two bits a base.
    assert 0.5 < held_out["eval_bits_per_base"] < 8
    whole = weights(out)
    forget_the_end(out)
    pretrain(mine, out, resume=True)
    for key, value in weights(out).items():
        torch.testing.assert_close(value, whole[key], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "sections", "message"),
    [
        (
            "bert",
            {"objective": {"semantic_weight": 0.1}},
            "semantic_weight is for Cross",
        ),
        ("bert", {"objective": {"gate_freeze_steps": 3}}, "gate_freeze_steps is for"),
        (
            "bert",
            {"objective": {"type": "crossdna"}},
            "'crossdna' is not for bert; wri",
        ),
        ("bert", {"objective": {"type": "causal"}}, "write 'masked', or leave it out"),
        ("gpt2", {"objective": {"type": "masked"}}, "write 'causal', or leave it out"),
        ("gpt2", {"masking": {"share": 0.3}}, "nothing is hidden from gpt2"),
        ("caduceus", {"tokenizer": {"path": "x"}}, "caduceus reads one id per base"),
        ("bert", {"model": {"vocab_size": 9}}, "vocab_size follows from the tokenizer"),
        ("bert", {"model": {"hidden_sise": 9}}, "did you mean 'hidden_size'"),
        ("bert", {"model": {"hidden_size": "9"}}, "hidden_size: expected int, got '9'"),
        ("llama", {"model": {"rope_parameters": 3}}, "rope_parameters"),
        ("hyenadna", {"model": {"emb_dim": 4}}, "emb_dim must be odd"),
        ("lama", {"model": {}}, "'lama'; did you mean 'llama'"),
    ],
)
def test_mistakes_are_named(recipe, name, sections, message):
    with pytest.raises(CrossDNAError, match=message):
        recipe(name, **{"model": {}, **sections})


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("bert", {"max_position_embeddings": 16}, "bert model cannot read 32 tokens"),
        ("bert", {"hidden_size": 15}, "multiple of the number of attention heads"),
        ("hyenadna", {"max_seq_len": 16}, "16"),
    ],
)
def test_what_cannot_run_is_found_before_anything_is_written(
    recipe, tmp_path, name, model, message
):
    with pytest.raises(CrossDNAError, match=message):
        pretrain(recipe(name, model=SIZES[name] | model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_is_not_there(recipe, tmp_path):
    mine = recipe("bert", tokenizer={"path": str(tmp_path / "absent")})
    with pytest.raises(CrossDNAError, match="absent: no tokenizer could be loaded"):
        pretrain(mine, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_bases_are_hidden_for_all_families(recipe, rng):
    ids = rng.integers(0, 5, 40).astype(np.uint8)
    ones = np.ones(40, np.float32)
    window = Window(3, ids, ones, Locus("toy", "one", 0, 40, "+"))
    own = window_encoding(recipe("bert")).train([window])
    other = window_encoding(recipe("caduceus")).train([window])
    table = torch.tensor([7, 8, 9, 10, 11, 3, 4])
    assert torch.equal(table[own["input_ids"]], other["input_ids"])
    hidden = own["labels"] >= 0
    assert torch.equal(hidden, other["labels"] >= 0)
    assert torch.equal(table[own["labels"][hidden]], other["labels"][hidden])
