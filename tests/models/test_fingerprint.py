"""A model's fingerprint: the same wherever it lies, another when anything changes."""

import json
import shutil
from pathlib import Path

import torch

from crossdna import CrossDNAForMaskedLM, CrossDNATokenizer
from crossdna.models.conversion import convert_checkpoint
from crossdna.models.fingerprint import fingerprint
from crossdna.models.record import answer, question, read_record

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_same_from_another_place(tiny_checkpoint, tmp_path):
    # Other tests may have put a tokenizer beside the shared checkpoint.
    source = tmp_path / "source"
    CrossDNAForMaskedLM.from_pretrained(tiny_checkpoint()).save_pretrained(source)
    first = fingerprint(CrossDNAForMaskedLM.from_pretrained(source), source)
    copy = tmp_path / "elsewhere"
    CrossDNAForMaskedLM.from_pretrained(source).save_pretrained(copy)
    second = fingerprint(CrossDNAForMaskedLM.from_pretrained(copy), copy)
    assert first == second
    assert len(str(first)) == 32
    assert first.tokenizer == ""


def test_each_part_has_its_own_digits(tiny_checkpoint, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint(), copy)
    CrossDNATokenizer().save_pretrained(copy)
    model = CrossDNAForMaskedLM.from_pretrained(copy)
    first = fingerprint(model, copy)
    assert first.tokenizer

    with torch.no_grad():
        model.head.bias[0] += 1
    weights = fingerprint(model, copy)
    assert weights.weights != first.weights
    assert weights[0::2] == first[0::2]

    path = copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "gate_temperature": 9}))
    changed = fingerprint(CrossDNAForMaskedLM.from_pretrained(copy), copy)
    assert changed.config != first.config
    assert changed[1:] == first[1:]

    path = copy / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 9}))
    assert fingerprint(model, copy).tokenizer != first.tokenizer
    assert len({str(first), str(weights), str(changed)}) == 3


def test_conversion_leaves_a_record(tmp_path):
    convert_checkpoint(GOLDEN / "crossdna_tiny", tmp_path / "ours")
    record = read_record(tmp_path / "ours")
    model = CrossDNAForMaskedLM.from_pretrained(tmp_path / "ours")
    assert record.fingerprint == fingerprint(model, tmp_path / "ours")._asdict()
    said = answer(model, question(model, record.sequence))[0]
    torch.testing.assert_close(said, torch.tensor(record.answer), atol=1e-5, rtol=0)
    # The published checkpoint itself says the same.
    published = CrossDNAForMaskedLM.from_pretrained(GOLDEN / "crossdna_tiny")
    said = answer(published, question(published, record.sequence))[0]
    torch.testing.assert_close(said, torch.tensor(record.answer), atol=1e-5, rtol=0)
    assert read_record(GOLDEN / "crossdna_tiny") is None


def test_settings_that_came_later_change_no_older_fingerprint(tiny_checkpoint):
    model = CrossDNAForMaskedLM.from_pretrained(tiny_checkpoint())
    first = fingerprint(model, tiny_checkpoint())
    del model.config.head_standard
    assert fingerprint(model, tiny_checkpoint()) == first
    model.config.head_standard = True
    assert fingerprint(model, tiny_checkpoint()).config != first.config
