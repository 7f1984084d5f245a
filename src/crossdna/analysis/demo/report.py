"""The report of a demonstration, written from the files that its stages left."""

from __future__ import annotations

import json
import math
import tomllib
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdna.analysis.demo.stages import stage_seconds
from crossdna.analysis.evaluation.measure import (
    ALL,
    MODEL,
    predictor_label,
    strongest_baselines,
)
from crossdna.analysis.plots import loss_figure, save_figure
from crossdna.analysis.report import (
    Commands,
    Facts,
    Paragraph,
    Picture,
    Section,
    Table,
    render_report,
)
from crossdna.files import atomic_open, atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PROBE_NAMES = {
    "pretrained": "CrossDNA, pretrained",
    "random weights": "CrossDNA, random weights",
    "k-mers": "Counting",
    "majority": "Majority",
}


class DemoFiles(NamedTuple):
    """What the stages left under the demonstration's folder, read."""

    folder: Path
    log: list[dict[str, Any]]
    training: dict[str, Any]
    """The pretraining run's provenance.json."""
    recipe: str
    evaluation: dict[str, Any]
    probe: dict[str, Any]
    locus: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> DemoFiles:
        """Read a finished demonstration."""
        model = folder / "model"
        lines = (model / "training_log.jsonl").read_text().splitlines()

        def table(path: str) -> dict[str, Any]:
            return json.loads((folder / path).read_text())

        return cls(
            folder=folder,
            log=[json.loads(line) for line in lines],
            training=table("model/provenance.json"),
            recipe=(model / "recipe.toml").read_text(),
            evaluation=table("evaluation/evaluation.json"),
            probe=table("probe/probe.json"),
            locus=table("locus/locus.json"),
        )


def write_report(folder: Path, commands: str) -> Path:
    """Write ``report.html`` (and ``loss.png``) for a finished demonstration.

    Parameters
    ----------
    folder
        The demonstration's folder: model, evaluation, probe and locus inside.
    commands
        How to go on from here, as lines to type.
    """
    files = DemoFiles.read(folder)
    _save_loss(files)
    name = files.evaluation["model_name"]
    page = render_report(
        f"A small {name} after a short training",
        _opening(files),
        [
            _training_section(files),
            _evaluation_section(files),
            _probe_section(files),
            _locus_section(files),
            _record_section(files),
            Section(
                "How to go on",
                [
                    Paragraph(
                        "The checkpoint is an ordinary model directory: every verb of "
                        "this package, and transformers' Auto classes after "
                        "'import crossdna', read it."
                    ),
                    Commands(commands),
                ],
            ),
        ],
    )
    path = folder / "report.html"
    with atomic_open(path) as handle:
        handle.write(page)
    return path


def _opening(files: DemoFiles) -> list[Any]:
    group = _everywhere(files.evaluation["conditions"][0])
    bits = group["scores"][MODEL]["bits"]["estimate"]
    auroc = files.probe["scores"]["pretrained"]["auroc"]["estimate"]
    recipe = tomllib.loads(files.recipe)
    step_bases = recipe["train"]["batch_size"] * recipe["windows"]["length"]
    bases = files.training["steps"] * step_bases
    return [
        Paragraph(
            "A DNA language model was trained from nothing to guess hidden bases of a "
            "genome, and then measured on chromosomes that it had never seen, beside "
            "models that only count. This page says what it learned, what it did not, "
            "and how to go on.",
            "lead",
        ),
        Facts(
            {
                "Parameters": f"{files.evaluation['parameters']:,}",
                "Bases read in training": f"{bases / 1e6:.2f} million",
                "Held-out bases asked": f"{group['positions']:,}",
                "Bits per hidden base": f"{bits:.3f} (guess: 2)",
                "Coding or not, AUROC": f"{auroc:.3f} (chance: 0.5)",
            }
        ),
    ]


def _training_section(files: DemoFiles) -> Section:
    best, last = files.training["weights_of_step"], files.training["steps"]
    group = _everywhere(files.evaluation["conditions"][0])
    composition = group["scores"]["markov-0"]["bits"]["estimate"]
    return Section(
        "Training",
        [
            Paragraph(
                "Some of the bases of each window were selected and most of them shown "
                "as [MASK]. The curve is the number of bits the model needs for each "
                "selected base: 2 is a blind guess among four bases, and "
                f"{composition:.2f} is what the share of each base alone gives. "
                "The validation windows are neither trained on nor used below."
            ),
            Picture(
                files.folder / "loss.png",
                "Loss in bits per base against optimiser steps",
                f"Weights of step {best} of {last} were kept: those that were best on "
                "the validation windows.",
                small=True,
            ),
        ],
    )


def _evaluation_section(files: DemoFiles) -> Section:
    evaluation = files.evaluation
    conditions = evaluation["conditions"]
    name = evaluation["model_name"]
    strands = evaluation["strands"]
    return Section(
        "Hidden bases on unseen chromosomes",
        [
            Paragraph(
                "All predictors guess the same hidden bases. Markov models know the "
                "bases to the left, the two-sided model those on both sides, both from "
                "counts on the training chromosomes; they see true bases even where "
                "other bases are hidden from the language model. With one base in "
                f"{evaluation['settings']['spacing']} hidden, the language model's "
                "context is as complete as theirs. Order 10 and the two-sided model "
                "gain much from repeated elements that occur on several chromosomes."
            ),
            Paragraph(_verdict(conditions, name)),
            _predictor_table(conditions, name),
            Picture(
                files.folder / "evaluation" / "evaluation.png",
                "Bits per base, accuracy, and bits saved by class of bases",
                "Bars are 95 % bootstrap intervals over windows. Right: classes from "
                "the annotation with 100 hidden bases or more; 'repeat' means "
                "lower-case bases outside exons.",
            ),
            _class_table(conditions[0], name),
            Paragraph(
                "Read from the two strands, the probabilities of the hidden bases "
                f"differ by {_show(strands['single'])} on average; with strand "
                "averaging, which was used for all numbers here, by "
                f"{strands['averaged']['estimate']:.1g}.",
                "note",
            ),
        ],
    )


def _verdict(conditions: Sequence[dict[str, Any]], name: str) -> str:
    """Say in words how the model compares with the best that counting gives."""
    group = _everywhere(conditions[-1])
    parts = []
    for rival in ["markov-0", *_strongest(group)]:
        gain = group["scores"][rival]["bits_gain"]
        size = f"{abs(gain['estimate']):.3f} bits per base"
        label = predictor_label(rival, name)
        if gain["low"] > 0:
            parts.append(f"better than {label} by {size}")
        elif gain["high"] < 0:
            parts.append(f"worse than {label} by {size}")
        else:
            parts.append(f"not distinguishable from {label}")
    return (
        f"With {conditions[-1]['description']}, {name} is {', '.join(parts[:-1])} and "
        f"{parts[-1]}."
    )


def _predictor_table(conditions: Sequence[dict[str, Any]], name: str) -> Table:
    groups = [_everywhere(condition) for condition in conditions]
    columns = ["Predictor"]
    for condition in conditions:
        columns += [f"Accuracy, {condition['name']}", f"Bits, {condition['name']}"]
    columns.append(f"{name} saves, {conditions[-1]['name']}")
    rows = []
    for predictor in groups[0]["scores"]:
        row = [predictor_label(predictor, name)]
        for group in groups:
            score = group["scores"][predictor]
            row += [_show(score["accuracy"], percent=True), _show(score["bits"])]
        gain = groups[-1]["scores"][predictor]["bits_gain"]
        row.append("" if predictor == MODEL else _show(gain, signed=True))
        rows.append(row)
    described = "; ".join(f"{c['name']}: {c['description']}" for c in conditions)
    return Table(
        f"All hidden bases ({described}); 95 % intervals in brackets",
        columns,
        rows,
        frozenset({0}),
    )


def _class_table(condition: dict[str, Any], name: str) -> Table:
    everywhere = _everywhere(condition)
    predictors = [MODEL, "markov-0", *_strongest(everywhere)]
    rows = [
        [group["name"], f"{group['positions']:,}"]
        + [_show(group["scores"][predictor]["bits"]) for predictor in predictors]
        for group in condition["groups"]
    ]
    columns = ["Class", "Hidden bases", *(predictor_label(p, name) for p in predictors)]
    return Table(f"Bits per base by class, {condition['description']}", columns, rows)


def _probe_section(files: DemoFiles) -> Section:
    probe = files.probe
    rows = [
        [
            f"{_PROBE_NAMES[name]}: {score['description']}",
            _show(score["auroc"]),
            _show(score["mcc"]),
        ]
        for name, score in probe["scores"].items()
    ]
    return Section(
        "Coding or intergenic: a linear probe",
        [
            Paragraph(
                f"{probe['train_windows']:,} windows of {probe['settings']['window']} "
                "bases from the training chromosomes, half of them coding and half "
                "intergenic, were embedded by the frozen model (mean over bases and "
                "strands), and a logistic regression was fitted. It is judged on "
                f"{probe['held_out_windows']:,} windows of the held-out chromosomes. "
                "The model was never told where genes are. "
                + _probe_verdict(probe["scores"])
            ),
            Table(
                "Held-out windows; 95 % intervals in brackets",
                ["Features", "AUROC", "MCC"],
                rows,
                frozenset({0}),
            ),
            Picture(
                files.folder / "probe" / "embedding.png",
                "Principal components of embeddings, coding against intergenic",
                "Each point is a window of a held-out chromosome; left the trained "
                "model, right the same network before training.",
            ),
        ],
    )


def _probe_verdict(scores: dict[str, Any]) -> str:
    """Say in words what training added, and what it lacks."""
    ours = scores["pretrained"]["auroc"]

    def against(name: str) -> str:
        other = scores[name]["auroc"]
        if ours["low"] > other["high"]:
            return "better than"
        if ours["high"] < other["low"]:
            return "worse than"
        return "about as well as"

    return (
        f"Judged by whether the intervals overlap, its embeddings tell the classes "
        f"apart {against('random weights')} those of the same network before training, "
        f"and {against('k-mers')} k-mer frequencies."
    )


def _locus_section(files: DemoFiles) -> Section:
    return Section(
        "One locus, base by base",
        [
            Paragraph(
                f"Each base of {files.locus['region']} (held out) was hidden once, "
                f"together with {files.locus['hidden_together']}, and predicted from "
                f"{files.locus['window']} bases around it, both strands averaged. A "
                "flat logo means that the model has no opinion beyond the share of "
                "each base; after minutes of training that is the usual case."
                + _block_note(files)
            ),
            Picture(
                files.folder / "locus" / "locus.png",
                "Expected bases, probabilities and annotation along the locus",
            ),
        ],
    )


def _block_note(files: DemoFiles) -> str:
    """Say where the model's blocks meet, which a reader might take for biology."""
    model = tomllib.loads(files.recipe)["model"]
    block = model.get("block_size")
    if block is None:
        return ""
    start, window = files.locus["window_start_1_based"], files.locus["window"]
    edges = [f"{start + offset:,}" for offset in range(block, window, block)]
    if not edges:
        return ""
    what = (
        "The two branches of the model swap strands"
        if model.get("swap_strands")
        else "The two branches of the model meet block by block,"
    )
    return (
        f" {what} every {block} bases, here at {', '.join(edges)}: a step there "
        "belongs to the model, not to the genome."
    )


def _record_section(files: DemoFiles) -> Section:
    evaluation, training = files.evaluation, files.training
    made_by = evaluation["made_by"]
    facts = {
        "Genome": evaluation["genome"],
        "Trained on": evaluation["train"],
        "Held out": evaluation["held_out"],
        "Package": f"crossdna {made_by['version']}, torch {made_by['torch']}",
        "Trained on device": f"{training['device']}, {training['processes']} process",
        "Command": made_by["command"],
        "Checkpoint": f"{made_by['checkpoint']}, fingerprint {made_by['fingerprint']}",
        "Strands": made_by["strand_policy"],
    }
    runtime = [row["train_runtime"] for row in files.log if "train_runtime" in row]
    if runtime:
        facts["Time for training"] = f"{runtime[-1]:.0f} s since it was last started"
    for stage in ("evaluation", "probe", "locus"):
        seconds = stage_seconds(files.folder / stage)
        facts[f"Time for {stage}"] = f"{seconds:.0f} s"
    rows = [[key, value] for key, value in facts.items()]
    return Section(
        "What was run",
        [
            Table("The record", ["What", "Value"], rows, kind="record"),
            Commands(files.recipe.strip(), "The recipe, with every default filled in"),
        ],
    )


def _save_loss(files: DemoFiles) -> None:
    training = [
        (row["step"], row["loss_masked"] / math.log(2))
        for row in files.log
        if "loss_masked" in row
    ]
    held_out = [
        (row["step"], row["eval_bits_per_base"])
        for row in files.log
        if "eval_bits_per_base" in row
    ]
    figure = loss_figure(
        training, held_out, best_step=files.training["weights_of_step"]
    )
    with atomic_path(files.folder / "loss.png") as path:
        save_figure(figure, path)


def _everywhere(condition: dict[str, Any]) -> dict[str, Any]:
    return next(group for group in condition["groups"] if group["name"] == ALL)


def _strongest(group: dict[str, Any]) -> list[str]:
    bits = {name: score["bits"]["estimate"] for name, score in group["scores"].items()}
    return strongest_baselines(bits)


def _show(
    value: dict[str, float | None], *, percent: bool = False, signed: bool = False
) -> str:
    """Format as ``estimate [low, high]``; nothing was measured where it is null."""
    if value["estimate"] is None:
        return "none"
    form, scale = (".1f", 100) if percent else (".3f", 1)
    estimate, low, high = (
        format(scale * (value[key] or 0.0), f"{'+' * signed}{form}")
        for key in ("estimate", "low", "high")
    )
    return f"{estimate}{' %' * percent} [{low}, {high}]"
