"""Foreign families in the package's own alphabet."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, BertConfig

from crossdna import alphabet
from crossdna.analysis.inference import (
    base_log_probabilities,
    embeddings,
    load_model,
)
from crossdna.errors import CrossDNAError
from crossdna.models.caduceus import (
    CaduceusForMaskedLM,
    CaduceusForSequenceClassification,
)
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.models.hyenadna import HyenaDNAForCausalLM
from crossdna.models.vocabulary import IDS_BY_FAMILY, alphabet_ids, speak_alphabet
from crossdna.tokenizers.loading import load_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
SEQUENCE = "ACGTNGATTACA"
FAMILIES = [("hyenadna", HyenaDNAForCausalLM), ("caduceus_ps", CaduceusForMaskedLM)]


@pytest.mark.parametrize("name", ["hyenadna", "caduceus_ph", "caduceus_ps"])
def test_ids_are_those_of_the_tokenizer(name):
    tokenizer = load_tokenizer(GOLDEN / name)
    expected = tokenizer.convert_tokens_to_ids(list(alphabet.TOKENS))
    assert list(IDS_BY_FAMILY[name.split("_")[0]]) == expected


@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_a_model_answers_in_our_alphabet(name, kind):
    ours = torch.from_numpy(alphabet.encode(SEQUENCE).astype(np.int64))[None]
    own = load_tokenizer(GOLDEN / name)(SEQUENCE)["input_ids"][:-1]
    plain = kind.from_pretrained(GOLDEN / name)
    model = speak_alphabet(speak_alphabet(kind.from_pretrained(GOLDEN / name)))
    expected = plain(torch.tensor([own])).logits[..., 7:12]
    assert torch.equal(model(input_ids=ours).logits, expected)
    assert torch.equal(model(ours).logits, expected)
    assert set(model.state_dict()) == set(plain.state_dict())


def test_strands_agree_through_the_translation():
    model = speak_alphabet(CaduceusForMaskedLM.from_pretrained(GOLDEN / "caduceus_ps"))
    ids = torch.randint(0, 5, (2, 30))
    logits = model(input_ids=ids).logits[..., :4]
    other = model(input_ids=alphabet.complement_ids(ids).flip(1)).logits[..., :4]
    torch.testing.assert_close(other.flip(1, 2), logits, atol=1e-5, rtol=0)


def test_masks_and_pads_are_translated():
    model = speak_alphabet(AutoModel.from_pretrained(GOLDEN / "caduceus_ph"))
    plain = AutoModel.from_pretrained(GOLDEN / "caduceus_ph")
    ours = torch.tensor([[alphabet.MASK, alphabet.A, alphabet.PAD]])
    got = model(input_ids=ours).last_hidden_state
    assert torch.equal(got, plain(torch.tensor([[3, 7, 4]])).last_hidden_state)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("hyenadna", "causal-lm"),
        ("hyenadna", "classification"),
        ("caduceus_ph", "masked-lm"),
        ("caduceus_ps", "masked-lm"),
        ("caduceus_ps", "embedding"),
    ],
)
def test_the_network_under_a_head_reads_our_alphabet_too(name, task):
    model = load_model(GOLDEN / name, task, "cpu")
    ids = torch.from_numpy(alphabet.encode(SEQUENCE).astype(np.int64))[None]
    own = load_tokenizer(GOLDEN / name)(SEQUENCE)["input_ids"][:-1]
    plain = AutoModel.from_pretrained(GOLDEN / name).eval()
    expected = plain(torch.tensor([own])).last_hidden_state
    direct = embeddings(model, ids)
    through = embeddings(model, ids, layer="all")[..., -direct.shape[-1] :]
    torch.testing.assert_close(direct, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(through, direct, atol=1e-5, rtol=1e-5)


def test_after_an_error_the_network_still_translates():
    model = load_model(GOLDEN / "hyenadna", "causal-lm", "cpu")
    ids = torch.tensor([[0, 1, 2, 3]])
    expected = embeddings(model, ids)
    with pytest.raises(CrossDNAError, match="max_seq_len"):
        model(input_ids=ids.repeat(1, 10_000))
    assert torch.equal(embeddings(model, ids), expected)


def test_logits_of_classes_stay_as_they_are():
    folder = GOLDEN / "caduceus_ph"
    model = CaduceusForSequenceClassification.from_pretrained(folder, num_labels=2)
    expected = model(torch.tensor([[7, 8, 9]])).logits
    labels = torch.tensor([1])
    output = speak_alphabet(model)(input_ids=torch.tensor([[0, 1, 2]]), labels=labels)
    assert torch.equal(output.logits, expected)
    assert output.loss > 0


def test_our_own_family_is_left_alone():
    sizes = {"d_model": 16, "depth": 1, "num_heads": 2, "head_dim": 8}
    model = CrossDNAForMaskedLM(CrossDNAConfig(attention_heads=2, **sizes))
    assert speak_alphabet(model) is model
    assert not hasattr(model, "ids_of_alphabet")


def test_what_cannot_be_translated_is_refused():
    with pytest.raises(CrossDNAError, match="'bert' do not read one id per base"):
        alphabet_ids(BertConfig())
    model = speak_alphabet(AutoModelForMaskedLM.from_pretrained(GOLDEN / "caduceus_ph"))
    ids = torch.tensor([[0, 1]])
    with pytest.raises(CrossDNAError, match="loss outside"):
        model(input_ids=ids, labels=ids)
    with pytest.raises(CrossDNAError, match="named outputs"):
        model(input_ids=ids, return_dict=False)


@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_a_model_that_was_not_taught_our_ids_is_not_asked_in_them(name, kind):
    model = kind.from_pretrained(GOLDEN / name)
    ids = torch.zeros(1, 8, dtype=torch.long)
    for ask in (base_log_probabilities, embeddings):
        with pytest.raises(CrossDNAError, match="load_model"):
            ask(model, ids)


@pytest.mark.parametrize("number", [-100, -1, 7, 256])
def test_numbers_that_are_no_letters(number):
    config = CrossDNAConfig(d_model=16, depth=1, num_heads=2, head_dim=8)
    ids = torch.zeros(1, 8, dtype=torch.long)
    ids[0, 3] = number
    with pytest.raises(CrossDNAError, match=r"crossdna\.alphabet"):
        CrossDNAForMaskedLM(config)(ids)
