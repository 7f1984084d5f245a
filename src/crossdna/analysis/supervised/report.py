"""What a fine-tuning run leaves to be read: metrics, predictions, a report."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl

from crossdna import alphabet
from crossdna.analysis.plots import save_figure
from crossdna.analysis.report import (
    Commands,
    Facts,
    Paragraph,
    Picture,
    Section,
    Table,
    render_report,
)
from crossdna.analysis.supervised import comparison
from crossdna.analysis.supervised import plots as finetune_plots
from crossdna.analysis.supervised.finetuned import (
    Scored,
    joined,
    nothing_scored,
    prediction_columns,
)
from crossdna.data import metrics
from crossdna.data.table_files import write_table
from crossdna.data.task_card import TaskCard
from crossdna.files import atomic_open

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from crossdna.analysis.provenance import Provenance
    from crossdna.analysis.report import Part
    from crossdna.analysis.statistics import Interval
    from crossdna.analysis.supervised.audit import Audit
    from crossdna.analysis.supervised.comparison import Judged
    from crossdna.analysis.supervised.finetuned import FinetunedModel
    from crossdna.data.labelled import LabelledSet
    from crossdna.data.labelled_inputs import Sets

METRICS_NAME: Final = "metrics.json"
PREDICTIONS_NAME: Final = "predictions.parquet"
REPORT_NAME: Final = "report.html"
WORST_SHOWN: Final = 12
"""Rows in the table of the worst errors."""


class Training(NamedTuple):
    """What is told about how a model was trained.

    Attributes
    ----------
    histories : dict of str to list of dict
        Name of a run to its epochs.
    trials : list of dict
        What was tried on the development set.
    settings : dict
        The recipe, as a table.
    parameters, trained : int
    temperatures : dict of str to float
        Name of a run to what its logits were divided by.
    """

    histories: dict[str, list[dict[str, float]]]
    trials: list[dict[str, Any]]
    settings: dict[str, Any]
    parameters: int
    trained: int
    temperatures: dict[str, float]


class Evaluation(NamedTuple):
    """Everything that was found on the test set.

    Attributes
    ----------
    model : FinetunedModel
        The one that is kept: the best of the seeds on the development set, or all.
    judged : list of Judged
        Ours first, then the baselines.
    seeds : dict of str to Judged
        Every seed's model.
    """

    model: FinetunedModel
    judged: list[Judged]
    seeds: dict[str, Judged]
    sets: Sets
    audit: Audit
    training: Training
    provenance: Provenance


def judge_all(
    model: FinetunedModel,
    seeds: Mapping[str, FinetunedModel],
    sets: Sets,
) -> tuple[list[Judged], dict[str, Judged]]:
    """Judge each seed on the test set, and the kept model: one of them, or all.

    A model that averages strands is also judged on one strand alone.
    """
    ours = comparison.judge(
        model, sets.valid, sets.test, thresholds=model.card.thresholds
    )
    judged = [ours]
    if model.card.strands == "both":
        one = model.on_strands("forward")
        single = comparison.judge(one, sets.valid, sets.test)
        judged.append(single._replace(name=f"{ours.name}, one strand"))
    per_seed = {
        name: ours
        if seed is model
        else comparison.judge(
            seed, sets.valid, sets.test, thresholds=seed.card.thresholds
        )
        for name, seed in seeds.items()
    }
    return judged, per_seed


def metrics_table(found: Evaluation) -> dict[str, Any]:
    """The content of metrics.json."""
    task, test = found.sets.task, found.sets.test
    primary = metrics.PRIMARY[task.kind]
    ours = found.judged[0]
    values = {
        name: [judged.metrics[name].estimate for judged in found.seeds.values()]
        for name in ours.metrics
    }
    baselines = [j for j in found.judged[1:] if not j.name.startswith(ours.name)]
    table: dict[str, Any] = {
        "task": task.kind,
        "classes": list(task.classes),
        "primary_metric": primary,
        "rows": {name: len(data) for name, data in found.sets.named().items()},
        "split_by": found.sets.how,
        "chance": metrics.chance(task, test.labels),
        "model": comparison.to_json(ours),
        "seeds": {
            name: comparison.to_json(judged) for name, judged in found.seeds.items()
        },
        "mean_over_seeds": {k: float(np.mean(v)) for k, v in values.items()},
        "sd_over_seeds": {
            k: float(np.std(v, ddof=1)) if len(v) > 1 else None
            for k, v in values.items()
        },
        "temperatures": found.training.temperatures,
        "settings": found.training.settings,
        "others": {j.name: comparison.to_json(j) for j in found.judged[1:]},
        "audit": found.audit.to_dict(),
        "provenance": found.provenance._asdict(),
    }
    if baselines:
        best = comparison.strongest(baselines, task)
        gain = comparison.difference(ours, best, task)
        table["against_best_baseline"] = {
            "name": best.name,
            primary: gain._asdict(),
        }
    return table


def write_metrics(found: Evaluation, folder: Path) -> dict[str, Any]:
    """Write metrics.json; undefined numbers become null."""
    table = _without_nan(metrics_table(found))
    with atomic_open(folder / METRICS_NAME) as handle:
        json.dump(table, handle, indent=1, allow_nan=False)
    return table


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def check_columns(sets: Sets, networks: int) -> None:
    """Refuse tables with a column that `write_predictions` adds, before any training.

    Parameters
    ----------
    networks
        How many the predictions will be the mean of.

    Raises
    ------
    CrossDNAError
        Names the file and the column.
    """
    task = sets.task
    # The columns depend on the task alone.
    card = TaskCard(
        task=task, strands="both", max_length=1, thresholds=(0.5,) * task.outputs
    )
    sample = prediction_columns(card, nothing_scored(task, networks))
    for data in (sets.valid, sets.test):
        table = data.table.with_sequences().head(0)
        joined(table, _evaluated(sample, ""), data.table.source)


def _evaluated(columns: pl.DataFrame, name: str) -> pl.DataFrame:
    return columns.with_columns(pl.lit(name).alias("evaluated_as"))


def write_predictions(found: Evaluation, folder: Path) -> None:
    """Write predictions.parquet: the rows of development and test set with all columns.

    ``evaluated_as`` says which set a row belongs to. Sequences that were in no column
    of the input are added.
    """
    parts = []
    for name, data in (("valid", found.sets.valid), ("test", found.sets.test)):
        judged = name == "test" and len(found.model.networks) == 1
        scored = (
            Scored(found.judged[0].scores, None)
            if judged
            else found.model.scored(data.table.ids)
        )
        columns = _evaluated(prediction_columns(found.model.card, scored), name)
        table = data.table.with_sequences()
        parts.append(joined(table, columns, data.table.source))
    write_table(
        pl.concat(parts, how="diagonal_relaxed"),
        folder / PREDICTIONS_NAME,
        metadata=found.provenance._asdict(),
    )


def write_report(found: Evaluation, table: dict[str, Any], folder: Path) -> None:
    """Write report.html, which needs no other file."""
    with tempfile.TemporaryDirectory() as name:
        pictures = Path(name)
        sections = [
            _results(found, pictures),
            _details(found, pictures),
            _orientation(found, pictures),
            _errors(found),
            _trust(found),
            _learning(found, pictures),
        ]
        title = f"{found.model.name}: {_what(found)}"
        page = render_report(title, _opening(found, table), sections)
        with atomic_open(folder / REPORT_NAME) as handle:
            handle.write(page)


def _what(found: Evaluation) -> str:
    task = found.sets.task
    if task.kind == "binary":
        return f"{task.classes[1]} or {task.classes[0]} ({task.columns[0]})"
    return ", ".join(task.columns)


def _opening(found: Evaluation, table: dict[str, Any]) -> list[Part]:
    task, ours = found.sets.task, found.judged[0]
    primary = metrics.PRIMARY[task.kind]
    parts: list[Part] = [
        Facts(
            {
                f"{primary.upper()} on the test set": f"{_number(ours.first(task))}",
                "By chance": f"{table['chance'][primary]:.3f}",
                "Test rows": f"{len(found.sets.test):,}",
                "Training rows": f"{len(found.sets.train):,}",
                "Parameters": f"{found.training.parameters:,}",
            }
        )
    ]
    gain = table.get("against_best_baseline")
    # Without both classes in any label there is nothing to compare by.
    if gain and gain[primary]["estimate"] is not None:
        parts.insert(0, Paragraph(verdict(gain["name"], gain[primary]), "lead"))
    parts += [Paragraph(f"Warning: {text}.") for text in found.audit.warnings()]
    return parts


def verdict(baseline: str, gain: dict[str, float]) -> str:
    """What the difference to the best baseline comes to, in words."""
    span = f"{gain['estimate']:+.3f} [{gain['low']:+.3f} to {gain['high']:+.3f}]"
    if gain["low"] > 0:
        return f"The model beats the best baseline ({baseline}) by {span}."
    if gain["high"] < 0:
        return f"The best baseline ({baseline}) beats the model: {span}. Use that one."
    return (
        f"The model and the best baseline ({baseline}) cannot be told apart: {span}. "
        "The simpler one is the better choice."
    )


def _results(found: Evaluation, pictures: Path) -> Section:
    task = found.sets.task
    level = metrics.chance(task, found.sets.test.labels)
    rows = [
        [one.name, *(_number(value) for value in one.metrics.values())]
        for one in found.judged
    ]
    rows.append(
        ["by chance", *(f"{level.get(n, np.nan):.3f}" for n in found.judged[0].metrics)]
    )
    parts: list[Part] = [
        _picture(
            finetune_plots.comparison_figure(
                found.judged, task, level[metrics.PRIMARY[task.kind]]
            ),
            pictures / "comparison.png",
            "First metric of every predictor with its interval",
        ),
        Table(
            "Test set, with 95 % bootstrap intervals",
            ["", *found.judged[0].metrics],
            rows,
            frozenset({0}),
        ),
    ]
    if len(found.seeds) > 1:
        names = list(found.judged[0].metrics)
        each = [
            [name, *(f"{one.metrics[n].estimate:.3f}" for n in names)]
            for name, one in found.seeds.items()
        ]
        parts.append(Table("Each seed", ["", *names], each))
    kept = len(found.model.networks) == 1
    chosen = "the epoch and the seed" if kept else "and the epochs"
    parts.append(
        Paragraph(
            f"Thresholds, heads, {chosen} whose weights are kept were chosen on the "
            "development set; the test set was used once, for this.",
            "note",
        )
    )
    return Section("How good it is", parts)


def _number(value: Interval) -> str:
    if np.isnan(value.estimate):
        return "undefined"
    return f"{value.estimate:.3f} [{value.low:.3f}-{value.high:.3f}]"


def _picture(figure: Figure, path: Path, says: str, *, small: bool = False) -> Picture:
    save_figure(figure, path)
    return Picture(path, says, small=small)


def _details(found: Evaluation, pictures: Path) -> Section:
    task, labels = found.sets.task, found.sets.test.labels
    ours = found.judged[0]
    parts: list[Part] = []
    if task.kind == "regression":
        figure = finetune_plots.scatter_figure(labels, ours.scores, task.columns)
        parts.append(_picture(figure, pictures / "scatter.png", "Measured, predicted"))
    if task.kind == "binary":
        figure = finetune_plots.ranking_figure(labels, found.judged)
        parts.append(_picture(figure, pictures / "roc.png", "ROC, precision-recall"))
        figure = finetune_plots.calibration_figure(labels, ours.scores[:, 1])
        parts.append(
            _picture(figure, pictures / "cal.png", "Calibration curve", small=True)
        )
    if task.kind in ("binary", "multiclass", "per-base"):
        decided = metrics.decide(task, ours.scores, ours.thresholds)
        if task.kind == "per-base":
            decided, labels = metrics.flatten_bases(decided, labels)
        figure = finetune_plots.confusion_figure(labels, decided, task.classes)
        parts.append(
            _picture(figure, pictures / "conf.png", "Confusion matrix", small=True)
        )
    if task.kind == "multilabel":
        parts.append(_label_table(found))
    if task.kind != "regression":
        used = ", ".join(f"{t:.2f}" for t in found.training.temperatures.values())
        parts.append(
            Paragraph(
                f"Probabilities are softened by temperatures ({used}) chosen on the "
                "development set; 1 leaves them as they are.",
                "note",
            )
        )
    return Section("Where it is right and wrong", parts)


def _label_table(found: Evaluation) -> Table:
    labels, ours = found.sets.test.labels, found.judged[0]
    rows = []
    for number, name in enumerate(found.sets.task.classes):
        truth, scores = labels[:, number], ours.scores[:, number]
        decided = (scores >= ours.thresholds[number]).astype(int)
        values = (
            metrics.auroc(truth, scores),
            metrics.average_precision(truth, scores),
            metrics.mcc(truth, decided),
        )
        rows.append([name, f"{int(truth.sum())}", *(f"{v:.3f}" for v in values)])
    return Table("Each label", ["", "positives", "AUROC", "AUPRC", "MCC"], rows)


def _orientation(found: Evaluation, pictures: Path) -> Section:
    figure = finetune_plots.orientation_figure(found.judged, found.sets.task)
    return Section(
        "The other strand",
        [
            Paragraph(
                "A sequence and its reverse complement are the same molecule. What "
                "happens when the test sequences are given the other way round: for "
                "windows without a direction nothing should; for windows anchored at a "
                "landmark the direction is information, and a model that uses it must "
                "be asked on the strand it was trained on."
            ),
            _picture(figure, pictures / "strand.png", "Metric and change by strand"),
        ],
    )


def _errors(found: Evaluation) -> Section:
    test, cost = found.sets.test, _costs(found.sets.test, found.judged[0].scores)
    rows = []
    for row in np.argsort(-cost, kind="stable")[:WORST_SHOWN]:
        letters = alphabet.decode(test.table.ids[row])
        shown = letters if len(letters) <= 60 else f"{letters[:57]}..."
        rows.append([test.table.places[row].split("/")[-1], f"{cost[row]:.3f}", shown])
    return Section(
        "Worst errors",
        [
            Table("Test rows that are furthest off", ["row", "off by", "bases"], rows),
            Paragraph("Wrong labels are often among them; look before you train more."),
        ],
    )


def _costs(test: LabelledSet, scores: NDArray) -> NDArray[np.float64]:
    """(rows,) how far off each is; several targets in deviations of their labels."""
    labels, kind = test.labels, test.task.kind
    if kind in ("binary", "multiclass"):
        return 1 - scores[np.arange(len(test)), labels]
    if kind == "per-base":
        shares = [
            float((row.argmax(1) != truth)[truth >= 0].mean())
            for row, truth in zip(scores, labels, strict=True)
        ]
        return np.array(shares)
    apart = np.abs(scores - labels)
    if kind == "regression" and test.task.outputs > 1:
        return comparison.in_deviations(apart, labels)
    return apart.mean(1)


def _trust(found: Evaluation) -> Section:
    columns = ["", "rows", "same", "reverse", "other label", "relatives", "overlapping"]
    rows = [
        [
            f"{pair.second} in {pair.first}",
            *(str(value) for value in pair[2:7]),
            "" if pair.overlapping is None else str(pair.overlapping),
        ]
        for pair in found.audit.pairs
    ]
    note = f"Split by: {found.sets.how}. Relatives: {found.audit.relative_means}."
    parts: list[Part] = [Table("Shared sequences", columns, rows), Paragraph(note)]
    return Section("Can the score be trusted?", parts)


def _learning(found: Evaluation, pictures: Path) -> Section:
    training = found.training
    figure = finetune_plots.learning_figure(list(training.histories.items()))
    parts: list[Part] = [
        _picture(figure, pictures / "learning.png", "Loss and score by epoch")
    ]
    if training.trials:
        rows = [
            [str(t["trial"]), f"{t['score']:.4f}", str(t["epochs"])]
            for t in training.trials
        ]
        table = Table("Tried on the development set", ["", "score", "epochs"], rows)
        parts.append(table)
    settings = "\n".join(f"{k} = {v}" for k, v in training.settings.items())
    parts += [
        Commands(settings),
        Commands(found.provenance.command),
        Paragraph(
            f"crossdna {found.provenance.version}, torch {found.provenance.torch}, "
            f"model {found.provenance.fingerprint}",
            "note",
        ),
    ]
    return Section("How it was made", parts)
