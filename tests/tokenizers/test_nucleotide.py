"""The tokenizer of CrossDNA."""

import pytest

from crossdna import CrossDNATokenizer
from crossdna.errors import CrossDNAError


@pytest.fixture(scope="module")
def tokenizer():
    return CrossDNATokenizer()


def test_letters_in_any_case(tokenizer):
    assert tokenizer("ACGTNacgtn")["input_ids"] == [0, 1, 2, 3, 4] * 2


def test_iupac_letters_are_n_and_u_is_t(tokenizer):
    assert tokenizer("RYSWKMBDHVu")["input_ids"] == [4] * 10 + [3]


def test_special_tokens_in_text(tokenizer):
    assert tokenizer("AC[MASK]G[PAD]")["input_ids"] == [0, 1, 5, 2, 6]
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id) == (5, 6)


def test_batch_pads_and_masks(tokenizer):
    batch = tokenizer(["ACGT", "AC"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[0, 1, 2, 3], [0, 1, 6, 6]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_truncation(tokenizer):
    ids = tokenizer("ACGTACGT", truncation=True, max_length=3)["input_ids"]
    assert ids == [0, 1, 2]


def test_bases_as_words_of_their_own(tokenizer):
    assert tokenizer(list("ACGT"), is_split_into_words=True)["input_ids"] == [
        0,
        1,
        2,
        3,
    ]
    rows = tokenizer([list("AC"), list("GT")], is_split_into_words=True)["input_ids"]
    assert rows == [[0, 1], [2, 3]]


def test_decode_is_the_inverse(tokenizer):
    assert tokenizer.decode([0, 1, 2, 3, 4]) == "ACGTN"
    assert tokenizer.tokenize("ac") == ["A", "C"]
    assert tokenizer.convert_tokens_to_ids(["A", "[MASK]"]) == [0, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ACGX", r"sequence: character 'X' at position 4"),
        ("AC GT", r"character ' ' at position 3"),
        ("[MASK]A!", r"character '!' at position 3"),
        ("ACé", r"character 'é' at position 3"),
        ("", "sequence is empty"),
    ],
)
def test_anything_else_is_named(tokenizer, text, message):
    with pytest.raises(CrossDNAError, match=message):
        tokenizer(text)


def test_the_sequence_of_a_batch_is_named(tokenizer):
    with pytest.raises(CrossDNAError, match="sequence 2: character '-' at position 1"):
        tokenizer(["ACGT", "-"])


def test_what_is_no_token_is_an_error():
    tokenizer = CrossDNATokenizer()
    assert tokenizer.convert_tokens_to_ids(["a", "G", "R", "[MASK]"]) == [0, 2, 4, 5]
    with pytest.raises(CrossDNAError, match="'ACG' is no token"):
        tokenizer.convert_tokens_to_ids("ACG")
    for index in (-1, -100, 7):
        with pytest.raises(CrossDNAError, match=f"id {index} is no token"):
            tokenizer.decode([index])
