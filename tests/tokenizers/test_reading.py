"""Base ids read as tokens: what the tokenizer gives, and what hidden bases do."""

import numpy as np
import pytest
from transformers import BertTokenizer, EsmTokenizer, PreTrainedTokenizerFast

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.tokenizers.bases import base_tokenizer
from crossdna.tokenizers.bpe import train_byte_pairs
from crossdna.tokenizers.character import CaduceusTokenizer
from crossdna.tokenizers.kmer import (
    OverlappingKmerTokenizer,
    overlapping_vocabulary,
    separate_kmer_tokenizer,
    separate_vocabulary,
)
from crossdna.tokenizers.reading import KmerReader, TextReader, make_reader
from crossdna.tokenizers.spans import token_spans
from tokenizers import Regex, Tokenizer, models, pre_tokenizers


def esm_files(folder, k, **options):
    """The Nucleotide Transformer's own files: a plain list of words."""
    (folder / "vocab.txt").write_text("\n".join(separate_vocabulary(k)))
    return EsmTokenizer(str(folder / "vocab.txt"), **{"eos_token": None, **options})


def bert_files(folder, k):
    """DNABERT's own files, whose tokenizer wants k-mers with spaces between."""
    (folder / "vocab.txt").write_text("\n".join(overlapping_vocabulary(k)))
    return BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)


def draws(count=40, longest=45, gaps=0.08):
    rng = np.random.default_rng(0)
    shares = [*[(1 - gaps) / 4] * 4, gaps]
    return [
        rng.choice(5, size=rng.integers(8, longest), p=shares).astype(np.uint8)
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("made", "layout"),
    [
        (base_tokenizer, (1, False, (), ())),
        (CaduceusTokenizer, (1, False, (), (1,))),
        (lambda: separate_kmer_tokenizer(1), (1, False, (3,), ())),
        (lambda: separate_kmer_tokenizer(6), (6, False, (3,), ())),
        (lambda: OverlappingKmerTokenizer(4), (4, True, (2,), (3,))),
    ],
)
def test_kmers_are_cut_as_the_tokenizer_does(made, layout):
    tokenizer = made()
    reader = make_reader(tokenizer)
    assert isinstance(reader, KmerReader)
    assert (reader.k, reader.overlapping, reader.prefix, reader.suffix) == layout
    sequences = draws()
    for ids, found in zip(sequences, reader.read(sequences), strict=True):
        expected = token_spans(tokenizer, alphabet.decode(ids))
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.spans.tolist() == expected.spans.tolist()


def test_files_of_the_authors(tmp_path):
    for folder in ("esm", "ends", "bert"):
        (tmp_path / folder).mkdir()
    esm = make_reader(esm_files(tmp_path / "esm", 6))
    twin = make_reader(separate_kmer_tokenizer(6))
    bert = make_reader(bert_files(tmp_path / "bert", 5))
    other = make_reader(OverlappingKmerTokenizer(5))
    assert (esm.k, esm.overlapping, bert.k, bert.overlapping) == (6, False, 5, True)
    for ids in draws():
        assert esm.read([ids])[0].ids.tolist() == twin.read([ids])[0].ids.tolist()
        assert bert.read([ids])[0].ids.tolist() == other.read([ids])[0].ids.tolist()


def test_hidden_bases_mask_every_token_over_them():
    ids = alphabet.encode("ACGTTGCAAC")
    ids[4] = alphabet.MASK
    separate = make_reader(separate_kmer_tokenizer(3)).read([ids])[0]
    shown = make_reader(separate_kmer_tokenizer(3)).read(
        [alphabet.encode("ACGTTGCAAC")]
    )[0]
    mask = separate_kmer_tokenizer(3).mask_token_id
    assert (separate.ids == mask).tolist() == [False, False, True, False, False]
    assert (
        separate.ids[separate.ids != mask].tolist() == np.delete(shown.ids, 2).tolist()
    )
    overlapping = make_reader(OverlappingKmerTokenizer(3)).read([ids])[0]
    over = [a <= 4 < b for a, b in overlapping.spans]
    assert (overlapping.ids == 4).tolist() == over
    # A k-mer with an N is unknown whatever is hidden in it.
    ids[5] = alphabet.N
    both = make_reader(OverlappingKmerTokenizer(3)).read([ids])[0].ids.tolist()
    assert both.count(1) == 3
    assert both.count(4) == 1


def test_byte_pairs_cover_every_base(tmp_path):
    (tmp_path / "g.fa").write_text(
        ">one\n" + alphabet.decode(np.concatenate(draws(200, gaps=0))) + "\n"
    )
    reader = make_reader(train_byte_pairs([tmp_path / "g.fa"], vocab_size=60).tokenizer)
    assert isinstance(reader, TextReader)
    sequences = draws(5)
    for ids, found in zip(sequences, reader.read(sequences), strict=True):
        covered = [i for a, b in found.spans for i in range(a, b)]
        assert covered == list(range(len(ids)))
    with pytest.raises(CrossDNAError, match="byte pairs"):
        reader.read([np.array([0, alphabet.MASK], np.uint8)])


def words(vocabulary, pattern, **options):
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", **options
    )


def test_what_cannot_be_mapped_is_refused(tmp_path):
    plain = {"[UNK]": 0, "[PAD]": 1}
    with pytest.raises(CrossDNAError, match="no words over A C G T"):
        make_reader(words(plain | {"the": 2}, "."))
    # Letters that are thrown away would shift every base behind them.
    leaky = words(plain | {"A": 2, "C": 3, "G": 4, "T": 5, "AC": 6}, "AC|.")
    backend = leaky.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("G"), "removed")
    with pytest.raises(CrossDNAError, match="leaves out letters"):
        make_reader(leaky)
    # Words of several lengths, and no places kept.
    words_file = tmp_path / "vocab.txt"
    words_file.write_text("\n".join(["<unk>", "<pad>", "<cls>", *"ACGT", "AC", "GTA"]))
    slow = EsmTokenizer(str(words_file), eos_token=None)
    with pytest.raises(CrossDNAError, match="neither cuts k-mers nor keeps"):
        make_reader(slow)


def test_sequences_that_have_no_tokens():
    with pytest.raises(CrossDNAError, match=r"2 bases has no 3-mer"):
        make_reader(OverlappingKmerTokenizer(3)).read([alphabet.encode("AC")])
    silent = words({"[PAD]": 0, "[UNK]": 1, "A": 2, "C": 3, "G": 4, "T": 5}, ".")
    reader = make_reader(silent)
    assert reader.read([alphabet.encode("AN")])[0].ids.tolist() == [2, 1]
    assert reader.mask_id is None
    with pytest.raises(CrossDNAError, match="no mask token"):
        reader.read([np.array([0, alphabet.MASK], np.uint8)])


def test_single_bases_are_decoded_as_they_were():
    tokenizer = base_tokenizer()
    ids = tokenizer("ANCGx")["input_ids"]
    assert tokenizer.decode(ids) == "ANCGN"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ANCGN"
