"""Wrapped networks against transformers itself, one sequence at a time."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from crossdna import alphabet
from crossdna.analysis.inference import (
    base_log_probabilities,
    embeddings,
    load_model,
)
from crossdna.analysis.variants.score import ScoreSettings, default_scores
from crossdna.analysis.variants.score import score_alleles as score
from crossdna.data.genome import Genome
from crossdna.data.variants import read_allele, window_pair
from crossdna.errors import CrossDNAError
from crossdna.models.opening import Opened
from crossdna.tokenizers.spans import spread_over_bases, token_spans
from crossdna.zoo.families import FAMILIES
from tests.family_checkpoints import CHECKPOINTS, save, tokenizer

CAUSAL = sorted(
    name
    for name, (family, _, _) in CHECKPOINTS.items()
    if FAMILIES[family].objective == "causal"
)
KMERS = sorted(name for name, (_, kind, _) in CHECKPOINTS.items() if kind != "bpe")
WINDOW = 48


class Case:
    """A checkpoint, as this package and as transformers read it."""

    def __init__(self, name, folder):
        self.path = save(name, folder)
        self.causal = name in CAUSAL
        auto = AutoModelForCausalLM if self.causal else AutoModelForMaskedLM
        self.raw = auto.from_pretrained(self.path, dtype=torch.float32).eval()
        self.language = load_model(self.path, Opened(self.path).task, "cpu")
        self.bare = load_model(self.path, "embedding", "cpu")
        self.tokenizer = self.bare.reader.tokenizer
        kind = CHECKPOINTS[name][1]
        # The authors' slow tokenizers keep no places; their fast twins do.
        self.places = self.tokenizer
        if kind != "bpe":
            self.places = tokenizer(kind.removesuffix("-files"), self.path)
        self.words = self.tokenizer.get_vocab()

    def spans(self, text):
        return token_spans(self.places, text)

    def logs(self, ids):
        with torch.no_grad():
            logits = self.raw(torch.as_tensor(ids)[None]).logits[0]
        return logits.double().log_softmax(-1).numpy()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return functools.cache(lambda name: Case(name, folder))


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    letters = alphabet.decode(np.random.default_rng(3).integers(0, 4, 400))
    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    path.write_text(f">one\n{letters[:200]}NNN{letters[200:]}\n")
    return Genome.open([path])


def ids_of(*texts):
    return torch.stack(
        [torch.from_numpy(alphabet.encode(t).astype(int)) for t in texts]
    )


def random_ids(length, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (1, length)))


def random_text(length, seed):
    return alphabet.decode(random_ids(length, seed)[0].numpy())


def mirrored(text):
    return alphabet.decode(alphabet.reverse_complement(alphabet.encode(text)))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_base_has_the_mean_of_its_tokens(name, case):
    text = "ACGTTGCAACGNTTGACCATGAACGTACTTGACA"
    found, model = case(name).spans(text), case(name).bare
    bare = AutoModel.from_pretrained(case(name).path, dtype=torch.float32).eval()
    with torch.no_grad():
        states = bare(torch.from_numpy(found.ids)[None]).last_hidden_state
    expected = spread_over_bases(states[0].numpy(), found.spans, len(text))
    got = embeddings(model, ids_of(text))[0]
    np.testing.assert_allclose(got, expected, atol=2e-5)
    first = embeddings(model, ids_of(text), layer=0)[0]
    assert first.shape == got.shape
    assert not torch.equal(first, got)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_padding_on_either_side_changes_nothing(name, case):
    model = case(name).bare
    rows = [random_ids(41)[0], random_ids(23, seed=1)[0]]
    alone = [embeddings(model, row[None], strand="both")[0] for row in rows]
    for side in "left", "right":
        batch = torch.full((2, 41), alphabet.PAD)
        batch[0] = rows[0]
        own = slice(0, 23) if side == "right" else slice(18, 41)
        batch[1, own] = rows[1]
        mask = batch != alphabet.PAD
        got = embeddings(model, batch, mask, strand="both")
        torch.testing.assert_close(got[0], alone[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(got[1, own], alone[1], atol=2e-5, rtol=1e-4)
        assert not got[1][~mask[1]].any()


def hidden_base(case, text, place):
    """Probabilities of A C G T at one base: every k-mer over it masked."""
    found = case.spans(text)
    over = [i for i, (a, b) in enumerate(found.spans) if a <= place < b]
    masked = found.ids.copy()
    masked[over] = case.tokenizer.mask_token_id
    logs = case.logs(masked)
    mean = np.zeros(4)
    for token in over:
        start, end = found.spans[token]
        kmers = [text[start:place] + b + text[place + 1 : end] for b in "ACGT"]
        ratio = np.exp([logs[token, case.words[kmer]] for kmer in kmers])
        mean += ratio / ratio.sum() / len(over)
    return mean


def likelihood(case, text, loci, spacing=4):
    """Of a window: by the chain rule, or with every so-manieth token masked."""
    found = case.spans(text)
    counts = [
        i
        for i, (a, b) in enumerate(found.spans)
        if a >= 0 and set(text[a:b]) <= set("ACGT")
    ]
    if case.causal:
        logs = case.logs(found.ids)
        rivals = range(logs.shape[1])
        total = 0.0
        for i in counts:
            if not i:
                continue
            if case.language.gives_base_probabilities:
                size = found.spans[i, 1] - found.spans[i, 0]
                rivals = [
                    token
                    for word, token in case.words.items()
                    if len(word) == size and set(word) <= set("ACGT")
                ]
            total += logs[i - 1, found.ids[i]] - logsumexp(logs[i - 1, rivals])
        return total
    total, unit = 0.0, case.bare.reader.unit
    for rest in range(spacing):
        hidden = [
            i for i in counts if loci[found.spans[i, 0]] // unit % spacing == rest
        ]
        masked = found.ids.copy()
        masked[hidden] = case.tokenizer.mask_token_id
        logs = case.logs(masked)
        total += sum(logs[i, found.ids[i]] for i in hidden)
    return total


def likelihood_by_bases(case, text, loci, spacing):
    """Of a window: every so-manieth base hidden, each told from the k-mers over it."""
    found, total = case.spans(text), 0.0
    for rest in range(spacing):
        hidden = [i for i in range(len(text)) if loci[i] % spacing == rest]
        over = [
            [t for t, (a, b) in enumerate(found.spans) if a <= i < b] for i in hidden
        ]
        masked = found.ids.copy()
        masked[[t for tokens in over for t in tokens]] = case.tokenizer.mask_token_id
        logs = case.logs(masked)
        for i, tokens in zip(hidden, over, strict=True):
            own = []
            for token in tokens:
                a, b = found.spans[token]
                kmers = [text[a:i] + x + text[i + 1 : b] for x in "ACGT"]
                p = np.exp([logs[token, case.words[kmer]] for kmer in kmers])
                own.append(p["ACGT".index(text[i])] / p.sum())
            total += np.log(np.mean(own))
    return total


@pytest.mark.parametrize("name", sorted(set(KMERS) - set(CAUSAL)))
def test_a_hidden_base_by_the_kmers_that_differ_in_it(name, case):
    text = random_text(38, seed=4)
    for place in 0, 5, 6, 7, 36, 37:
        ids = ids_of(text)
        ids[0, place] = alphabet.MASK
        ahead = hidden_base(case(name), text, place)
        back = hidden_base(case(name), mirrored(text), 37 - place)[::-1]
        for strand in alphabet.STRANDS:
            expected = of_strand(strand, ahead, back)
            logs = base_log_probabilities(case(name).language, ids, strand=strand)
            np.testing.assert_allclose(logs[0, place].exp(), expected, atol=2e-6)


def test_several_hidden_bases_are_summed_over(case):
    chosen, text = case("nucleotide-transformer"), "ACGTTGCAACGT"
    ids = ids_of(text)
    ids[0, [3, 4]] = alphabet.MASK
    found, words = chosen.spans(text), chosen.words
    (token,) = [i for i, (a, b) in enumerate(found.spans) if a <= 3 < b]
    assert found.spans[token].tolist() == [3, 6]
    masked = found.ids.copy()
    masked[token] = words["<mask>"]
    p = np.exp(chosen.logs(masked)[token])
    table = np.array([[p[words[a + b + "G"]] for b in "ACGT"] for a in "ACGT"])
    logs = base_log_probabilities(chosen.language, ids)[0]
    np.testing.assert_allclose(logs[3].exp(), table.sum(1) / table.sum(), atol=1e-6)
    np.testing.assert_allclose(logs[4].exp(), table.sum(0) / table.sum(), atol=1e-6)
    # The third base of the token is given the two that are hidden: summed over.
    last = [sum(p[words[a + b + c]] for a in "ACGT" for b in "ACGT") for c in "ACGT"]
    np.testing.assert_allclose(logs[5].exp(), last / np.sum(last), atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(KMERS) & set(CAUSAL)))
def test_bases_of_a_causal_model_follow_the_chain_rule(name, case):
    text = random_text(20, seed=5)
    found, words = case(name).spans(text), case(name).words
    logs = base_log_probabilities(case(name).language, ids_of(text))[0]
    for token, (start, end) in enumerate(found.spans):
        if start < 0:
            continue
        p = np.exp(case(name).logs(found.ids[:token])[-1])
        rivals = [w for w in words if len(w) == end - start and set(w) <= set("ACGT")]
        own = p[words[text[start:end]]] / sum(p[words[word]] for word in rivals)
        told = sum(logs[i, "ACGT".index(text[i])] for i in range(start, end))
        assert told.exp().item() == pytest.approx(own, rel=1e-4)


def test_a_base_beside_n_that_no_kmer_spells(case):
    logs = base_log_probabilities(case("dnabert").language, ids_of("ACGTANCNACGTA"))[0]
    torch.testing.assert_close(logs[6], torch.full((4,), -math.log(4)))
    assert logs[4].std() > 0


def alleles_of(genome):
    changes = [(60, "snv"), (65, "deletion"), (130, "insertion"), (190, "snv")]
    found = []
    for place, kind in changes:
        base = alphabet.decode(genome.fetch("one", place, place + 3))
        other = "ACGT"[("ACGT".index(base[0]) + 1) % 4]
        ref, alt = {
            "snv": (base[0], other),
            "deletion": (base, base[0]),
            "insertion": (base[0], base[0] + "GT"),
        }[kind]
        found.append(read_allele(genome, "one", place, ref, alt, WINDOW))
    return found


def of_strand(strand, ahead, back):
    return {"+": ahead, "-": back, "both": (ahead + back) / 2}[strand]


def expected_score(case, column, pair, strand):
    """One score of a variant, from its two windows."""
    texts = [alphabet.decode(w.ids) for w in (pair.reference, pair.alternate)]
    if column in ("llr", "entropy"):
        place = len(texts[0]) - 1 - pair.offset
        ahead = hidden_base(case, texts[0], pair.offset)
        back = hidden_base(case, mirrored(texts[0]), place)[::-1]
        p = of_strand(strand, ahead, back)
        if column == "entropy":
            return -(p * np.log2(p)).sum()
        old, new = (text[pair.offset] for text in texts)
        return np.log(p["ACGT".index(new)] / p["ACGT".index(old)])
    values = []
    for text, window in zip(texts, (pair.reference, pair.alternate), strict=True):
        ahead = likelihood(case, text, window.loci)
        back = likelihood(case, mirrored(text), window.loci[::-1])
        values.append(of_strand(strand, ahead, back))
    return values[1] - values[0]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_scores_are_those_of_one_window_at_a_time(name, case, genome):
    chosen = case(name)
    names = default_scores(chosen.language)
    alleles = alleles_of(genome)
    reader = chosen.bare.reader
    by_bases = "llr" in names and (reader.overlapping or reader.unit == 1)
    for strand in alphabet.STRANDS if name in ("plant-esm", "gpt2") else ("both",):
        settings = ScoreSettings(
            scores=names, window=WINDOW, mask_spacing=4, strand=strand
        )
        got = score(chosen.language, genome, alleles, settings)
        for row, allele in enumerate(alleles):
            pair = window_pair(genome, allele, WINDOW)
            single = allele.is_substitution and "llr" in names
            for column in names:
                if (column == "llr" and not single) or (column == "pll" and single):
                    assert math.isnan(got[column][row])
                elif column != "pll" or not by_bases:
                    expected = expected_score(chosen, column, pair, strand)
                    assert got[column][row] == pytest.approx(expected, abs=1e-4), column


@pytest.mark.parametrize(("name", "spacing"), [("dnabert", 12), ("modernbert", 4)])
def test_windows_base_by_base(name, spacing, case, genome):
    """Every 4th base hidden where each has its own token; of 3-mers every 12th."""
    settings = ScoreSettings(scores=("pll",), window=WINDOW, mask_spacing=4, strand="+")
    allele = alleles_of(genome)[1]
    pair = window_pair(genome, allele, WINDOW)
    sums = [
        likelihood_by_bases(case(name), alphabet.decode(w.ids), w.loci, spacing)
        for w in (pair.reference, pair.alternate)
    ]
    got = score(case(name).language, genome, [allele], settings)["pll"][0]
    assert got == pytest.approx(sums[1] - sums[0], abs=1e-4)


def test_byte_pairs_have_no_bases_of_their_own(case):
    for name, other in ("grover", "pll"), ("gpt2", "ll"):
        assert default_scores(case(name).language) == (other,)
        with pytest.raises(CrossDNAError, match="byte pairs"):
            base_log_probabilities(case(name).language, random_ids(20))


def test_too_many_tokens_are_told(case):
    with pytest.raises(CrossDNAError, match=r"141 bases are 141 tokens.*reads 140"):
        embeddings(case("dnabert").bare, random_ids(141))
    assert embeddings(case("dnabert").bare, random_ids(140)).shape == (1, 140, 16)
    offset = case("gena-roberta").bare
    rows = 140 - offset.net.config.pad_token_id - 1
    assert offset.config.family.longest(offset.net.config) == rows


@pytest.mark.parametrize("name", sorted(CHECKPOINTS)[:2])
def test_what_cannot_be_read_is_refused(name, tmp_path):
    model = load_model(save(name, tmp_path), "embedding", "cpu")
    ids = torch.arange(40)[None] % 4
    mask = torch.ones_like(ids)
    mask[0, 10:15] = 0
    with pytest.raises(CrossDNAError, match="left or right"):
        model(ids, attention_mask=mask)
    for number in (-1, 256):
        with pytest.raises(CrossDNAError, match=r"crossdna\.alphabet"):
            model(torch.where(mask == 0, number, ids))
    with pytest.raises(CrossDNAError, match="without sequences"):
        model(ids[:0])


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_classifiers_load_in_bfloat16(name, tmp_path):
    opened = Opened(save(name, tmp_path))
    opened.config.num_labels = 3
    opened.model("classification", new_head=True).save_pretrained(tmp_path / "head")
    ids = torch.arange(40)[None] % 4
    auto = AutoModelForSequenceClassification
    rough = auto.from_pretrained(tmp_path / "head", dtype=torch.bfloat16).eval()
    exact = auto.from_pretrained(tmp_path / "head", dtype=torch.float32).eval()
    assert {p.dtype for p in rough.parameters()} == {torch.bfloat16}
    with torch.inference_mode():
        torch.testing.assert_close(
            rough(ids).logits.float(), exact(ids).logits, atol=0.1, rtol=0.1
        )
