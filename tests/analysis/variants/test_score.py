"""Scores against a slow direct computation, one allele, window and base at a time."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossdna import (
    CrossDNAConfig,
    CrossDNAForMaskedLM,
    CrossDNAForSequenceClassification,
    alphabet,
)
from crossdna.analysis.inference import load_model
from crossdna.analysis.variants.score import ScoreSettings, score_alleles, score_names
from crossdna.data.genome import Genome
from crossdna.data.variants import read_allele
from crossdna.errors import CrossDNAError

WINDOW = 48
ALL = ("llr", "pll", "entropy", "distance")


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    torch.set_num_threads(1)
    return load_model(tiny_checkpoint(), "masked-lm", "cpu")


@pytest.fixture(scope="module")
def classifier(tiny_checkpoint):
    path = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=3)
    return load_model(path, "classification", "cpu")


@pytest.fixture(scope="module")
def bases():
    rng = np.random.default_rng(1)
    return "".join(rng.choice(list("ACGT"), 300)) + "CACACACACA" + "N" * 5 + "GATTACA"


@pytest.fixture(scope="module")
def genome(bases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    (folder / "g.fa").write_text(f">c\n{bases}\n>short\nGATTACAGATTACATTTGACCAT\n")
    return Genome.open(folder / "g.fa", cache=folder / "cache")


def forward_and_back(model, ids):
    """Softmax over A C G T from the window and, mirrored, from its other strand."""
    with torch.inference_mode():
        ahead = model(torch.tensor([ids])).logits[0, :, :4].softmax(-1)
        other = [3 - i if i < 4 else i for i in reversed(ids)]
        back = model(torch.tensor([other])).logits[0, :, :4].softmax(-1)
    return ((ahead + back.flip(0, 1)) / 2).log().double().numpy()


def slow_windows(bases, position, ref, alt):
    """Cut both windows, as (start, bases), out of the contig and the changed contig."""
    changed = bases[:position] + alt + bases[position + len(ref) :]
    length = min(WINDOW, len(bases), len(changed))
    step = length // 16
    start = max(0, (position - length // 2) // step * step)
    end = position + max(len(ref), len(alt))
    if start + length > min(len(bases), len(changed)) or end > start + length:
        starts = len(bases) - length, len(changed) - length
    else:
        starts = start, start
    return [
        (start, whole[start : start + length])
        for start, whole in zip(starts, (bases, changed), strict=True)
    ]


def slow_masked(model, window, position):
    ids = list(alphabet.encode(window))
    ids[position] = alphabet.MASK
    return forward_and_back(model, [int(i) for i in ids])[position]


def check_llr(model, bases, genome, contig, position, alt):
    ref = bases[position]
    allele = read_allele(genome, contig, position, ref, alt, WINDOW)
    found = score_alleles(
        model, genome, [allele], ScoreSettings(scores=ALL, window=WINDOW)
    )
    (start, window), _ = slow_windows(bases, position, ref, alt)
    logs = slow_masked(model, window, position - start)
    expected = logs["ACGT".index(alt)] - logs["ACGT".index(ref)]
    assert found["llr"][0] == pytest.approx(expected, abs=1e-5)
    entropy = -(np.exp(logs) * logs).sum() / np.log(2)
    assert found["entropy"][0] == pytest.approx(entropy, abs=1e-5)
    assert np.isnan(found["pll"][0])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 299), st.sampled_from("ACGT"))
def test_substitutions_anywhere(model, bases, genome, position, alt):
    if alt != bases[position]:
        check_llr(model, bases, genome, "c", position, alt)


@pytest.mark.parametrize("position", [0, 1, 11, 21, 22])
def test_substitutions_on_a_contig_shorter_than_the_window(model, genome, position):
    bases = "GATTACAGATTACATTTGACCAT"
    alt = "A" if bases[position] != "A" else "G"
    check_llr(model, bases, genome, "short", position, alt)


def test_substitutions_at_the_end_and_beside_n(model, bases, genome):
    for position in (len(bases) - 1, len(bases) - 7, 309):
        alt = "A" if bases[position] != "A" else "G"
        check_llr(model, bases, genome, "c", position, alt)


def slow_likelihood(model, window, loci, spacing):
    total = 0.0
    for rest in range(spacing):
        ids = [int(i) for i in alphabet.encode(window)]
        hide = [i for i, locus in enumerate(loci) if locus % spacing == rest]
        hide = [i for i in hide if ids[i] < 4]
        masked = [alphabet.MASK if i in hide else base for i, base in enumerate(ids)]
        logs = forward_and_back(model, masked)
        total += sum(logs[i, ids[i]] for i in hide)
    return total


@pytest.mark.parametrize(
    ("position", "deleted", "alt"),
    [(100, 2, "T"), (150, 1, "ACGTT"), (200, 3, "MNV"), (0, 3, "A"), (318, 3, "T")],
)
def test_insertions_deletions_and_the_like(
    model, bases, genome, position, deleted, alt
):
    ref = bases[position : position + deleted]
    alt = alt if alt != "MNV" else ref.translate(str.maketrans("ACGT", "CATG"))
    allele = read_allele(genome, "c", position, ref, alt, WINDOW)
    chosen = ScoreSettings(scores=ALL, window=WINDOW, mask_spacing=4)
    found = score_alleles(model, genome, [allele], chosen)
    _, place, gone, new, _ = allele
    (start, reference), (other, alternate) = slow_windows(bases, place, gone, new)
    loci = list(range(start, start + len(reference)))
    before = slow_likelihood(model, reference, loci, 4)
    # Inserted bases count on; those behind keep the positions that the genome gives.
    loci = [*range(other, place), *range(place, place + len(new))]
    behind = place + len(gone)
    loci += range(behind, behind + len(alternate) - len(loci))
    after = slow_likelihood(model, alternate, loci, 4)
    assert found["pll"][0] == pytest.approx(after - before, abs=1e-4)
    assert np.isnan(found["llr"][0])
    assert found["distance"][0] > 0


@pytest.mark.parametrize("strand", alphabet.STRANDS)
def test_both_strands_get_the_same(model, classifier, bases, tmp_path, strand):
    """The variant on the reverse complement of the genome has the mirrored score.

    With one strand, when the other one is read.
    """
    other = alphabet.decode(alphabet.reverse_complement(alphabet.encode(bases)))
    (tmp_path / "g.fa").write_text(f">c\n{bases}\n")
    (tmp_path / "r.fa").write_text(f">c\n{other}\n")
    ahead = Genome.open(tmp_path / "g.fa", cache=tmp_path / "cache")
    back = Genome.open(tmp_path / "r.fa", cache=tmp_path / "cache")
    # The window is the whole contig, so that both hold the same bases.
    turned = {"+": "-", "-": "+", "both": "both"}[strand]
    size, first, second = len(bases), [], []
    # Many of them, which are read from where they differ; and four bases changed.
    for position in (*range(0, 300, 5), 299):
        for length in (1, 4) if position in (5, 150) else (1,):
            place = slice(position, position + length)
            alt = bases[place].translate(str.maketrans("ACGT", "CATG"))
            first.append(read_allele(ahead, "c", position, bases[place], alt, size))
            mirrored = size - position - length
            place = slice(mirrored, mirrored + length)
            alt = alphabet.decode(alphabet.reverse_complement(alphabet.encode(alt)))
            second.append(read_allele(back, "c", mirrored, other[place], alt, size))
    for network, scores in ((model, ALL), (classifier, ("head", "distance"))):
        chosen = ScoreSettings(scores=scores, window=size, strand=strand)
        found = score_alleles(network, ahead, first, chosen)
        chosen = ScoreSettings(scores=scores, window=size, strand=turned)
        expected = score_alleles(network, back, second, chosen)
        for name, values in found.items():
            if name == "entropy":
                # Of the first base, which is the last one from the other side.
                single = np.array([allele.is_substitution for allele in first])
                values, expected[name] = values[single], expected[name][single]
            # A sum over all bases, whose rounding adds up.
            atol = 2e-4 if name == "pll" else 1e-5
            np.testing.assert_allclose(values, expected[name], atol=atol)
            assert np.nanmax(np.abs(values)) > 1e-3


def test_neighbours_and_batches_change_nothing(model, classifier, bases, genome):
    alleles = []
    for position in range(120, 160):
        for alt in ("A", "C", bases[position] + "GT", "*"):
            ref = bases[position]
            if alt != ref:
                alleles.append(read_allele(genome, "c", position, ref, alt, WINDOW))
    for network, scores in ((model, ALL), (classifier, ("head", "distance"))):
        many = ScoreSettings(scores=scores, window=WINDOW, batch_size=64)
        one = ScoreSettings(scores=scores, window=WINDOW, batch_size=1)
        together = score_alleles(network, genome, alleles, many)
        for row in (0, 1, 2, 3, 50, 99):
            alone = score_alleles(network, genome, [alleles[row]], one)
            for name, values in alone.items():
                np.testing.assert_allclose(together[name][row], values[0], atol=1e-5)
        skipped = [row for row, allele in enumerate(alleles) if allele.skip]
        assert len(skipped) == 40
        assert all(np.isnan(values[skipped]).all() for values in together.values())


@pytest.mark.parametrize(
    ("kind", "score", "window"),
    [
        (CrossDNAForMaskedLM, "llr", 512),
        (CrossDNAForMaskedLM, "llr", 544),
        (CrossDNAForSequenceClassification, "head", 544),
        (CrossDNAForMaskedLM, "distance", 544),
    ],
)
def test_a_score_depends_on_its_variant_alone(tmp_path, rng, kind, score, window):
    """Random weights of the paper's size multiply what was rounded otherwise.

    From 512 bases on, attention rounds otherwise when it is read in parts.
    """
    torch.manual_seed(0)
    model = kind(CrossDNAConfig(residual=False)).eval()
    bases = "".join(rng.choice(list("ACGT"), 2000))
    (tmp_path / "g.fa").write_text(f">c\n{bases}\n")
    genome = Genome.open(tmp_path / "g.fa", cache=tmp_path / "cache")
    alleles = [
        read_allele(genome, "c", p, bases[p], "A" if bases[p] != "A" else "C", window)
        for p in (1200, 501, 503, 506, 508)
    ]
    many = ScoreSettings(scores=(score,), window=window, batch_size=5)
    one = ScoreSettings(scores=(score,), window=window, batch_size=1)
    together = score_alleles(model, genome, alleles, many)
    alone = score_alleles(model, genome, alleles[1:2], one)
    for name, values in alone.items():
        np.testing.assert_allclose(together[name][1], values[0], atol=1e-5, rtol=0)


def test_head_is_the_difference_of_log_odds(classifier, bases, genome):
    position, ref = 150, bases[150]
    alt = "A" if ref != "A" else "C"
    allele = read_allele(genome, "c", position, ref, alt, WINDOW)
    found = score_alleles(
        classifier, genome, [allele], ScoreSettings(scores=("head",), window=WINDOW)
    )
    assert list(found) == ["head_LABEL_0", "head_LABEL_1", "head_LABEL_2"]
    odds = []
    for _, window in slow_windows(bases, position, ref, alt):
        ids = torch.from_numpy(alphabet.encode(window)).long()[None]
        with torch.inference_mode():
            other = alphabet.complement_ids(ids).flip(1)
            logits = (classifier(ids).logits + classifier(other).logits)[0] / 2
        odds.append(torch.logit(logits.double().softmax(0)))
    expected = (odds[1] - odds[0]).numpy()
    np.testing.assert_allclose([v[0] for v in found.values()], expected, atol=1e-5)
    assert np.abs(expected).max() > 1e-4


def test_what_cannot_be_asked(model, classifier):
    with pytest.raises(CrossDNAError, match="needs a model for classification"):
        score_names(model, ["head"])
    with pytest.raises(CrossDNAError, match="needs a model for masked-lm"):
        score_names(classifier, ["llr"])
    with pytest.raises(CrossDNAError, match="scores are llr"):
        ScoreSettings(scores=("llm",))
    with pytest.raises(CrossDNAError, match="window"):
        ScoreSettings(scores=("llr",), window=3)
