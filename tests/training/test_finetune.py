"""Fine-tuning: methods, choices, resumption, determinism; no test set in sight."""

import inspect
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.labelled_sets import rows_with_motif, write_csv
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from crossdna import alphabet
from crossdna.data import labelled, metrics
from crossdna.data.sequence_tables import read_sequences
from crossdna.data.task_card import TaskCard
from crossdna.data.temperature import HIGHEST, fit_temperature
from crossdna.errors import CrossDNAError
from crossdna.models.batched import predict_logits
from crossdna.models.caduceus import CaduceusConfig, CaduceusForMaskedLM
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.models.hyenadna import (
    HyenaDNAConfig,
    HyenaDNAForCausalLM,
    HyenaDNAForSequenceClassification,
)
from crossdna.models.vocabulary import speak_alphabet
from crossdna.tokenizers.character import HyenaDNATokenizer
from crossdna.training import finetune as verb
from crossdna.training.finetune_data import (
    BucketSampler,
    EpochLoader,
    TargetScale,
    TrainingRows,
    class_weights,
)
from crossdna.training.finetune_model import (
    NEW_SIZES,
    build_model,
    divide_logits,
    restrict,
)
from crossdna.training.finetune_recipe import FinetuneRecipe
from crossdna.training.finetune_trainer import has_stopped

RECIPE = FinetuneRecipe(
    model="new:tiny", head="max_mean", epochs=2, batch_size=16, device="cpu"
)


def labelled_sets(folder, rng, *counts):
    """A training and a development set of a binary task."""
    parts = []
    for name, count in zip(("train", "valid"), counts, strict=True):
        rows = rows_with_motif(rng, count)
        path = write_csv(folder / f"{name}.csv", ["sequence", "label"], rows)
        table = read_sequences(path)
        task = labelled.Task(kind="binary", columns=("label",), classes=("0", "1"))
        parts.append(labelled.label(table, task))
    return parts


@pytest.fixture
def sets(tmp_path, rng):
    """Small ones."""
    return labelled_sets(tmp_path, rng, 48, 24)


def changed(recipe, **values):
    return FinetuneRecipe(
        **{name: getattr(recipe, name) for name in recipe.__dataclass_fields__} | values
    )


def weights_of(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_no_function_here_takes_a_test_set():
    for name in ("finetune", "search", "run_once", "candidates"):
        assert "test" not in inspect.signature(getattr(verb, name)).parameters


@pytest.mark.parametrize("method", ["full", "head", "lora"])
def test_methods_change_what_they_should(tmp_path, sets, method):
    recipe = changed(RECIPE, method=method)
    torch.manual_seed(0)
    before = build_model(recipe, sets[0].task, pooling="max_mean", length=40)
    start = {name: p.detach().clone() for name, p in before.named_parameters()}
    result = verb.finetune(recipe, *sets, tmp_path / "out")
    after = weights_of(result.best.folder)
    assert after.keys() == start.keys()
    moved = {name for name in start if not torch.equal(start[name], after[name])}
    body = {name for name in start if not name.startswith("head.")}
    assert moved >= {name for name in start if name.startswith("head.linear")}
    if method == "head":
        assert not moved & body
    else:
        assert len(moved & body) > len(body) / 3
    assert result.best.parameters >= sum(p.numel() for p in start.values())
    assert (result.best.trained_parameters == result.best.parameters) == (
        method == "full"
    )


@pytest.mark.parametrize(
    ("stored", "asked", "expected"),
    [(0.0, None, 0.15), (0.4, None, 0.4), (0.4, 0.0, 0.0), (0.0, 0.3, 0.3)],
)
def test_crossdna_is_tuned_with_dropout(tmp_path, sets, stored, asked, expected):
    """Pretraining may have had none, since it read no window twice."""
    config = CrossDNAConfig(**NEW_SIZES["tiny"], dropout=stored)
    CrossDNAForMaskedLM(config).save_pretrained(tmp_path)
    recipe = changed(RECIPE, model=str(tmp_path), dropout=asked)
    model = build_model(recipe, sets[0].task, pooling="mean", length=40)
    assert model.config.dropout == expected
    assert model.model.dropout.p == expected


def test_dropout_of_other_families_is_theirs_or_an_error(tmp_path, sets):
    sizes = {"d_model": 16, "n_layer": 1}
    HyenaDNAForCausalLM(HyenaDNAConfig(**sizes)).save_pretrained(tmp_path / "h")
    CaduceusForMaskedLM(CaduceusConfig(**sizes)).save_pretrained(tmp_path / "c")
    make = partial(build_model, task=sets[0].task, pooling="mean", length=40)
    model = make(changed(RECIPE, model=str(tmp_path / "h"), dropout=0.3))
    rates = {part.p for part in model.modules() if isinstance(part, nn.Dropout)}
    assert 0.3 in rates
    make(changed(RECIPE, model=str(tmp_path / "c")))
    with pytest.raises(CrossDNAError, match="'caduceus' have no dropout"):
        make(changed(RECIPE, model=str(tmp_path / "c"), dropout=0.3))
    with pytest.raises(CrossDNAError, match="dropout must lie in"):
        changed(RECIPE, dropout=1.5)


@pytest.mark.parametrize("family", ["crossdna", "hyenadna", "caduceus"])
def test_logits_of_every_family_are_divided(tmp_path, sets, family):
    sizes = {"d_model": 16, "n_layer": 1}
    network = {
        "crossdna": lambda: CrossDNAForMaskedLM(CrossDNAConfig(**NEW_SIZES["tiny"])),
        "hyenadna": lambda: HyenaDNAForCausalLM(HyenaDNAConfig(**sizes)),
        "caduceus": lambda: CaduceusForMaskedLM(CaduceusConfig(**sizes)),
    }[family]()
    network.save_pretrained(tmp_path)
    recipe = changed(RECIPE, model=str(tmp_path))
    model = build_model(recipe, sets[0].task, pooling="max_mean", length=40).eval()
    sequences = sets[0].table.ids
    ask = partial(predict_logits, model, sequences, strand="+")
    before = ask()
    assert np.abs(before).max() > 1e-3
    divide_logits(model, 2.5)
    np.testing.assert_allclose(ask(), before / 2.5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_probabilities_are_no_surer_than_the_development_set_allows(
    tmp_path, rng, method
):
    """What is saved needs no temperature any more, and thresholds are in its units."""
    train, valid = labelled_sets(tmp_path, rng, 300, 60)
    wrong = np.arange(len(valid)) % 6 == 0
    valid = replace(valid, labels=np.where(wrong, 1 - valid.labels, valid.labels))
    recipe = changed(RECIPE, method=method, epochs=6, lr=5e-3)
    run = verb.finetune(recipe, train, valid, tmp_path / "out").best
    assert 1.1 < run.temperature < HIGHEST - 1
    assert verb.read_result(run.folder) == run
    model = AutoModelForSequenceClassification.from_pretrained(run.folder).eval()
    card = TaskCard.read(run.folder)
    logits = predict_logits(model, valid.table.ids, strand=card.strand)
    assert fit_temperature(valid.task, valid.labels, logits) < 1.01
    chosen = metrics.choose_thresholds(valid.task, valid.labels, card.scores(logits))
    assert card.thresholds == pytest.approx(chosen)


def test_every_low_rank_update_learns(sets):
    """A fused product that reads weights directly would bypass the updates."""
    recipe = changed(RECIPE, method="lora")
    model = restrict(
        build_model(recipe, sets[0].task, pooling="mean", length=40), recipe
    )
    # B starts at zero, so the gradient of A is zero at first: B is what to look at.
    ids = torch.from_numpy(np.stack(sets[0].table.ids[:8]).astype(np.int64))
    model(input_ids=ids).logits.square().sum().backward()
    updates = {n: p for n, p in model.named_parameters() if "lora_B" in n}
    assert len(updates) > 10
    for name, parameter in updates.items():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_merged_low_rank_model_predicts_as_it_was_judged(tmp_path, sets):
    result = verb.finetune(changed(RECIPE, method="lora"), *sets, tmp_path / "out")
    model = AutoModelForSequenceClassification.from_pretrained(result.best.folder)
    card = TaskCard.read(result.best.folder)
    logits = predict_logits(model, sets[1].table.ids, strand="both")
    scores = card.scores(logits)
    assert metrics.auroc(sets[1].labels, scores[:, 1]) == pytest.approx(
        result.best.score, abs=0.01
    )


@pytest.mark.parametrize("method", ["full", "head", "lora"])
def test_other_families_are_asked_in_their_own_ids(tmp_path, sets, method):
    torch.manual_seed(0)
    config = HyenaDNAConfig(d_model=16, n_layer=1, d_inner=32, max_seq_len=64)
    source = tmp_path / "hyena"
    HyenaDNAForSequenceClassification(config).save_pretrained(source)
    HyenaDNATokenizer().save_pretrained(source)
    recipe = changed(RECIPE, model=str(source), head="auto", method=method, epochs=1)
    result = verb.finetune(recipe, *sets, tmp_path / "out")
    kept = AutoModelForSequenceClassification.from_pretrained(result.best.folder)
    scores = TaskCard.read(result.best.folder).scores(
        predict_logits(speak_alphabet(kept), sets[1].table.ids, strand="both")
    )
    found = metrics.auroc(sets[1].labels, scores[:, 1])
    assert found == pytest.approx(result.best.score, abs=0.02)
    # Beside it lies the family's tokenizer, which gives what training read.
    tokenizer = AutoTokenizer.from_pretrained(result.best.folder)
    assert type(tokenizer).__name__ != "CrossDNATokenizer"
    ids = sets[1].table.ids[:4]
    batch = tokenizer([alphabet.decode(row) for row in ids], return_tensors="pt")
    plain = AutoModelForSequenceClassification.from_pretrained(result.best.folder)
    np.testing.assert_allclose(
        plain.eval()(**batch).logits.detach(),
        predict_logits(kept, ids, strand="+"),
        atol=1e-5,
    )
    with pytest.raises(CrossDNAError, match="a head of their own"):
        verb.finetune(changed(recipe, head="attention"), *sets, tmp_path / "no")


@pytest.mark.parametrize("family", ["crossdna", "hyenadna"])
def test_what_was_tuned_gives_its_network_to_a_new_head(tmp_path, sets, family):
    torch.manual_seed(0)
    if family == "crossdna":
        config = CrossDNAConfig(**NEW_SIZES["tiny"], num_labels=3, head_pooling="mean")
        first = AutoModelForSequenceClassification.from_config(config)
    else:
        config = HyenaDNAConfig(d_model=16, n_layer=1, max_seq_len=64, num_labels=3)
        first = HyenaDNAForSequenceClassification(config)
    first.save_pretrained(tmp_path / "first")
    recipe = changed(RECIPE, model=str(tmp_path / "first"), head="auto", epochs=1)
    task = sets[0].task
    again = build_model(recipe, task, pooling="attention", length=40)
    assert again.config.num_labels == 2
    network = dict(first.base_model.named_parameters())
    for name, parameter in again.base_model.named_parameters():
        assert torch.equal(parameter, network[name])
    last = again.head.linear if family == "crossdna" else again.score
    assert last.weight.shape[0] == 2
    assert last.weight.std() > 0


def test_same_seed_same_weights_and_resumed_equals_uninterrupted(
    tmp_path, sets, monkeypatch
):
    recipe = changed(RECIPE, epochs=3)
    whole = verb.finetune(recipe, *sets, tmp_path / "whole")
    evaluate = verb.FinetuneTrainer.evaluate
    calls = []

    def killed_in_second_epoch(self, *args, **more):
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(self, *args, **more)

    monkeypatch.setattr(verb.FinetuneTrainer, "evaluate", killed_in_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        verb.finetune(recipe, *sets, tmp_path / "cut")
    monkeypatch.undo()
    assert not (tmp_path / "cut/seed-0").exists()
    resumed = verb.finetune(recipe, *sets, tmp_path / "cut")
    assert len(calls) == 2
    first, second = weights_of(whole.best.folder), weights_of(resumed.best.folder)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)
    scores = [[row["score"] for row in r.best.history] for r in (whole, resumed)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert not list((tmp_path / "cut").glob("*.checkpoints"))


def test_finished_runs_are_not_trained_again(tmp_path, sets, monkeypatch):
    first = verb.finetune(RECIPE, *sets, tmp_path / "out")
    monkeypatch.setattr(verb, "build_model", None)
    again = verb.finetune(RECIPE, *sets, tmp_path / "out")
    assert again == first


def test_head_is_chosen_on_the_development_set(tmp_path, sets):
    recipe = changed(RECIPE, head="auto", trial_share=0.5)
    result = verb.finetune(recipe, *sets, tmp_path / "out")
    tried = {trial["trial"]: trial["score"] for trial in result.trials}
    assert set(tried) == {
        "head-max_mean-both", "head-attention-both", "head-position-forward"
    }  # fmt: skip
    best = max(tried, key=tried.get)
    assert best == f"head-{result.recipe.head}-{result.recipe.strands}"
    assert TaskCard.read(result.best.folder).strands == result.recipe.strands


def test_search_draws_and_keeps_the_best(tmp_path, sets):
    recipe = changed(RECIPE, trials=2, epochs=1)
    result = verb.finetune(recipe, *sets, tmp_path / "out")
    assert [trial["trial"] for trial in result.trials] == ["search-0", "search-1"]
    best = max(result.trials, key=lambda trial: trial["score"])
    assert result.recipe.lr == best["lr"]
    assert result.recipe.batch_size == best["batch_size"]
    # Of so few rows larger batches would be too few steps to tell settings apart.
    assert {trial["batch_size"] for trial in result.trials} == {16}
    first, second = (
        weights_of(tmp_path / "out" / "trials" / f"search-{number}")
        for number in (0, 1)
    )
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_single_step_trains(tmp_path, sets):
    """Warming up from rate 0 is for runs that have steps for it."""
    one = changed(RECIPE, epochs=1, batch_size=64)
    found = [
        weights_of(
            verb.finetune(
                changed(one, lr=rate), *sets, tmp_path / f"{rate}"
            ).best.folder
        )
        for rate in (1e-3, 1e-2)
    ]
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_strands_and_order_depend_on_seed_and_epoch_only(sets):
    rows = TrainingRows(
        sets[0], TargetScale(np.zeros(0), np.ones(0)), both_strands=True, seed=3
    )
    loader = EpochLoader(rows, 16, 3)

    def epoch(number):
        loader.set_epoch(number)
        return torch.cat([batch["input_ids"] for batch in loader])

    first, second = epoch(0), epoch(1)
    assert torch.equal(epoch(0), first)
    assert not torch.equal(first, second)
    known = {alphabet.decode(ids): True for ids in sets[0].table.ids}
    turned = [alphabet.decode(ids) not in known for ids in first.numpy()]
    assert 0.2 < np.mean(turned) < 0.8


def test_noise_hides_bases_and_is_drawn_anew(sets):
    scale = TargetScale(np.zeros(0), np.ones(0))
    rows = TrainingRows(sets[0], scale, both_strands=False, seed=3, noise=0.2)

    def epoch(number):
        rows.set_epoch(number)
        return np.stack([rows[row].ids for row in range(len(rows))])

    clean, first = np.stack(sets[0].table.ids), epoch(0)
    hidden = first == alphabet.N
    assert 0.15 < hidden.mean() < 0.25
    assert np.array_equal(first[~hidden], clean[~hidden])
    assert np.array_equal(epoch(0), first)
    assert not np.array_equal(epoch(1), first)


def test_buckets_hold_similar_lengths(rng):
    lengths = rng.integers(10, 500, 1000)
    batches = list(BucketSampler(lengths, 20, seed=0))
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
    assert spread < 0.1 * np.ptp(lengths)


def test_early_stopping_reads_the_log():
    def log(*scores, losses=None):
        losses = losses or [1.0] * len(scores)
        return [
            {"eval_score": score, "eval_loss": loss}
            for score, loss in zip(scores, losses, strict=True)
        ]

    assert not has_stopped(log(0.5, 0.6, 0.6), 2)
    assert has_stopped(log(0.5, 0.6, 0.6, 0.5), 2)
    assert not has_stopped(log(0.5, 0.6, 0.5, 0.7), 2)
    # Equal scores go on while the loss falls.
    assert not has_stopped(log(1, 1, 1, losses=[0.6, 0.4, 0.2]), 2)
    assert has_stopped(log(1, 1, 1, losses=[0.2, 0.4, 0.3]), 2)


@pytest.mark.parametrize("alike", [False, True])
def test_of_equal_scores_the_lowest_loss_is_kept(tmp_path, sets, monkeypatch, alike):
    """All right in every epoch, or of one class, where no score is defined."""
    train, valid = sets
    if alike:
        valid = replace(valid, labels=np.zeros_like(valid.labels))
    else:
        area = {**metrics.score(valid.task, valid.labels, perfect(valid), (0.5,))}
        monkeypatch.setattr(metrics, "score", lambda *_: dict(area))
    losses, kept = iter([0.6, 0.4, 0.5, 0.45]), []
    judge = verb.FinetuneTrainer.judge

    def judged(self):
        scores, _ = judge(self)
        kept.append(scores)
        return scores, next(losses)

    monkeypatch.setattr(verb.FinetuneTrainer, "judge", judged)
    recipe = changed(RECIPE, epochs=5, patience=2)
    run = verb.finetune(recipe, train, valid, tmp_path / "out").best
    assert len({row["score"] for row in run.history}) == 1
    assert (run.best_epoch, run.epochs) == (2, 4)
    model = AutoModelForSequenceClassification.from_pretrained(run.folder).eval()
    logits = predict_logits(model, valid.table.ids, strand="both")
    found = TaskCard.read(run.folder).scores(logits * run.temperature)
    np.testing.assert_allclose(found, kept[1], atol=1e-5)


def perfect(data):
    return np.eye(2)[data.labels]


def test_class_weights_even_out(tmp_path, rng):
    rows = [
        (letters, int(i < 6)) for i, (letters, _) in enumerate(rows_with_motif(rng, 24))
    ]
    table = read_sequences(write_csv(tmp_path / "x.csv", ["sequence", "label"], rows))
    data = labelled.label(table, labelled.detect_task(table, ("label",)))
    assert class_weights(data).tolist() == pytest.approx([24 / 36, 2.0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_length": 39}, r"train\.csv:2: 40 bases are more than max_length 39"),
        ({"model": "new:huge"}, "no size 'huge'.*tiny, small"),
        ({"model": "/no/such/model"}, "no such directory"),
    ],
)
def test_errors(tmp_path, sets, values, message):
    with pytest.raises(CrossDNAError, match=message):
        verb.finetune(changed(RECIPE, **values), *sets, tmp_path / "out")


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"seeds": (-1,)},
        {"seeds": (2**32,)},
        {"lr": -1.0},
        {"seeds": (1, 1)},
        {"trial_share": 0.0},
        {"device": "cuda:1"},
    ],
)
def test_recipe_refuses_nonsense(values):
    with pytest.raises(CrossDNAError):
        changed(RECIPE, **values)


def test_loss_that_is_no_number_stops(tmp_path, sets):
    recipe = changed(RECIPE, lr=1e30)
    with pytest.raises(CrossDNAError, match="the loss is nan; a lower --lr"):
        verb.finetune(recipe, *sets, tmp_path / "out")


def test_result_file_says_how_it_went(tmp_path, sets):
    result = verb.finetune(RECIPE, *sets, tmp_path / "out")
    facts = json.loads((result.best.folder / "result.json").read_text())
    assert facts["epochs"] == len(facts["history"]) == 2
    assert facts["score"] == max(row["auroc"] for row in facts["history"])
