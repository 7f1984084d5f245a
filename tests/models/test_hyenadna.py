"""HyenaDNA against the recorded outputs of the published code, and its own promises."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
)

from crossdna.errors import CrossDNAError
from crossdna.models.hyenadna import (
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
    HyenaDNAModel,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "hyenadna"
SIZES = {"d_model": 16, "n_layer": 3, "max_seq_len": 64, "filter_order": 8}


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture
def published(tmp_path):
    """A copy of the published directory that a test may spoil."""
    folder = tmp_path / "published"
    shutil.copytree(GOLDEN, folder)
    return folder


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return HyenaDNAForCausalLM(HyenaDNAConfig(**SIZES)).eval()


def close(got, expected):
    torch.testing.assert_close(got.detach(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("length", [32, 100])
def test_published_outputs(expected, length):
    model = HyenaDNAForCausalLM.from_pretrained(GOLDEN)
    mixers = {}
    for i, layer in enumerate(model.hyena.backbone.layers):
        layer.mixer.register_forward_hook(
            lambda _, args, out, i=i: mixers.update({i: (args[0], out)})
        )
    ids = expected[f"input_ids_{length}"]
    output = model(ids, labels=ids, output_hidden_states=True)
    close(output.logits, expected[f"logits_{length}"])
    close(output.hidden_states[-1], expected[f"last_hidden_state_{length}"])
    assert len(output.hidden_states) == model.config.n_layer + 2
    for i, state in enumerate(output.hidden_states):
        close(state, expected[f"hidden_states_{length}.{i}"])
    for i, (given, out) in mixers.items():
        close(given, expected[f"layers.{i}.mixer_in_{length}"])
        close(out, expected[f"layers.{i}.mixer_out_{length}"])
        filters = model.hyena.backbone.layers[i].mixer.filter_fn(length)
        close(filters[None], expected[f"layers.{i}.filter_{length}"])
    if length == 100:
        close(output.loss, expected["loss_100"])


@pytest.mark.parametrize("length", [32, 100])
def test_published_classifier(published, expected, length):
    weights = load_file(published / "model.safetensors")
    del weights["lm_head.weight"]
    weights["score.weight"] = expected["score_weight"]
    save_file(weights, published / "model.safetensors", {"format": "pt"})
    model = AutoModelForSequenceClassification.from_pretrained(published, num_labels=3)
    assert isinstance(model, HyenaDNAForSequenceClassification)
    got = model(expected[f"input_ids_{length}"]).logits
    close(got, expected[f"cls_logits_{length}"])


def test_auto_classes_read_the_published_directory(expected):
    config = AutoConfig.from_pretrained(GOLDEN)
    assert type(config) is HyenaDNAConfig
    assert config.hidden_size == 32
    model = AutoModelForCausalLM.from_pretrained(GOLDEN)
    close(model(expected["input_ids_32"]).logits, expected["logits_32"])


def test_saved_and_loaded_is_the_same(tmp_path, expected):
    model = HyenaDNAForCausalLM.from_pretrained(GOLDEN)
    model.save_pretrained(tmp_path)
    keys = set(load_file(tmp_path / "model.safetensors"))
    assert keys == set(load_file(GOLDEN / "model.safetensors"))
    again = HyenaDNAForCausalLM.from_pretrained(tmp_path)
    ids = expected["input_ids_100"]
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    base = HyenaDNAModel.from_pretrained(tmp_path)
    base.save_pretrained(tmp_path / "base")
    bare = HyenaDNAModel.from_pretrained(tmp_path / "base")
    close(bare(ids).last_hidden_state, expected["last_hidden_state_100"])


def test_pickled_weights_with_repeated_names(published, expected):
    weights = load_file(published / "model.safetensors")
    sine = "hyena.backbone.layers.{}.mixer.filter_fn.implicit_filter.{}.freq"
    for i in range(2):
        for place in (3, 5):
            weights[sine.format(i, place)] = weights[sine.format(i, 1)]
    (published / "model.safetensors").unlink()
    torch.save(weights, published / "pytorch_model.bin")
    model = HyenaDNAForCausalLM.from_pretrained(published)
    close(model(expected["input_ids_32"]).logits, expected["logits_32"])

    weights[sine.format(1, 5)] = weights[sine.format(1, 1)] + 1
    torch.save(weights, published / "pytorch_model.bin")
    with pytest.raises(CrossDNAError, match=r"layers\.1.*5\.freq' differs from"):
        HyenaDNAForCausalLM.from_pretrained(published)


def test_a_pickle_that_runs_code_is_refused(published):
    (published / "model.safetensors").unlink()
    torch.save({"x": torch.nn.Linear(1, 1)}, published / "pytorch_model.bin")
    with pytest.raises(CrossDNAError, match="cannot be read"):
        HyenaDNAForCausalLM.from_pretrained(published)


FC1 = "hyena.backbone.layers.1.mlp.fc1.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w.pop(FC1), f"missing key '{FC1}'"),
        (lambda w: w.pop("lm_head.weight"), "missing key 'lm_head.weight'"),
        (lambda w: w.update(extra=torch.ones(1)), "unknown key 'extra'"),
        (lambda w: w.update({FC1: w[FC1][:5].clone()}), f"'{FC1}' has shape \\(5, 32"),
        (lambda w: w.update({FC1: w[FC1].int()}), f"'{FC1}' holds torch.int32"),
    ],
    ids=["missing", "headless", "extra", "misshaped", "mistyped"],
)
def test_bad_checkpoints_are_refused_by_key(published, spoil, message):
    weights = load_file(published / "model.safetensors")
    spoil(weights)
    save_file(weights, published / "model.safetensors", {"format": "pt"})
    with pytest.raises(CrossDNAError, match=message):
        HyenaDNAForCausalLM.from_pretrained(published)


def test_truncated_weights_are_refused(published):
    path = published / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CrossDNAError, match=r"model\.safetensors: cannot be read"):
        HyenaDNAForCausalLM.from_pretrained(published)


def test_other_vocabularies_are_refused(published):
    path = published / "config.json"
    path.write_text(path.read_text().replace('"vocab_size": 12', '"vocab_size": 22'))
    with pytest.raises(CrossDNAError, match=r"word_embeddings.*configuration asks for"):
        HyenaDNAForCausalLM.from_pretrained(published)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_behind_a_mask(tiny, side):
    ids = torch.randint(7, 12, (2, 40))
    mask = torch.ones_like(ids)
    short = slice(9, None) if side == "left" else slice(None, 31)
    pads = slice(None, 9) if side == "left" else slice(31, None)
    alone = tiny(ids[1:, short]).logits[0]
    ids[1, pads], mask[1, pads] = 4, 0
    got = tiny(ids, mask).logits
    torch.testing.assert_close(got[1, short], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got[0], tiny(ids[:1]).logits[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_classifier_reads_the_last_token_behind_a_mask(side):
    torch.manual_seed(0)
    model = HyenaDNAForSequenceClassification(HyenaDNAConfig(**SIZES)).eval()
    ids = torch.randint(7, 12, (1, 20))
    pads = (5, 0) if side == "left" else (0, 5)
    padded = torch.nn.functional.pad(ids, pads, value=4)
    got = model(padded, padded != 4).logits
    torch.testing.assert_close(got, model(ids).logits, atol=1e-5, rtol=1e-4)


def test_nothing_sees_the_future(tiny):
    ids = torch.randint(7, 12, (1, 30))
    changed = ids.clone()
    changed[0, 20:] = 7
    torch.testing.assert_close(
        tiny(ids).logits[:, :20], tiny(changed).logits[:, :20], atol=1e-5, rtol=1e-4
    )


def test_sequences_beyond_the_stored_positions_are_refused(tiny):
    with pytest.raises(CrossDNAError, match=r"65 tokens is longer than .* 64"):
        tiny(torch.full((1, 65), 7))


def test_fresh_filters_equal_the_stored_ones(expected):
    """Layer 0 of the fixture has unperturbed buffers."""
    stored = load_file(GOLDEN / "model.safetensors")
    config = HyenaDNAConfig.from_pretrained(GOLDEN)
    fresh = HyenaDNAForCausalLM(config).state_dict()
    for name in ("pos_emb.z", "pos_emb.t", "modulation.deltas"):
        key = f"hyena.backbone.layers.0.mixer.filter_fn.{name}"
        torch.testing.assert_close(fresh[key], stored[key], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({"n_layer": 2, "d_model": 128, "max_seq_len": 1026}, 438_144),
        ({"n_layer": 2, "d_model": 256, "max_seq_len": 1026}, 1_645_184),
        ({"n_layer": 4, "d_model": 256, "max_seq_len": 32770}, 3_281_664),
        ({"n_layer": 8, "d_model": 256, "max_seq_len": 160002}, 6_554_624),
    ],
)
def test_released_sizes(sizes, parameters):
    with torch.device("meta"):
        model = HyenaDNAForCausalLM(HyenaDNAConfig(**sizes))
    assert model.num_parameters() == parameters


def test_fresh_weights_follow_the_published_rule():
    torch.manual_seed(0)
    model = HyenaDNAForCausalLM(HyenaDNAConfig(d_model=128, n_layer=1))
    layer = model.hyena.backbone.layers[0]
    for weight in (layer.mlp.fc1.weight, layer.mixer.in_proj.weight):
        assert abs(weight.std().item() - 0.02) < 1e-3
    assert not layer.mixer.filter_fn.implicit_filter["2"].bias.any()
    assert torch.equal(
        layer.mixer.filter_fn.implicit_filter["1"].freq, torch.full((1, 64), 10.0)
    )
    assert 0.8 < layer.mixer.filter_fn.bias.std() < 1.2


# The name that transformers 5.17 knows too.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable:FutureWarning")
def test_every_parameter_learns(tiny):
    tiny.train()
    tiny.gradient_checkpointing_enable()
    ids = torch.randint(7, 12, (2, 30))
    tiny(ids, labels=ids).loss.backward()
    for name, parameter in tiny.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_bfloat16_keeps_the_filters_in_float32(expected):
    model = HyenaDNAForCausalLM.from_pretrained(GOLDEN, dtype=torch.bfloat16)
    layer = model.hyena.backbone.layers[0]
    assert layer.mlp.fc1.weight.dtype is torch.bfloat16
    assert layer.mixer.filter_fn.pos_emb.z.dtype is torch.float32
    got = model(expected["input_ids_32"]).logits
    error = (got.float() - expected["logits_32"]).abs().max()
    assert error < 0.05 * expected["logits_32"].abs().max()


def test_generation_continues_a_sequence(tiny):
    ids = torch.randint(7, 11, (2, 6))
    got = tiny.generate(ids, max_new_tokens=5, do_sample=False)
    assert got.shape == (2, 11) or (got[:, 6:] == 1).any()
    assert torch.equal(got[:, :6], ids)
    assert torch.equal(got[:, 6], tiny(ids).logits[:, -1].argmax(-1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 0}, "n_layer must be positive"),
        ({"emb_dim": 4}, "emb_dim must be odd"),
        ({"hyena_order": 3}, "hyena_order must be 2"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(CrossDNAError, match=message):
        HyenaDNAConfig(**change)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (5,)])
def test_no_bases(tiny, shape):
    with pytest.raises(CrossDNAError, match=r"\(batch, length\) with bases, got"):
        tiny(torch.zeros(shape, dtype=torch.long))
