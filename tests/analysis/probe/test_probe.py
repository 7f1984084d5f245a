"""Linear probe: windows, k-mers, metrics and the classifier."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from crossdna import CrossDNAConfig, CrossDNAModel, alphabet
from crossdna.analysis.inference import embeddings
from crossdna.analysis.probe import coding as probe_coding
from crossdna.analysis.probe import linear as probe
from crossdna.data.annotation import Annotation
from crossdna.data.genome import Genome
from crossdna.data.regions import Region
from crossdna.errors import CrossDNAError

SETTINGS = probe.ProbeSettings(
    window=30, windows_per_class=40, batch_size=16, resamples=50
)


@pytest.fixture
def annotation(tmp_path, rng):
    """Genes of 100 GC-rich bases, 150 AT-rich bases apart; some of them lower case."""
    pieces, lines = [], []
    for gene in range(60):
        pieces.append("".join(rng.choice(list("ACGT"), 150, p=[0.4, 0.1, 0.1, 0.4])))
        if gene % 3 == 0:
            pieces[-1] = pieces[-1].lower()
        start = sum(map(len, pieces))
        lines.append(f"one\tx\tCDS\t{start + 1}\t{start + 100}\t.\t+\t0\tID=c{gene}\n")
        pieces.append("".join(rng.choice(list("ACGT"), 100, p=[0.2, 0.3, 0.3, 0.2])))
    fasta, gff = tmp_path / "genome.fa", tmp_path / "genes.gff"
    fasta.write_text(f">one\n{''.join(pieces)}\n")
    gff.write_text("".join(lines))
    return Annotation.read(gff, Genome.open(fasta, tmp_path / "cache"))


@pytest.fixture
def parts(annotation):
    return [
        probe.draw_coding_windows(annotation, [region], SETTINGS, where="test")
        for region in (Region("one", 0, 10_000), Region("one", 10_000, 15_000))
    ]


def test_too_few_windows_asked_for_are_not_blamed_on_the_chromosomes(annotation):
    with pytest.raises(CrossDNAError, match="windows_per_class must be at least 10"):
        probe.ProbeSettings(windows_per_class=9)
    settings = probe.ProbeSettings(window=30, windows_per_class=10)
    found = probe.draw_coding_windows(
        annotation, [Region("one", 0, 10_000)], settings, where="test"
    )
    assert len(found.labels) == 20


def test_windows_are_pure_balanced_and_apart(annotation, parts):
    track = annotation.class_track("one").classes
    genome = annotation.genome.fetch("one", 0, 15_000)
    letters = alphabet.decode(genome)
    for windows, (low, high) in zip(
        parts, [(0, 10_000), (10_000, 15_000)], strict=True
    ):
        assert windows.labels.sum() * 2 == len(windows.labels)
        starts = []
        for ids, label in zip(windows.ids, windows.labels, strict=True):
            start = letters.find(alphabet.decode(ids), low, high)
            assert start >= 0
            classes = set(track[start : start + 30].tolist())
            assert classes == ({5} if label else {0})
            starts.append(start)
        assert np.diff(np.sort(starts)).min() >= 30


def test_mostly_repeats_are_no_intergenic_windows(annotation):
    """Every third stretch between genes is lower case and must not be drawn."""
    region = Region("one", 0, 150)
    with pytest.raises(CrossDNAError, match="only 0 windows of 30 bases"):
        probe.draw_coding_windows(annotation, [region], SETTINGS, where="here")


def test_kmers_equal_direct_counting(rng):
    ids = rng.integers(4, size=(3, 40)).astype(np.uint8)
    ids[0, 7] = alphabet.N
    found = probe.kmer_frequencies(ids, 3)
    assert found.shape == (3, 32)
    assert np.allclose(found.sum(1), 1)
    # Words are numbered with their first base as the lowest digit.
    letters = ["".join(word[::-1]) for word in itertools.product("ACGT", repeat=3)]
    mirror = {w: w[::-1].translate(str.maketrans("ACGT", "TGCA")) for w in letters}
    place = {w: i for i, w in enumerate(letters)}
    kept = [w for w in letters if place[w] <= place[mirror[w]]]
    for row, window in enumerate(ids):
        text = alphabet.decode(window)
        words = [text[i : i + 3] for i in range(38) if "N" not in text[i : i + 3]]
        slow = [sum(w in (k, mirror[k]) for w in words) / len(words) for k in kept]
        assert found[row] == pytest.approx(slow)


def test_kmers_are_the_same_on_both_strands(rng):
    ids = rng.integers(5, size=(4, 50)).astype(np.uint8)
    mirrored = alphabet.reverse_complement(ids)
    for size in (3, 4):
        forward = probe.kmer_frequencies(ids, size)
        assert np.allclose(forward, probe.kmer_frequencies(mirrored, size))


def test_metrics_equal_sklearn(rng):
    labels = rng.integers(2, size=100)
    scores = np.round(labels + rng.normal(size=100), 1)
    assert probe.area_under_roc(labels, scores) == pytest.approx(
        roc_auc_score(labels, scores)
    )
    assert probe.matthews_correlation(labels, scores > 0.5) == pytest.approx(
        matthews_corrcoef(labels, scores > 0.5)
    )
    assert probe.matthews_correlation(labels, np.ones(100, bool)) == 0


def test_composition_is_found_and_chance_is_chance(parts):
    train, held_out = parts
    kmers = probe.score_kmers(train, held_out, SETTINGS)
    assert kmers.auroc.estimate > 0.9
    assert kmers.mcc.estimate > 0.6
    majority = probe.score_majority(held_out, SETTINGS)
    assert majority.auroc == (0.5, 0.5, 0.5)
    assert majority.mcc == (0, 0, 0)


def test_what_is_not_there_cannot_be_predicted(rng):
    """Labels that have nothing to do with the windows."""
    train, held_out = (
        probe.LabelledWindows(
            rng.integers(4, size=(200, 30)).astype(np.uint8),
            rng.permutation([0, 1] * 100),
        )
        for _ in range(2)
    )
    features = probe.Features(
        *(probe.kmer_frequencies(part.ids, 2) for part in (train, held_out))
    )
    score = probe.score_features(train, held_out, features, SETTINGS, description="")
    assert 0.4 < score.auroc.estimate < 0.6
    assert score.auroc.low < 0.5 < score.auroc.high


@pytest.fixture
def model():
    torch.manual_seed(1)
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=8, attention_heads=2, block_size=16
    )
    return CrossDNAModel(config).eval()


def test_embeddings_are_means_whatever_the_batch_and_strand(model, parts):
    ids = parts[1].ids[:7]
    found = probe.mean_embeddings(model, ids, batch_size=3)
    whole = torch.from_numpy(ids.astype(np.int64))
    slow = embeddings(model, whole, strand="both").mean(1)
    assert np.allclose(found, slow.numpy(), atol=1e-5)
    mirrored = alphabet.reverse_complement(ids)
    other = probe.mean_embeddings(model, mirrored, batch_size=7)
    assert np.allclose(found, other, atol=1e-5)


def test_random_copy_has_other_weights_and_leaves_the_generator_alone(model):
    before = torch.random.get_rng_state()
    copies = [probe.random_copy(model, seed=3) for _ in range(2)]
    assert (torch.random.get_rng_state() == before).all()
    for (name, weight), (_, other) in zip(
        copies[0].named_parameters(), copies[1].named_parameters(), strict=True
    ):
        assert torch.equal(weight, other), name
    ours, theirs = model.state_dict(), copies[0].state_dict()
    assert ours.keys() == theirs.keys()
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_whole_probe(model, parts):
    seen = []
    result = probe_coding.probe_coding(model, *parts, SETTINGS, advance=seen.append)
    assert sum(seen) == 2 * sum(len(part.labels) for part in parts)
    assert list(result.scores) == ["pretrained", "random weights", "k-mers", "majority"]
    for projection in result.projections.values():
        assert projection.points.shape == (len(parts[1].labels), 2)
        assert 0 < projection.explained.sum() <= 1 + 1e-6
    for score in result.scores.values():
        assert 0 <= score.auroc.low <= score.auroc.estimate <= score.auroc.high <= 1
