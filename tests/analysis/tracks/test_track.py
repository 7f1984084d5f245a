"""Tracks: streamed in pieces as read whole, resumed, whatever the piece."""

import numpy as np
import pytest
import torch

from crossdna import alphabet
from crossdna.analysis.inference import (
    base_log_probabilities,
    embeddings,
    load_model,
    sequence_logits,
    token_logits,
)
from crossdna.analysis.tracks.bins import Means, principal_components
from crossdna.analysis.tracks.settings import TrackSettings
from crossdna.analysis.tracks.stream import Streamer, can_stream, masked_sequence
from crossdna.analysis.tracks.track import compute, read_bins, read_values
from crossdna.data.genome import Genome
from crossdna.data.regions import Region
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import streams

LENGTH = 420


@pytest.fixture
def genome(tmp_path, rng, cache_folder):
    letters = rng.choice(list("ACGT"), LENGTH)
    letters[180:220] = "N"
    (tmp_path / "g.fa").write_text(f">c\n{''.join(letters)}\n")
    return Genome.open(tmp_path / "g.fa")


def tracks(model, genome, region, settings, folder):
    compute(model, genome, region, settings, folder)
    parts = list(read_values(model, genome, region, settings, folder))
    starts = [part.start for part in parts]
    assert starts == sorted(starts)
    assert parts[-1].end == region.end
    return {
        name: np.concatenate([part.tracks[name] for part in parts])
        for name in parts[0].tracks
    }


def whole(model, ids, spacing, strand):
    """Every base of a sequence predicted while hidden, the sequence read at once."""
    ids = torch.from_numpy(ids.astype(np.int64))

    def one_strand(ids):
        found = np.full((len(ids), 4), np.nan)
        for rest in range(max(1, spacing)):
            chosen = ids < 4
            if spacing:
                chosen &= torch.arange(len(ids)) % spacing == rest
            masked = ids.masked_fill(chosen, alphabet.MASK) if spacing else ids
            logs = base_log_probabilities(model, masked[None])[0]
            found[chosen] = logs[chosen].exp().numpy()
        return found

    ahead = one_strand(ids)
    back = one_strand(alphabet.complement_ids(ids).flip(0))[::-1, ::-1]
    return {"+": ahead, "-": back, "both": (ahead + back) / 2}[strand]


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    ("changes", "spacing", "strand"),
    [
        ({"block_size": 32}, 3, "both"),
        ({"block_size": 32, "swap_strands": True}, 2, "+"),
        ({"block_size": 32, "swap_strands": True}, 2, "-"),
        ({"block_size": 40, "block_context": "independent"}, 2, "+"),
        ({"block_size": 32, "use_bridge": False}, 0, "+"),
    ],
)
def test_pieces_of_any_size(
    tiny_checkpoint, genome, tmp_path, changes, spacing, strand, joined, monkeypatch
):
    # As a GPU reads, and as a CPU does.
    monkeypatch.setattr(streams, "joins_blocks", lambda device: joined)
    model = load_model(tiny_checkpoint(**changes), "masked-lm", "cpu")
    region = Region("c", 10, LENGTH)
    ids = genome.fetch("c", 10, LENGTH)
    expected = whole(model, ids, spacing, strand)
    for piece in (1, 100, 10_000):
        settings = TrackSettings(piece=piece, mask_spacing=spacing, strand=strand)
        found = tracks(model, genome, region, settings, tmp_path / str(piece))
        known = ids < 4
        own = expected[np.arange(len(ids))[known], ids[known]]
        np.testing.assert_allclose(found["probability"][known], own, atol=1e-5)
        entropy = -(expected * np.log2(expected)).sum(1)
        np.testing.assert_allclose(found["entropy"][known], entropy[known], atol=1e-4)
        for values in found.values():
            assert np.isnan(values[~known]).all()
            assert np.isfinite(values[known]).all()
        likely = expected[known].argmax(1) == ids[known]
        assert ((found["alternative"][known] < 0) == likely).all()
        # States go away with the pieces they were for.
        assert not list((tmp_path / str(piece)).glob("*reverse*"))


@pytest.mark.parametrize(("size", "swap"), [(0, False), (0, True), (50, False)])
def test_killed_anywhere_it_goes_on(tiny_checkpoint, genome, tmp_path, size, swap):
    """Interrupt after every few files that are written, then go on: same bytes."""
    path = tiny_checkpoint(block_size=32, swap_strands=swap)
    model = load_model(path, "masked-lm", "cpu")
    settings = TrackSettings(piece=64, mask_spacing=2, bin=size, strand="both")
    region = Region("c", 0, 300)
    compute(model, genome, region, settings, tmp_path / "whole")

    class Killed(BaseException):
        pass

    torch_save, runs = torch.save, 0
    left = 0

    def save(*arguments):
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        torch_save(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", save)
        while True:
            runs += 1
            left = 3
            try:
                compute(model, genome, region, settings, tmp_path / "broken")
                break
            except Killed:
                continue
    assert runs > 3
    files = sorted(path.name for path in (tmp_path / "whole").glob("strand-*"))
    assert len(files) == 2
    for name in files:
        same = (tmp_path / part / name for part in ("whole", "broken"))
        assert next(same).read_bytes() == next(same).read_bytes()


def slow_bins(vectors, ids, size):
    """Means of the known bases of each bin; None where most are gaps."""
    found = []
    for start in range(0, len(ids), size):
        here = slice(start, start + size)
        known = ids[here] < 4
        enough = known.sum() >= len(known) / 2
        found.append(vectors[here][known].mean(0) if enough else None)
    return found


@pytest.mark.parametrize("streamed", [True, False])
def test_embeddings_by_bin(tiny_checkpoint, genome, tmp_path, streamed):
    changes = {} if streamed else {"strand_alignment": "sequence"}
    path = tiny_checkpoint("CrossDNAModel", block_size=32, **changes)
    model = load_model(path, "embedding", "cpu")
    region = Region("c", 10, LENGTH)
    ids = genome.fetch("c", 10, LENGTH)
    tensor = torch.from_numpy(ids.astype(np.int64))[None]
    # Windows as long as the region show its bases all there is, as a stream does.
    vectors = embeddings(model, tensor, strand="both")[0].numpy()
    for piece, size in ((1, 50), (100, 20), (10_000, 50)):
        settings = TrackSettings(
            piece=piece, window=2 * LENGTH, bin=size, strand="both"
        )
        folder = tmp_path / f"{piece}-{size}"
        compute(model, genome, region, settings, folder)
        parts = list(read_bins(model, region, settings, folder))
        found = np.concatenate([part.vectors for part in parts])
        expected = slow_bins(vectors, ids, size)
        assert len(found) == len(expected)
        for here, mean in zip(found, expected, strict=True):
            if mean is None:
                assert np.isnan(here).all()
            else:
                np.testing.assert_allclose(here, mean, atol=1e-5)
        assert sum(mean is None for mean in expected) == 1
        bases = np.concatenate([part.bases for part in parts])
        assert bases.sum() == (ids < 4).sum()


def test_bins_of_windows_do_not_depend_on_the_batch(tiny_checkpoint, genome, tmp_path):
    path = tiny_checkpoint("CrossDNAModel", strand_alignment="sequence")
    model = load_model(path, "embedding", "cpu")
    region, found = Region("c", 0, LENGTH), []
    for batch in (1, 5):
        settings = TrackSettings(window=64, bin=70, batch_size=batch)
        compute(model, genome, region, settings, tmp_path / str(batch))
        (part,) = read_bins(model, region, settings, tmp_path / str(batch))
        found.append(part.vectors)
    np.testing.assert_allclose(*found, atol=1e-5)
    # The second bin: bases 70 to 140 from the windows at 48 to 112, 80 to 144, ...
    ids = torch.from_numpy(genome.fetch("c", 0, LENGTH).astype(np.int64))[None]
    middles = [
        embeddings(model, ids[:, begin - 16 : begin + 48])[0, 16:48]
        for begin in (64, 96, 128)
    ]
    mean = torch.cat(middles)[6:76].mean(0)
    np.testing.assert_allclose(found[0][1], mean.numpy(), atol=1e-5)


def test_components_are_principal():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(40, 6)) * [5, 1, 3, 0.1, 0.2, 0.3]).astype(np.float32)
    vectors[7] = np.nan
    bases = np.full(20, 9)
    parts = [Means(0, vectors[:20], bases), Means(20, vectors[20:], bases)]
    found = principal_components(parts, 2)
    known = np.delete(vectors, 7, 0).astype(float)
    axes = np.linalg.svd(known - known.mean(0))[2][:2]
    np.testing.assert_allclose(np.abs((found.axes * axes).sum(1)), 1)
    np.testing.assert_allclose(np.abs(found.axes).argmax(1), [0, 2])
    assert (found.axes[[0, 1], [0, 2]] > 0).all()
    projected = found.project(vectors)
    assert np.isnan(projected[7]).all()
    shares = np.nanvar(projected, axis=0) / known.var(0).sum()
    np.testing.assert_allclose(shares, found.shares, rtol=1e-4)
    with pytest.raises(CrossDNAError, match="components"):
        principal_components(parts, 7)


@pytest.mark.parametrize("strand", alphabet.STRANDS)
@pytest.mark.parametrize("streamed", [True, False])
def test_per_base_head(tiny_checkpoint, genome, tmp_path, streamed, strand):
    changes = {} if streamed else {"strand_alignment": "sequence"}
    path = tiny_checkpoint(
        "CrossDNAForTokenClassification", block_size=32, num_labels=2, **changes
    )
    model = load_model(path, "per-base", "cpu")
    region = Region("c", 3, LENGTH)
    ids = genome.fetch("c", 3, LENGTH)
    tensor = torch.from_numpy(ids.astype(np.int64))[None]
    expected = token_logits(model, tensor, strand=strand)[0].numpy()
    known = ids < 4
    for piece in (1, 1000):
        settings = TrackSettings(piece=piece, window=2 * LENGTH, strand=strand)
        found = tracks(model, genome, region, settings, tmp_path / str(piece))
        assert list(found) == ["head_LABEL_1"]
        values, odds = found["head_LABEL_1"], expected[:, 1] - expected[:, 0]
        np.testing.assert_allclose(values[known], odds[known], atol=1e-5)
        assert np.isnan(values[~known]).all()


@pytest.mark.parametrize("strand", alphabet.STRANDS)
def test_models_that_are_not_streamed_read_windows(
    tiny_checkpoint, genome, tmp_path, strand
):
    path = tiny_checkpoint(strand_alignment="sequence", block_context="independent")
    model = load_model(path, "masked-lm", "cpu")
    assert not can_stream(model)
    with pytest.raises(CrossDNAError, match="streamed"):
        Streamer(model, 10, tmp_path)
    settings = TrackSettings(window=64, mask_spacing=4, strand=strand)
    region = Region("c", 0, LENGTH)
    found = tracks(model, genome, region, settings, tmp_path / "t")
    for position in (0, 5, 31, 32, 100, 230, LENGTH - 20, LENGTH - 1):
        begin = position // 32 * 32
        start = min(max(0, begin - 16), LENGTH - 64)
        ids = torch.from_numpy(genome.fetch("c", start, start + 64).astype(np.int64))
        loci = torch.arange(start, start + 64)
        truth = int(ids[position - start])
        masked = ids.masked_fill((loci % 4 == position % 4) & (ids < 4), alphabet.MASK)
        logs = base_log_probabilities(model, masked[None], strand=strand)
        expected = logs[0, position - start].exp()[truth]
        assert found["probability"][position] == pytest.approx(
            float(expected), abs=1e-5
        )
    assert np.isnan(found["entropy"][180:220]).all()


@pytest.mark.parametrize("strand", ["both", "-"])
def test_head_in_windows(tiny_checkpoint, genome, tmp_path, strand):
    path = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=2)
    model = load_model(path, "classification", "cpu")
    settings = TrackSettings(window=60, step=20, strand=strand, piece=7)
    region = Region("c", 5, LENGTH - 2)
    found = tracks(model, genome, region, settings, tmp_path / "t")
    assert list(found) == ["head_LABEL_1"]
    assert len(found["head_LABEL_1"]) == -(-(LENGTH - 7) // 20)
    for number in (0, 1, 7, 19, 20):
        start = min(max(0, number * 20 + 10 - 30), LENGTH - 7 - 60)
        ids = genome.fetch("c", 5 + start, 5 + start + 60).astype(np.int64)
        logits = sequence_logits(model, torch.from_numpy(ids)[None], strand=strand)
        odds = float(logits[0, 1] - logits[0, 0])
        assert found["head_LABEL_1"][number] == pytest.approx(odds, abs=1e-5)
    assert np.isnan(found["head_LABEL_1"][9])


def test_hidden_bases():
    ids = np.array([0, 4, 2, 3, 1], np.uint8)
    sequence, wanted = masked_sequence(
        lambda start, end: ids[start:end], 5, spacing=2, rest=1
    )
    assert list(sequence.fetch(0, 5)) == [0, 4, 2, 5, 1]
    assert list(wanted(2, 5)) == [False, True, False]


def test_settings():
    with pytest.raises(CrossDNAError, match="mask_spacing"):
        TrackSettings(mask_spacing=1)
    with pytest.raises(CrossDNAError, match="step"):
        TrackSettings(step=0)
