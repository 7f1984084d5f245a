"""Classical and compact baselines: what they can and cannot learn."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.labelled_sets import rows_with_motif, write_csv

from crossdna import alphabet
from crossdna.analysis.supervised import baselines, classical, compact
from crossdna.data import labelled, metrics
from crossdna.data.sequence_tables import read_sequences


def read(path, kind="auto", columns=("label",)):
    table = read_sequences(path)
    return labelled.label(table, labelled.detect_task(table, columns, kind))


def sets(folder, rng, fixed=False, counts=(200, 60, 60)):
    found = []
    for name, count in zip(("train", "valid", "test"), counts, strict=True):
        rows = rows_with_motif(rng, count, fixed=fixed)
        path = write_csv(folder / f"{name}.csv", ["sequence", "label"], rows)
        found.append(read(path))
    return found


def area(predictor, test):
    return metrics.auroc(test.labels, predictor.scores(test.table.ids)[:, 1])


def test_kmer_counts_equal_counting_words(rng):
    ids = rng.integers(0, 4, 50).astype(np.uint8)
    ids[20] = alphabet.N
    counts = classical.kmer_counts([ids]).toarray()[0]
    assert counts.shape == (32 + 136 + 512 + 2080,)
    text = alphabet.decode(ids)
    words = [text[i : i + 3] for i in range(48) if "N" not in text[i : i + 3]]
    assert counts[:32].sum() == pytest.approx(1)
    assert counts[:32].max() == pytest.approx(
        max(sum(w in (word, other(word)) for w in words) / len(words) for word in words)
    )
    turned = classical.kmer_counts([alphabet.reverse_complement(ids)]).toarray()[0]
    np.testing.assert_allclose(counts, turned)


def other(word):
    return alphabet.decode(alphabet.reverse_complement(alphabet.encode(word)))


def test_motif_on_either_strand_is_found_by_all_that_read_both(tmp_path, rng):
    train, valid, test = sets(tmp_path, rng)
    for predictor in (
        classical.KmerModel(train, valid),
        classical.MarkovClassifier(train, valid),
    ):
        assert area(predictor, test) > 0.8, predictor.name
        turned = [alphabet.reverse_complement(ids) for ids in test.table.ids]
        np.testing.assert_allclose(
            predictor.scores(test.table.ids), predictor.scores(turned), atol=1e-9
        )


def test_position_weights_find_what_stands_at_one_place(tmp_path, rng):
    train, valid, test = sets(tmp_path, rng, fixed=True)
    predictor = classical.PositionWeights(train, valid)
    assert area(predictor, test) > 0.98
    scores = predictor.scores(test.table.ids)
    np.testing.assert_allclose(scores.sum(1), 1)
    # Tempered, they are not surer than they should be.
    assert metrics.score(test.task, test.labels, scores, (0.5,))["brier"] < 0.1


def test_majority_says_the_shares(tmp_path, rng):
    train, _, test = sets(tmp_path, rng)
    assert (
        classical.Majority(train).scores(test.table.ids).tolist() == [[0.5, 0.5]] * 60
    )


def test_quantities_and_several_labels(tmp_path, rng):
    rows = [
        (letters, label, i // 2 % 2, label + 0.1 * rng.normal())
        for i, (letters, label) in enumerate(rows_with_motif(rng, 300))
    ]
    path = write_csv(tmp_path / "x.csv", ["sequence", "a", "b", "y"], rows)
    quantity = read(path, "regression", ("y",))
    train, valid = quantity.take(range(200)), quantity.take(range(200, 300))
    fitted = classical.KmerModel(train, valid)
    found = fitted.scores(valid.table.ids)
    assert np.corrcoef(found[:, 0], valid.labels[:, 0])[0, 1] > 0.5
    several = read(path, "multilabel", ("a", "b"))
    fitted = classical.KmerModel(
        several.take(range(200)), several.take(range(200, 300))
    )
    assert fitted.scores(valid.table.ids).shape == (100, 2)


@pytest.mark.parametrize("name", ["kmer", "markov", "pwm", "hmm"])
@pytest.mark.parametrize("absent", ["a", "b", "c"])
def test_a_class_that_training_lacks_is_never_called(tmp_path, rng, name, absent):
    rows = [(s, "abc"[i % 3]) for i, (s, _) in enumerate(rows_with_motif(rng, 90))]
    data = read(write_csv(tmp_path / "x.csv", ["sequence", "label"], rows))
    number = data.task.classes.index(absent)
    train = data.take(np.flatnonzero(data.labels[:60] != number))
    valid = data.take(range(60, 90))
    if name == "hmm":
        pytest.importorskip("hmmlearn")
    found = baselines.find(name)
    scores = found.fit(train, valid, 0).scores(valid.table.ids)
    assert scores.shape == (30, 3)
    np.testing.assert_allclose(scores.sum(1), 1)
    assert not scores[:, number].any()
    assert (scores[:, [n for n in range(3) if n != number]] > 0).all()


def test_a_label_with_one_class_in_training_is_a_constant(tmp_path, rng):
    rows = [
        (letters, label, int(i >= 90), int(i < 90))
        for i, (letters, label) in enumerate(rows_with_motif(rng, 100))
    ]
    path = write_csv(tmp_path / "x.csv", ["sequence", "a", "b", "c"], rows)
    data = read(path, "multilabel", ("a", "b", "c"))
    train, valid = data.take(range(60)), data.take(range(60, 100))
    scores = classical.KmerModel(train, valid).scores(valid.table.ids)
    assert scores[:, 1:].tolist() == [[0, 1]] * 40
    assert metrics.auroc(valid.labels[:, 0], scores[:, 0]) > 0.6
    alike = train.take(np.flatnonzero(train.labels[:, 0] == 1))
    assert (classical.KmerModel(alike, valid).scores(valid.table.ids)[:, 0] == 1).all()


def test_symmetric_net_is_symmetric():
    torch.manual_seed(0)
    net = compact.SymmetricNet(2, 40).eval()
    generator = np.random.default_rng(0)
    ids = [generator.integers(0, 5, n).astype(np.uint8) for n in (40, 33)]
    turned = [alphabet.reverse_complement(row) for row in ids]
    with torch.inference_mode():
        ahead, back = net(*compact.one_hot(ids)), net(*compact.one_hot(turned))
        alone = net(*compact.one_hot(ids[1:]))
    torch.testing.assert_close(ahead, back)
    torch.testing.assert_close(ahead[1:], alone)


def test_compact_nets_learn_and_repeat_themselves(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(compact, "EPOCHS", 6)
    train, valid, test = sets(tmp_path, rng, fixed=True, counts=(300, 60, 60))
    fit = baselines.BASELINES["cnn-position"].fit
    found, again = (fit(train, valid, 0) for _ in range(2))
    assert area(found, test) > 0.95
    np.testing.assert_array_equal(
        again.scores(test.table.ids), found.scores(test.table.ids)
    )


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_of_equal_epochs_a_compact_net_keeps_the_lowest_loss(
    tmp_path, rng, monkeypatch, kind
):
    monkeypatch.setattr(compact, "EPOCHS", 8)
    train, valid, _ = sets(tmp_path, rng, fixed=True, counts=(300, 30, 30))
    if kind == "regression":
        train, valid = (
            dataclasses.replace(
                data,
                task=dataclasses.replace(data.task, kind=kind, classes=()),
                labels=10.0 + data.labels[:, None],
            )
            for data in (train, valid)
        )
    seen, judge = [], compact._judged
    monkeypatch.setattr(
        compact, "_judged", lambda *args: seen.append(judge(*args)) or seen[-1]
    )
    net = baselines.BASELINES["cnn-position"].fit(train, valid, 0)
    if kind == "binary":
        best = max(score for score, _ in seen)
        assert sum(score == best for score, _ in seen) > 1, "nothing to choose between"
    assert judge(net, valid) == pytest.approx(max(seen), abs=1e-5)


def test_which_baselines_suit_a_task(tmp_path, rng):
    def fitting(*parts):
        named = dict(zip(("train", "valid", "test"), parts, strict=False))
        return {
            name
            for name in baselines.BASELINES
            if baselines.unsuited(name, named) is None
        }

    binary = sets(tmp_path, rng, counts=(20, 20, 20))
    assert fitting(*binary) == set(baselines.BASELINES) - {"cnn-base"}
    rows = [
        (s[:30] if i else s, i / 7) for i, (s, _) in enumerate(rows_with_motif(rng))
    ]
    ragged = read(write_csv(tmp_path / "r.csv", ["sequence", "label"], rows))
    assert fitting(ragged) == {"majority", "kmer", "cnn-symmetric"}


def test_fitting_leaves_the_random_state_alone(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(compact, "EPOCHS", 1)
    train, valid, _ = sets(tmp_path, rng, counts=(20, 20, 20))
    before = torch.get_rng_state()
    compact.fit_compact("net", compact.SymmetricNet, train, valid)
    assert torch.equal(before, torch.get_rng_state())


def test_per_base_net(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(compact, "EPOCHS", 8)
    rows = []
    for number in range(60):
        ids = rng.integers(0, 4, 30 + number % 5).astype(np.uint8)
        labels = "".join("NG"[int(base in (1, 2))] for base in ids)
        rows.append((alphabet.decode(ids), labels))
    data = read(write_csv(tmp_path / "x.csv", ["sequence", "label"], rows))
    train, valid = data.take(range(45)), data.take(range(45, 60))
    net = baselines.BASELINES["cnn-base"].fit(train, valid, 0)
    scores = net.scores(valid.table.ids)
    assert [len(row) for row in scores] == valid.table.lengths.tolist()
    assert metrics.score(data.task, valid.labels, scores, ())["accuracy"] > 0.9


def test_motifs_of_a_file_tell_classes_apart(tmp_path, rng):
    train, valid, test = sets(tmp_path, rng, counts=(80, 40, 40))
    rows = [" ".join("0.97" if b == c else "0.01" for c in "ACGT") for b in "TGACTCA"]
    head = (
        "MEME version 4\nALPHABET= ACGT\nMOTIF AP1\nletter-probability matrix: w= 7\n"
    )
    path = tmp_path / "ap1.meme"
    path.write_text(head + "\n".join(rows) + "\n")
    found = baselines.find(f"pwm:{path}")
    assert area(found.fit(train, valid, 0), test) > 0.9


def test_hidden_markov_models_see_composition(tmp_path, rng):
    found = []
    for name, count in (("train", 60), ("valid", 30), ("test", 40)):
        rows = []
        for number in range(count):
            # One class has islands rich in G and C.
            shares = [0.25] * 4 if number % 2 else [0.05, 0.45, 0.45, 0.05]
            ids = rng.choice(4, 60, p=[0.25] * 4)
            ids[20:40] = rng.choice(4, 20, p=shares)
            rows.append((alphabet.decode(ids.astype(np.uint8)), number % 2))
        path = write_csv(tmp_path / f"{name}.csv", ["sequence", "label"], rows)
        found.append(read(path))
    train, valid, test = found
    assert area(baselines.find("hmm").fit(train, valid, 0), test) > 0.7
    assert baselines.find("no-such-model") is None
