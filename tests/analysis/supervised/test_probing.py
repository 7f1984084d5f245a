"""Probes: which layer they read, and that they read it."""

import numpy as np
import pytest
import torch
from tests.labelled_sets import rows_with_motif, write_csv

from crossdna import alphabet
from crossdna.analysis.embedding.embed import EmbedJob, embed_sequences
from crossdna.analysis.supervised import probing
from crossdna.data import labelled
from crossdna.data.sequence_tables import read_sequences
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAModel

LAYERS = 4  # embeddings, two layers, the fused strands


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = CrossDNAConfig(
        d_model=16, depth=2, num_heads=2, head_dim=4, attention_heads=2,
        window_size=16, use_bridge=False,
    )  # fmt: skip
    return CrossDNAModel(config).eval()


@pytest.fixture
def sets(tmp_path, rng):
    found = []
    for name, count in (("train", 120), ("valid", 60)):
        rows = rows_with_motif(rng, count)
        path = write_csv(tmp_path / f"{name}.csv", ["sequence", "label"], rows)
        table = read_sequences(path)
        task = labelled.detect_task(table, ("label",), "auto")
        found.append(labelled.label(table, task))
    return found


def layers(model, ids):
    jobs = (EmbedJob(model="", layer=layer) for layer in range(LAYERS))
    return [embed_sequences(model, ids, job) for job in jobs]


def test_all_layers_stand_side_by_side(model, rng):
    ids = [rng.integers(0, 4, length).astype(np.uint8) for length in (30, 41)]
    found = embed_sequences(model, ids, EmbedJob(model="", layer="all"))
    np.testing.assert_allclose(found, np.concatenate(layers(model, ids), 1), atol=1e-6)


def test_the_layer_that_knows_is_found(model, sets, monkeypatch):
    """Noise in all layers but one, and in that one the label."""
    train, valid = sets
    truth = {
        ids.tobytes(): y
        for data in sets
        for ids, y in zip(data.table.ids, data.labels, strict=True)
    }
    widths, informative = (8, 6, 7), 1

    def representation(_model, sequences, job):
        parts = []
        for layer, width in enumerate(widths):
            rows = [
                np.random.default_rng([layer, *ids[:12]]).standard_normal(width)
                for ids in sequences
            ]
            if layer == informative:
                for row, ids in zip(rows, sequences, strict=True):
                    row[0] += 6 * truth[ids.tobytes()]
            parts.append(np.stack(rows))
        return np.concatenate(parts, 1) if job.layer == "all" else parts[job.layer]

    monkeypatch.setattr(probing, "embed_sequences", representation)
    probe = probing.ProbeModel("name", model, train, valid)
    assert probe.job.layer in (informative, "all")
    right = probe.scores(valid.table.ids).argmax(1) == valid.labels
    assert right.mean() > 0.95


@pytest.mark.parametrize("most", [2000, 40])
def test_scores_come_from_the_chosen_layer(model, sets, monkeypatch, most):
    monkeypatch.setattr(probing, "CHOOSING_ROWS", most)
    train, valid = sets
    probe = probing.ProbeModel("name", model, train, valid)
    features = embed_sequences(model, valid.table.ids, probe.job)
    np.testing.assert_allclose(
        probe.scores(valid.table.ids), probe.linear.scores(features), atol=1e-6
    )
    turned = [alphabet.reverse_complement(ids) for ids in valid.table.ids]
    np.testing.assert_allclose(
        probe.scores(turned), probe.scores(valid.table.ids), atol=1e-4
    )
    # Fitted on all rows, however few the layers were compared on; the solver stops
    # where rounding of the features decides.
    both = [embed_sequences(model, d.table.ids, probe.job) for d in sets]
    fresh = probing.LinearModel(train, valid, *both)
    np.testing.assert_allclose(
        fresh.scores(features), probe.linear.scores(features), atol=0.03
    )
