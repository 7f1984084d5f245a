"""Bases and ids."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossdna import alphabet
from crossdna.errors import CrossDNAError

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


@given(st.text("ACGTNacgtn", min_size=1))
def test_reverse_complement_against_text(sequence):
    ids = alphabet.encode(sequence)
    expected = sequence.upper().translate(COMPLEMENT)[::-1]
    assert alphabet.decode(alphabet.reverse_complement(ids)) == expected
    assert alphabet.decode(ids) == sequence.upper()


def test_tensor_complement_is_the_same_map():
    ids = torch.arange(alphabet.VOCAB_SIZE)
    assert alphabet.complement_ids(ids).tolist() == list(alphabet.COMPLEMENT)
    array = np.arange(alphabet.VOCAB_SIZE, dtype=np.uint8)
    assert alphabet.reverse_complement(array)[::-1].tolist() == list(
        alphabet.COMPLEMENT
    )


def test_every_iupac_letter_is_known():
    assert alphabet.encode("ACGTN").tolist() == [0, 1, 2, 3, 4]
    assert set(alphabet.encode(alphabet.IUPAC).tolist()) == {alphabet.N}
    assert alphabet.encode(b"uU").tolist() == [alphabet.T, alphabet.T]


@given(
    st.characters(
        exclude_characters="ACGTUNacgtun" + alphabet.IUPAC + alphabet.IUPAC.lower()
    )
)
def test_everything_else_is_named(character):
    with pytest.raises(CrossDNAError) as caught:
        alphabet.encode("ACG" + character + "T", name="chr1")
    assert str(caught.value).startswith("chr1: character ")
    assert "position 4" in str(caught.value)
