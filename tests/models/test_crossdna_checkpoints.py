"""Checkpoints of CrossDNA: ours, the published layout, and broken ones."""

import contextlib
import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.utils import logging

from crossdna import CrossDNAForMaskedLM, CrossDNATokenizer
from crossdna.analysis.inference import load_model
from crossdna.cli import main
from crossdna.errors import CrossDNAError
from crossdna.models.conversion import EXTRAS_FILE

from .conftest import GOLDEN, tiny_model

PUBLISHED = GOLDEN / "crossdna_tiny"


@pytest.fixture
def published(tmp_path):
    """A copy of the published-layout fixture that a test may damage."""
    folder = tmp_path / "published"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(PUBLISHED / name, folder)
    return folder


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def logits(model):
    ids = torch.arange(60).view(2, 30) % 4
    with torch.no_grad():
        return model(ids).logits


def test_round_trip_of_our_layout(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    CrossDNATokenizer().save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(logits(model), logits(again))
    assert AutoConfig.from_pretrained(tmp_path).block_size == 16
    ids = AutoTokenizer.from_pretrained(tmp_path)("acgtn")["input_ids"]
    assert ids == [0, 1, 2, 3, 4]


def test_other_classes_take_the_network_and_a_new_head(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    ids = torch.arange(40).view(2, 20) % 4
    with torch.no_grad():
        expected = model.model(ids).last_hidden_state
        bare = AutoModel.from_pretrained(tmp_path).eval()
        assert torch.equal(bare(ids).last_hidden_state, expected)
        for kind, shape in (
            (AutoModelForSequenceClassification, (2, 3)),
            (AutoModelForTokenClassification, (2, 20, 3)),
        ):
            other = kind.from_pretrained(tmp_path, num_labels=3).eval()
            assert torch.equal(other.model(ids).last_hidden_state, expected)
            assert other(ids).logits.shape == shape


def test_published_layout_loads_in_every_class(published):
    masked = AutoModelForMaskedLM.from_pretrained(published)
    ids = torch.arange(40).view(2, 20) % 4
    with torch.no_grad():
        expected = masked.model(ids).last_hidden_state
        bare = AutoModel.from_pretrained(published)
        assert torch.equal(bare(ids).last_hidden_state, expected)
        classifier = AutoModelForSequenceClassification.from_pretrained(
            published, num_labels=4
        )
        assert torch.equal(classifier.model(ids).last_hidden_state, expected)
        assert classifier(ids).logits.shape == (2, 4)
    assert masked.config.strand_alignment == "sequence"
    assert masked.config.block_context == "independent"
    assert not masked.config.residual
    assert not masked.config.mask_channel


def test_bin_weights_load_too(published):
    expected = logits(AutoModelForMaskedLM.from_pretrained(published))
    weights = load_file(published / "model.safetensors")
    (published / "model.safetensors").unlink()
    torch.save(weights, published / "pytorch_model.bin")
    assert torch.equal(
        logits(AutoModelForMaskedLM.from_pretrained(published)), expected
    )


def test_a_pickle_that_runs_code_does_not(published, tmp_path):
    class Touch:
        def __reduce__(self):
            return open, (str(tmp_path / "touched"), "w")

    (published / "model.safetensors").unlink()
    torch.save({"backbone.linear.weight": Touch()}, published / "pytorch_model.bin")
    with pytest.raises(CrossDNAError, match=r"pytorch_model\.bin: cannot be read"):
        AutoModelForMaskedLM.from_pretrained(published)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "key",
    [
        "backbone.branchA_core.layers.1.comba.k_conv1d.weight",
        "backbone.bridge.glb_A2B.bias",
        "backbone.out_linear.weight",
    ],
)
def test_missing_key_is_named(published, key):
    change_weights(published, lambda weights: weights.pop(key))
    with pytest.raises(CrossDNAError, match=f"missing key '{key}'"):
        AutoModelForMaskedLM.from_pretrained(published)


def test_unknown_key_is_named(published):
    change_weights(published, lambda w: w.update({"backbone.extra": torch.zeros(1)}))
    with pytest.raises(CrossDNAError, match="unknown key 'extra'"):
        AutoModelForMaskedLM.from_pretrained(published)


@pytest.mark.parametrize(
    "key",
    [
        "backbone.branchB_core.layers.0.comba.q_proj.weight",
        "backbone.rc_linear.weight",
        "backbone.branchA_core.layers.0.transformer.mlp.down_proj.weight",
    ],
)
def test_misshaped_key_is_named(published, key):
    def change(weights):
        weights[key] = weights[key][:-1].clone()

    change_weights(published, change)
    with pytest.raises(CrossDNAError, match=key):
        AutoModelForMaskedLM.from_pretrained(published)


def test_truncated_weights(published):
    path = published / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CrossDNAError, match=r"model\.safetensors: cannot be read"):
        AutoModelForMaskedLM.from_pretrained(published)


def test_an_undescribed_variant_is_refused(published):
    config = json.loads((published / "config.json").read_text())
    config["transformer_cfg"]["attn"]["qkv_bias"] = True
    (published / "config.json").write_text(json.dumps(config))
    with pytest.raises(CrossDNAError, match="qkv_bias = True is not supported"):
        AutoModelForMaskedLM.from_pretrained(published)


A_LOG = "model.branch_a.layers.0.mixer.A_log"


@pytest.mark.parametrize("auto", [AutoModelForMaskedLM, AutoModel])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(A_LOG), r"missing key '.*branch_a.layers.0.mixer.A_log'"),
        (
            lambda w: w.update({"model.other": torch.zeros(1)}),
            "unknown key '.*other'",
        ),
        (
            lambda w: w.update({A_LOG: w[A_LOG][:1].clone()}),
            r"mixer.A_log' has shape \(1,\), the configuration asks for \(2,\)",
        ),
        (lambda w: w.update({A_LOG: w[A_LOG].long()}), "mixer.A_log' holds I64"),
    ],
)
def test_our_layout_is_strict_too(tmp_path, auto, change, message):
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CrossDNAError, match=message):
        auto.from_pretrained(tmp_path)


def test_our_layout_truncated(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CrossDNAError, match=r"model\.safetensors: cannot be read"):
        AutoModelForMaskedLM.from_pretrained(tmp_path)


def test_a_new_head_is_told_and_nothing_else(tmp_path, caplog, capfd):
    tiny_model().save_pretrained(tmp_path)
    capfd.readouterr()
    with heard():
        AutoModel.from_pretrained(tmp_path)
        assert not caplog.records
        AutoModelForTokenClassification.from_pretrained(tmp_path)
    # Every handler on the way up has it.
    (told,) = {record.getMessage() for record in caplog.records}
    assert "new and random, to be trained before it is asked: head.linear.bias" in told
    assert "LOAD REPORT" not in capfd.readouterr().err


@contextlib.contextmanager
def heard():
    """transformers keeps its messages from the root logger, where they are caught."""
    logging.enable_propagation()
    yield
    logging.disable_propagation()


def test_numbers_that_are_no_weights_are_named(published):
    key = "backbone.out_linear.weight"
    change_weights(published, lambda weights: weights.update({key: weights[key].int()}))
    with pytest.raises(CrossDNAError, match=key):
        AutoModelForMaskedLM.from_pretrained(published)


def test_a_lost_head_is_not_replaced_silently(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CrossDNAError, match=r"missing key 'head\.weight'"):
        AutoModelForMaskedLM.from_pretrained(tmp_path)


def test_checkpoint_of_another_family(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CrossDNAError, match="of model_type 'bert', not of 'crossdna'"):
        CrossDNAForMaskedLM.from_pretrained(tmp_path)


def test_load_model_says_what_is_wrong(tmp_path):
    with pytest.raises(CrossDNAError, match="no such directory"):
        load_model(tmp_path / "absent")
    with pytest.raises(CrossDNAError, match=r"no config\.json"):
        load_model(tmp_path)
    with pytest.raises(CrossDNAError, match="device 'cuda:77' cannot be used"):
        load_model(PUBLISHED, device="cuda:77")


def test_convert_writes_our_layout(published, tmp_path, capsys):
    target = tmp_path / "ours"
    assert main(["convert", str(published), str(target)]) == 0
    assert "parameters of crossdna" in capsys.readouterr().out
    ours = AutoModelForMaskedLM.from_pretrained(target)
    theirs = AutoModelForMaskedLM.from_pretrained(published)
    assert ours.config.gate_frozen == theirs.config.gate_frozen
    assert torch.equal(logits(ours), logits(theirs))
    kept = load_file(target / EXTRAS_FILE)
    original = load_file(published / "model.safetensors")
    assert torch.equal(kept["P_comp"], original["backbone.P_comp"])
    assert sum("_ema" in key for key in kept) == sum("_ema" in key for key in original)


def test_convert_refuses(published, tmp_path, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("precious")
    assert main(["convert", str(published), str(full)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "o")]) == 2
    assert not (tmp_path / "o").exists()
    assert [p.name for p in full.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "first",
    [
        "import crossdna, transformers",
        "import transformers, crossdna",
        # As libraries do that want to know whether it is there.
        "import crossdna, importlib.util; importlib.util.find_spec('transformers')",
    ],
)
def test_auto_classes_know_us_whatever_was_imported_first(first):
    script = (
        f"{first}\nfrom transformers import AutoConfig\n"
        f"print(type(AutoConfig.from_pretrained({str(PUBLISHED)!r})).__module__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "crossdna.models.crossdna.configuration"


def test_importing_loads_nothing_heavy():
    script = (
        "import sys, crossdna.cli\n"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
