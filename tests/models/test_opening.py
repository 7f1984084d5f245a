"""What keeps a checkpoint from being opened is an error that names it."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from crossdna import alphabet
from crossdna.analysis.inference import embeddings, load_model, sequence_logits
from crossdna.errors import CrossDNAError
from crossdna.models.fingerprint import weights_fingerprint
from crossdna.models.opening import Opened
from crossdna.tokenizers.kmer import OverlappingKmerTokenizer
from crossdna.zoo.cards import describe_directory
from tests.family_checkpoints import save

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of a checkpoint that a test may spoil."""

    def make(name):
        path = tmp_path / name
        shutil.copytree(save(name, folder), path)
        return path

    return make


def spoil(path, change):
    weights = load_file(path / WEIGHTS)
    change(weights)
    save_file(weights, path / WEIGHTS, {"format": "pt"})


def random_ids(length=30):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 4, (2, length)))


KEY = "bert.encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize("task", ["masked-lm", "embedding", "classification"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(KEY), "missing key '.*encoder.layer.1.output.dense.weight'"),
        (
            lambda w: w.update({KEY: w[KEY][:5].clone()}),
            r"dense.weight' has shape \(5,",
        ),
        (lambda w: w.update({KEY: w[KEY].long()}), "dense.weight' holds I64"),
        (
            lambda w: w[KEY].view(-1)[3:5].fill_(float("nan")),
            "dense.weight' holds 2 of .* that are no numbers",
        ),
        (
            lambda w: w[KEY].view(-1)[3].fill_(float("inf")),
            "dense.weight' holds 1 of .* that are no numbers",
        ),
        (
            lambda w: w.update({"bert.encoder.layer.7.x": w[KEY].clone()}),
            r"unknown key 'bert.encoder.layer.7.x'",
        ),
        (
            lambda w: w.update({"somewhere.else": w[KEY].clone()}),
            r"unknown key 'somewhere.else'",
        ),
    ],
)
def test_spoiled_weights(change, message, task, copy):
    path = copy("dnabert")
    spoil(path, change)
    with pytest.raises(CrossDNAError, match=message):
        load_model(path, task, "cpu")


def test_weights_that_nothing_reads_may_be_missing_or_left_over(copy):
    path = copy("nucleotide-transformer")
    whole = weights_fingerprint(load_model(path, "masked-lm", "cpu"))

    def change(weights):
        for key in [key for key in weights if "contact_head" in key]:
            del weights[key]
        weights["esm.embeddings.position_ids"] = torch.arange(140)[None]
        weights["esm.pooler.dense.bias"] = torch.zeros(16)

    spoil(path, change)
    first, second = (load_model(path, "masked-lm", "cpu") for _ in range(2))
    # What nothing reads is no part of the model, whatever is in its place.
    assert weights_fingerprint(first) == weights_fingerprint(second) == whole


def test_a_damaged_file(copy):
    path = copy("dnabert")
    content = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(CrossDNAError, match=r"model\.safetensors: cannot be read"):
        load_model(path, "masked-lm", "cpu")
    (path / WEIGHTS).unlink()
    with pytest.raises(CrossDNAError, match=r"no model\.safetensors"):
        load_model(path, "masked-lm", "cpu")


def test_weights_in_older_files_and_in_shards(copy):
    path = copy("dnabert")
    expected = embeddings(load_model(path, "embedding", "cpu"), random_ids())
    weights = load_file(path / WEIGHTS)
    (path / WEIGHTS).unlink()
    torch.save(weights, path / "pytorch_model.bin")
    got = embeddings(load_model(path, "embedding", "cpu"), random_ids())
    assert torch.equal(got, expected)
    torch.save(weights | {KEY: weights[KEY].long()}, path / "pytorch_model.bin")
    with pytest.raises(CrossDNAError, match=r"dense\.weight' holds torch\.int64"):
        load_model(path, "embedding", "cpu")
    (path / "pytorch_model.bin").unlink()
    names = {
        key: f"model-0000{1 + i % 2}-of-00002.safetensors"
        for i, key in enumerate(weights)
    }
    for file in set(names.values()):
        part = {key: weights[key] for key, own in names.items() if own == file}
        save_file(part, path / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": names}
    (path / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    got = embeddings(load_model(path, "embedding", "cpu"), random_ids())
    assert torch.equal(got, expected)
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CrossDNAError, match=r"names model-00002-of-00002"):
        load_model(path, "embedding", "cpu")


def test_another_vocabulary(copy):
    path = copy("dnabert")
    OverlappingKmerTokenizer(4).save_pretrained(path)
    with pytest.raises(CrossDNAError, match=r"has 261 tokens.*vectors for 69"):
        load_model(path, "embedding", "cpu")


def test_no_tokenizer(copy):
    path = copy("grover")
    (path / "tokenizer.json").write_text("{")
    with pytest.raises(CrossDNAError, match="no tokenizer could be loaded"):
        load_model(path, "embedding", "cpu")
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(CrossDNAError, match="tokenizer"):
        load_model(path, "embedding", "cpu")


def test_another_padding_token_than_positions_are_counted_by(copy):
    path = copy("gena-roberta")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"pad_token_id": 7}))
    with pytest.raises(CrossDNAError, match=r"pads with 3.*pad_token_id 7"):
        load_model(path, "embedding", "cpu")


def test_unknown_families_and_tasks(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(CrossDNAError, match=r"no family .* 't5' .* bert"):
        load_model(tmp_path, "embedding", "cpu")
    with pytest.raises(CrossDNAError, match="'gpt2' cannot do 'masked-lm'"):
        load_model(save("gpt2", folder), "masked-lm", "cpu")
    with pytest.raises(CrossDNAError, match="'bert' cannot do 'causal-lm'"):
        load_model(save("dnabert", folder), "causal-lm", "cpu")


def test_the_path_decides_nothing(folder, tmp_path):
    path = tmp_path / "hyenadna-caduceus-gpt2"
    shutil.copytree(save("dnabert", folder), path)
    model = load_model(path, "masked-lm", "cpu")
    assert type(model.network.net).__name__ == "BertForMaskedLM"
    assert Opened(path).task == "masked-lm"


@pytest.mark.parametrize("name", ["grover", "gpt2", "nucleotide-transformer"])
def test_heads_that_were_fine_tuned_elsewhere(name, tmp_path):
    """Read as they are, with strands, batches and padding on the outside."""
    path = save(name, tmp_path, AutoModelForSequenceClassification, num_labels=3)
    assert Opened(path).task == "classification"
    model = load_model(path, "classification", "cpu")
    raw = AutoModelForSequenceClassification.from_pretrained(path).eval()
    ids = random_ids()
    spans = model.reader.read([row.numpy().astype(np.uint8) for row in ids])
    for row, found in zip(ids, spans, strict=True):
        with torch.no_grad():
            expected = raw(torch.from_numpy(found.ids)[None]).logits
        got = sequence_logits(model, row[None])
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    batch = torch.full((2, 30), alphabet.PAD)
    batch[0], batch[1, 9:] = ids[0], ids[1, 9:]
    both = sequence_logits(model, batch, batch != alphabet.PAD, strand="both")
    alone = sequence_logits(model, ids[1:, 9:], strand="both")
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=1e-4)
    # A new head may be put on it, and then nothing of the old one is read.
    bare = Opened(path).model("classification", new_head=True)
    assert type(bare.network.net).__name__.endswith("Model")


@pytest.mark.parametrize("name", ["grover", None])
def test_a_random_head_is_told_unless_it_will_be_trained(
    name, folder, tiny_checkpoint, caplog, monkeypatch
):
    # transformers keeps its messages from the root logger, where they are caught.
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    path = save(name, folder) if name else tiny_checkpoint()
    Opened(path).model("classification", new_head=True)
    load_model(path, "masked-lm", "cpu")
    load_model(path, "embedding", "cpu")
    assert not caplog.records
    load_model(path, "classification", "cpu")
    assert "new and random" in caplog.text


def test_a_masked_head_is_not_made_up(tmp_path):
    path = save("grover", tmp_path, AutoModelForTokenClassification, num_labels=3)
    with pytest.raises(CrossDNAError, match=r"missing key 'cls\.predictions"):
        load_model(path, "masked-lm", "cpu")


DNABERT_CODE = {
    "AutoConfig": "configuration_bert.BertConfig",
    "AutoModel": "dnabert_layer.BertModel",
    "AutoModelForMaskedLM": "dnabert_layer.BertForMaskedLM",
    "AutoModelForPreTraining": "dnabert_layer.BertForPreTraining",
    "AutoModelForSequenceClassification": (
        "dnabert_layer.DNABertForSequenceClassification"
    ),
}
# What stands in the published configuration beside BERT's own fields.
DNABERT_FIELDS = {
    "eos_token_ids": 0, "num_rnn_layer": 1, "output_past": True, "rnn": "lstm",
    "rnn_dropout": 0.0, "rnn_hidden": 768, "split": 10,
}  # fmt: skip


@pytest.mark.parametrize("where", ["", "zhihan1996/DNA_bert_6--"])
def test_code_that_repeats_its_family_is_left_aside(where, copy):
    path = copy("dnabert-files")
    before = load_model(path, "masked-lm", "cpu")
    config = json.loads((path / "config.json").read_text())
    code = {key: where + name for key, name in DNABERT_CODE.items()}
    table = {**config, **DNABERT_FIELDS, "auto_map": code}
    (path / "config.json").write_text(json.dumps(table))
    # Would fail if it ran.
    for name in ("configuration_bert.py", "dnabert_layer.py"):
        (path / name).write_text("raise SystemExit\n")
    assert describe_directory(path).runs == "transformers"
    for task in ("masked-lm", "embedding", "classification", "per-base"):
        model = load_model(path, task, "cpu")
        assert not model.config.remote_code
    after = load_model(path, "masked-lm", "cpu")
    assert torch.equal(after(random_ids()).logits, before(random_ids()).logits)
    spoil(path, lambda w: w.pop(KEY))
    with pytest.raises(CrossDNAError, match="missing key"):
        load_model(path, "masked-lm", "cpu")


def test_code_that_is_a_network_of_its_own_is_not(copy):
    path = copy("dnabert-files")
    config = json.loads((path / "config.json").read_text())
    code = {**DNABERT_CODE, "AutoModelForMaskedLM": "bert_layers.BertForMaskedLM"}
    (path / "config.json").write_text(json.dumps({**config, "auto_map": code}))
    assert describe_directory(path).runs == "remote code"
    with pytest.raises(CrossDNAError, match=r"bert_layers\.BertForMaskedLM"):
        load_model(path, "masked-lm", "cpu")
