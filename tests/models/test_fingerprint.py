"""A model's fingerprint: the same wherever it lies, another when anything changes."""

import json
import shutil

import torch

from crossdna import CrossDNAForMaskedLM, CrossDNATokenizer
from crossdna.models.fingerprint import fingerprint


def test_the_same_from_another_place(tiny_checkpoint, tmp_path):
    source = tiny_checkpoint()
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
