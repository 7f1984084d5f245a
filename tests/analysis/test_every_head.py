"""Every kind of sequence head through score, ism, track and the one-hot wrapper.

What the verbs make of a head, with all they share and reuse, against the whole windows
read by themselves.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from crossdna import alphabet
from crossdna.analysis.inference import load_model, sequence_logits
from crossdna.analysis.mutagenesis.ism import mutagenesis
from crossdna.analysis.mutagenesis.onehot import OneHotModel
from crossdna.analysis.tracks.settings import TrackSettings
from crossdna.analysis.tracks.track import compute, read_values
from crossdna.analysis.variants.score import ScoreSettings, score_alleles
from crossdna.data.genome import Genome
from crossdna.data.regions import Region
from crossdna.data.variants import read_allele, window_pair
from crossdna.models.heads import POOLINGS

WINDOW = 48
KINDS = [(pooling, motifs) for pooling in POOLINGS for motifs in (0, 6)]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def model(request, tiny_checkpoint):
    pooling, motifs = request.param
    path = tiny_checkpoint(
        "CrossDNAForSequenceClassification",
        num_labels=1,
        head_pooling=pooling,
        head_length=WINDOW,
        head_motifs=motifs,
        head_width=5 if motifs else 0,
        block_size=20,
    )
    return load_model(path, "classification", "cpu")


@pytest.fixture
def genome(tmp_path, rng, cache_folder):
    letters = rng.choice(list("ACGT"), 160)
    letters[90:93] = "N"
    (tmp_path / "g.fa").write_text(f">c\n{''.join(letters)}\n")
    return Genome.open(tmp_path / "g.fa")


def logits(model, windows):
    ids = torch.from_numpy(np.stack(windows).astype(np.int64))
    return sequence_logits(model, ids, strand="both")[:, 0].numpy()


def changes(genome, rng):
    """Every kind of change, many of them in one window, both ends of the contig too."""
    places = [0, 1, *range(60, 65), 89, 93, 158, 159]
    for place in places:
        ref = alphabet.decode(genome.fetch("c", place, place + 1))
        for alt in "ACGT".replace(ref, ""):
            yield place, ref, alt
    for place, length in ((62, 3), (100, 2)):
        ref = alphabet.decode(genome.fetch("c", place, place + length))
        yield place, ref, ref[0]
        yield place, ref[0], ref[0] + "".join(rng.choice(list("ACGT"), length))


def test_score(model, genome, rng):
    alleles = [
        read_allele(genome, "c", place, ref, alt, WINDOW)
        for place, ref, alt in changes(genome, rng)
    ]
    assert not any(allele.skip for allele in alleles)
    settings = ScoreSettings(scores=("head",), window=WINDOW)
    found = score_alleles(model, genome, alleles, settings)["head"]
    pairs = [window_pair(genome, allele, WINDOW) for allele in alleles]
    expected = logits(model, [pair.alternate.ids for pair in pairs])
    expected -= logits(model, [pair.reference.ids for pair in pairs])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 1e-4


def test_ism(model, genome):
    settings = ScoreSettings(scores=("head",), window=WINDOW)
    region = Region("c", 88, 95)
    found = mutagenesis(model, genome, region, settings, deletions=True)
    for place in range(region.start, region.end):
        ref = alphabet.decode(genome.fetch("c", place, place + 1))
        here = found.substitutions[place - region.start, :, 0]
        assert np.isnan(here).all() == (ref == "N")
        if ref == "N":
            continue
        for alt in "ACGT".replace(ref, ""):
            allele = read_allele(genome, "c", place, ref, alt, WINDOW)
            alone = score_alleles(model, genome, [allele], settings)["head"]
            assert here["ACGT".index(alt)] == pytest.approx(alone[0], abs=1e-5)


def test_track(model, genome, tmp_path):
    settings = TrackSettings(window=WINDOW, step=8, batch_size=3, strand="both")
    region = Region("c", 3, 160)
    compute(model, genome, region, settings, tmp_path / "work")
    parts = read_values(model, genome, region, settings, tmp_path / "work")
    found = np.concatenate([part.tracks["head"] for part in parts])
    ids = genome.fetch("c", region.start, region.end)
    middles = 8 * np.arange(len(found)) + 4
    starts = np.clip(middles - WINDOW // 2, 0, len(region) - WINDOW)
    expected = logits(model, [ids[start : start + WINDOW] for start in starts])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_hot(model, rng):
    ids = torch.from_numpy(rng.integers(0, 5, (2, WINDOW)))
    x = F.one_hot(ids, 5)[..., :4].transpose(1, 2).float()
    expected = sequence_logits(model, ids, strand="both")
    wrapped = OneHotModel(model)
    torch.testing.assert_close(wrapped(x), expected)
    soft = wrapped(x.requires_grad_())
    torch.testing.assert_close(soft, expected, atol=1e-5, rtol=1e-5)
