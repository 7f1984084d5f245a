"""Character, k-mer and byte-pair tokenizers: layouts, places, saving and loading."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from crossdna.cli import main
from crossdna.errors import CrossDNAError
from crossdna.tokenizers.bpe import train_byte_pairs
from crossdna.tokenizers.character import CaduceusTokenizer, HyenaDNATokenizer
from crossdna.tokenizers.kmer import OverlappingKmerTokenizer, separate_kmer_tokenizer
from crossdna.tokenizers.loading import load_tokenizer
from crossdna.tokenizers.nucleotide import CrossDNATokenizer
from crossdna.tokenizers.spans import (
    reverse_complement_spans,
    spread_over_bases,
    token_spans,
)

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    """Two contigs with lower case, runs of N and many copies of one word."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    words = ["GATTACA", "TTTTCCC"] + ["".join(draw.choices("ACGT", k=9))] * 2
    one = "".join(draw.choice(words) for _ in range(600))
    two = "".join(draw.choices("ACGTacgt", k=3000))
    path.write_text(f">one\n{one[:2000]}\n{'N' * 50}{one[2000:]}\n>two\n{two}\n")
    return path


@pytest.fixture(scope="module")
def byte_pairs(fasta):
    return train_byte_pairs([fasta], vocab_size=64).tokenizer


def every_kind(byte_pairs):
    return [
        CaduceusTokenizer(),
        OverlappingKmerTokenizer(3),
        separate_kmer_tokenizer(3),
        byte_pairs,
        CrossDNATokenizer(),
    ]


def test_character_layout():
    tokenizer = CaduceusTokenizer()
    assert tokenizer("ACGTN")["input_ids"] == [7, 8, 9, 10, 11, 1]
    assert tokenizer("acgtn")["input_ids"] == [7, 8, 9, 10, 11, 1]
    assert tokenizer("AR[MASK]A")["input_ids"] == [7, 6, 3, 7, 1]
    batch = tokenizer(["ACG", "A"], padding=True)
    assert batch["input_ids"] == [[7, 8, 9, 1], [4, 4, 7, 1]]
    assert batch["attention_mask"] == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert len(tokenizer) == 12


def test_overlapping_layout():
    tokenizer = OverlappingKmerTokenizer(3)
    expected = ["[CLS]", "ACG", "CGT", "GTA", "[SEP]"]
    ids = tokenizer("ACGTa")["input_ids"]
    assert tokenizer.tokenize("ACGTa") == expected[1:-1]
    assert tokenizer("ACGTa", return_tensors="pt")["input_ids"].tolist() == [ids]
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    # The first and last ids of the published 3-mer vocabulary.
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[MASK]", "AAA", "AAT"]) == [
        0, 4, 5, 6,
    ]  # fmt: skip
    assert tokenizer.convert_tokens_to_ids("GGG") == 68
    assert len(OverlappingKmerTokenizer(6)) == 4101
    assert tokenizer("ACNAC")["input_ids"] == [2, 1, 1, 1, 3]
    for spelled in ("ACG CGT", "ACGT\n"):
        with pytest.raises(CrossDNAError, match="has spaces"):
            tokenizer(spelled)


def test_separate_layout():
    tokenizer = separate_kmer_tokenizer(5)
    for sequence, expected in (
        ("ATCGAATGGCGATGCAC", "ATCGA ATGGC GATGC A C"),
        ("ATCGAATNGGCGATGCAC", "ATCGA A T N GGCGA TGCAC"),
    ):
        assert tokenizer.tokenize(sequence) == expected.split()
    six = separate_kmer_tokenizer(6)
    assert len(six) == 4105
    assert six("AAAAAANX")["input_ids"] == [3, 4, 4104, 0]
    assert six.convert_tokens_to_ids(["AAAAAT", "A", "G", "<pad>"]) == [
        5, 4100, 4103, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("k", range(1, 9))
def test_every_k_has_every_kmer(k):
    kmers = {"".join(bases) for bases in itertools.product("ACGT", repeat=min(k, 2))}
    for tokenizer in (OverlappingKmerTokenizer(k), separate_kmer_tokenizer(k)):
        vocabulary = tokenizer.get_vocab()
        assert sum(len(t) == k and set(t) <= set("ACGT") for t in vocabulary) == 4**k
        assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
        sequence = "".join(kmer * k for kmer in kmers)
        assert tokenizer.unk_token_id not in tokenizer(sequence)["input_ids"]


def test_byte_pairs_learn_frequent_words(byte_pairs):
    assert len(byte_pairs) == 64
    assert len(byte_pairs.tokenize("GATTACA" * 20)) < 60
    assert max(len(token) for token in byte_pairs.get_vocab()) > 7
    assert byte_pairs.tokenize("NNACN").count("N") == 3
    assert not any(
        "N" in t and len(t) > 1 and t[0] != "[" for t in byte_pairs.get_vocab()
    )


def test_training_twice_gives_the_same(fasta, byte_pairs):
    again = train_byte_pairs([fasta], vocab_size=64).tokenizer
    assert again.get_vocab() == byte_pairs.get_vocab()


def test_large_genomes_are_sampled_evenly(fasta):
    seen = []
    training = train_byte_pairs(
        [fasta], vocab_size=20, max_bases=2048, progress=seen.append
    )
    assert training.bases == sum(seen)
    assert 1024 <= training.bases <= 2560


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 9}, "at least 10"),
        ({"vocab_size": 100_000}, "give only"),
    ],
)
def test_impossible_vocabularies_are_refused(fasta, options, message):
    with pytest.raises(CrossDNAError, match=message):
        train_byte_pairs([fasta], **options)


def test_bad_genomes_are_refused(tmp_path):
    with pytest.raises(CrossDNAError, match="no such file"):
        train_byte_pairs([tmp_path / "absent.fa"])
    protein = tmp_path / "protein.fa"
    protein.write_text(">p\nMKLLE\n")
    with pytest.raises(CrossDNAError, match=r"protein\.fa: p: character 'L'"):
        train_byte_pairs([protein])
    empty = tmp_path / "empty.fa"
    empty.write_text(">e\nNNNN\n")
    with pytest.raises(CrossDNAError, match="no bases in"):
        train_byte_pairs([empty], vocab_size=10)


SEQUENCES = ("ACGTACGTAC", "acgtNNacgttgcaa", "GATTACAGATTACANTTTTCCC")


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_tokens_lie_where_they_say(byte_pairs, sequence):
    for tokenizer in every_kind(byte_pairs):
        ids, spans = token_spans(tokenizer, sequence)
        assert ids.tolist() == tokenizer(sequence)["input_ids"]
        tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
        for number, token, (start, end) in zip(ids, tokens, spans, strict=True):
            if start < 0:
                assert number in tokenizer.all_special_ids
            elif token != tokenizer.unk_token:
                assert sequence[start:end].upper() == token
        real = spans[spans[:, 0] >= 0]
        assert set(range(len(sequence))) == {i for a, b in real for i in range(a, b)}


def test_reverse_complement_is_taken_of_bases(byte_pairs):
    sequence = "GATTACAGATTACANTTTTCCCA"
    other = "TGGGAAAANTGTAATCTGTAATC"
    for tokenizer in every_kind(byte_pairs):
        back = reverse_complement_spans(tokenizer, sequence)
        plain = token_spans(tokenizer, other)
        assert np.array_equal(back.ids, plain.ids)
        for (start, end), (first, last) in zip(back.spans, plain.spans, strict=True):
            if start >= 0:
                assert (start, end) == (len(sequence) - last, len(sequence) - first)
            else:
                assert first < 0


def test_values_are_spread_over_bases():
    _, spans = token_spans(separate_kmer_tokenizer(3), "ACGTAC")
    got = spread_over_bases(np.array([9.0, 1.0, 2.0]), spans, 6)
    assert got.tolist() == [1, 1, 1, 2, 2, 2]
    _, spans = token_spans(OverlappingKmerTokenizer(2), "ACGT")
    values = np.array([[9.0], [1.0], [2.0], [4.0], [9.0]])
    got = spread_over_bases(values, spans, 5)
    np.testing.assert_allclose(got[:, 0], [1, 1.5, 3, 4, np.nan])


def test_saved_tokenizers_load_without_remote_code(byte_pairs, tmp_path):
    for i, tokenizer in enumerate(every_kind(byte_pairs)):
        folder = tmp_path / str(i)
        tokenizer.save_pretrained(folder)
        again = load_tokenizer(folder)
        assert again.get_vocab() == tokenizer.get_vocab()
        assert again.padding_side == tokenizer.padding_side
        for sequence in SEQUENCES:
            assert again(sequence)["input_ids"] == tokenizer(sequence)["input_ids"]
            assert np.array_equal(
                token_spans(again, sequence).spans,
                token_spans(tokenizer, sequence).spans,
            )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("hyenadna", HyenaDNATokenizer),
        ("caduceus_ph", CaduceusTokenizer),
        ("caduceus_ps", CaduceusTokenizer),
    ],
)
def test_published_directories_have_their_tokenizer(name, kind):
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / name)
    assert type(tokenizer) is kind
    assert tokenizer("ACGT")["input_ids"] == [7, 8, 9, 10, 1]


def write_published_tokenizer(folder, **change):
    config = {
        "auto_map": {
            "AutoTokenizer": ["tokenization_caduceus.CaduceusTokenizer", None]
        },
        "characters": ["A", "C", "G", "T", "N"],
        "model_max_length": 131072,
        "padding_side": "left",
        "tokenizer_class": "CaduceusTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config | change))
    (folder / "config.json").write_text(
        (GOLDEN / "caduceus_ph/config.json").read_text()
    )


def test_published_tokenizer_files_need_no_remote_code(tmp_path):
    write_published_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert type(tokenizer) is CaduceusTokenizer
    assert tokenizer.model_max_length == 131072


def test_a_tokenizer_that_fails_is_an_error(tmp_path):
    write_published_tokenizer(tmp_path, characters=["A", "C", "G", "U", "N"])
    with pytest.raises(CrossDNAError, match="only A C G T N"):
        load_tokenizer(tmp_path)
    empty = tmp_path / "nothing"
    empty.mkdir()
    with pytest.raises(CrossDNAError, match="no tokenizer could be loaded"):
        load_tokenizer(empty)
    broken = tmp_path / "broken"
    separate_kmer_tokenizer(2).save_pretrained(broken)
    path = broken / "tokenizer.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CrossDNAError, match="broken: no tokenizer could be loaded"):
        load_tokenizer(broken)


def test_bad_questions_are_refused():
    with pytest.raises(CrossDNAError, match="between 1 and 8, got 9"):
        OverlappingKmerTokenizer(9)
    with pytest.raises(CrossDNAError, match="between 1 and 8, got 0"):
        separate_kmer_tokenizer(0)
    with pytest.raises(CrossDNAError, match="2 bases has no 3-mer"):
        OverlappingKmerTokenizer(3)("AC")
    with pytest.raises(CrossDNAError, match="empty"):
        token_spans(CaduceusTokenizer(), "")


def test_command_line(fasta, tmp_path, capsys):
    folder = tmp_path / "bpe"
    arguments = ["train", "--type", "bpe", "--vocab", "40", str(fasta)]
    assert main(["tokenizer", *arguments, "--output", str(folder)]) == 0
    assert "40 tokens from" in capsys.readouterr().out
    assert len(load_tokenizer(folder)) == 40
    assert main(["tokenizer", *arguments, "--output", str(folder)]) == 2
    assert "not empty" in capsys.readouterr().err

    kmers = tmp_path / "kmers"
    created = ["create", "--type", "overlapping-kmer", "--k", "2"]
    assert main(["tokenizer", *created, "--output", str(kmers)]) == 0
    assert main(["tokenizer", "show", str(kmers), "ACG"]) == 0
    lines = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split("\t") for line in lines] == [
        ["[CLS]", "2", ".", "."],
        ["AC", "7", "0", "2"],
        ["CG", "16", "1", "3"],
        ["[SEP]", "3", ".", "."],
    ]
