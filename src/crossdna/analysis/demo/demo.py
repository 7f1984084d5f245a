"""What a demonstration shows of a pretrained model: three analyses and a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import crossdna
from crossdna import alphabet
from crossdna.analysis.demo.stages import run_stage
from crossdna.analysis.evaluation.locus import predict_locus
from crossdna.analysis.evaluation.measure import EvaluationSettings, count_windows
from crossdna.analysis.evaluation.run import (
    Split,
    evaluate_model,
    write_evaluation,
    write_json,
)
from crossdna.analysis.inference import load_model
from crossdna.analysis.plots import locus_figure, save_figure
from crossdna.analysis.probe.coding import (
    draw_split_windows,
    probe_coding,
    write_probe,
)
from crossdna.analysis.probe.linear import ProbeSettings
from crossdna.analysis.provenance import provenance
from crossdna.files import atomic_path
from crossdna.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from crossdna.data.annotation import Annotation
    from crossdna.data.regions import Region

    # (label, total, unit) -> a bar that is told how many more are done.
    Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]

LOCUS_SPACING = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSettings:
    """Sizes that keep the analyses of a small model within a minute or so."""

    evaluation: EvaluationSettings
    probe: ProbeSettings


class DemoData(NamedTuple):
    """What the model is shown."""

    annotation: Annotation
    annotation_digest: str
    """Changes with the annotation's file."""
    split: Split
    locus: Region


def analyse(
    model_folder: Path,
    output: Path,
    data: DemoData,
    settings: DemoSettings,
    *,
    progress: Progress,
) -> None:
    """Evaluate, probe and show a locus; each once for the same model and data.

    Parameters
    ----------
    model_folder
        A checkpoint of a masked language model.
    output
        Gets a folder for each analysis.
    progress
        Shows how far a longer step is.
    """
    model = load_model(model_folder, "masked-lm")
    genome = data.annotation.genome
    inputs = {
        "version": crossdna.__version__,
        "model": str(fingerprint(model, model_folder)),
        "genome": genome.fingerprint,
        "annotation": data.annotation_digest,
        "train": [str(region) for region in data.split.train],
        "held_out": [str(region) for region in data.split.held_out],
    }
    window = settings.evaluation.window

    def evaluate(folder: Path) -> None:
        _evaluate(model, model_folder, folder, data, settings.evaluation, progress)

    def probe(folder: Path) -> None:
        _probe(model_folder, folder, data, settings.probe, progress)

    def show_locus(folder: Path) -> None:
        _show_locus(model, model_folder, folder, data, window)

    run_stage(
        output / "evaluation",
        {**inputs, "settings": asdict(settings.evaluation)},
        ["evaluation.json", "evaluation.png"],
        evaluate,
    )
    run_stage(
        output / "probe",
        {**inputs, "settings": asdict(settings.probe)},
        ["probe.json", "embedding.png"],
        probe,
    )
    run_stage(
        output / "locus",
        {**inputs, "locus": asdict(data.locus), "window": window},
        ["locus.json", "locus.png"],
        show_locus,
    )


def _evaluate(
    model: Any,
    model_folder: Path,
    folder: Path,
    data: DemoData,
    settings: EvaluationSettings,
    progress: Progress,
) -> None:
    total = count_windows(data.split.held_out, settings)
    with progress("evaluating", total, "windows") as advance:
        evaluation = evaluate_model(
            model,
            data.annotation.genome,
            data.split,
            checkpoint=str(model_folder),
            annotation=data.annotation,
            settings=settings,
            strand="both",
            advance=advance,
        )
    write_evaluation(evaluation, folder)


def _probe(
    model_folder: Path,
    folder: Path,
    data: DemoData,
    settings: ProbeSettings,
    progress: Progress,
) -> None:
    train, held_out = draw_split_windows(data.annotation, data.split, settings)
    model = load_model(model_folder, "embedding")
    total = 2 * (len(train.labels) + len(held_out.labels))
    with progress("probing", total, "windows") as advance:
        result = probe_coding(model, train, held_out, settings, advance=advance)
    made_by = provenance(model, str(model_folder), strand="both")
    write_probe(result, made_by, settings, folder)


def _show_locus(
    model: Any, model_folder: Path, folder: Path, data: DemoData, window: int
) -> None:
    prediction = predict_locus(
        model,
        data.annotation.genome,
        data.locus,
        window=window,
        spacing=LOCUS_SPACING,
    )
    locus = data.locus
    track = data.annotation.class_track(locus.contig, locus.start, locus.end)
    title = f"{locus.name or 'Locus'}: {locus}"
    figure = locus_figure(prediction, track.classes, title=title)
    with atomic_path(folder / "locus.png") as path:
        save_figure(figure, path)
    table = {
        "made_by": provenance(model, str(model_folder), strand="both"),
        "region": str(locus),
        "window": window,
        "window_start_1_based": prediction.window_start + 1,
        "hidden_together": f"every {LOCUS_SPACING}th base",
        "sequence": alphabet.decode(prediction.ids),
        "probabilities": {
            base: prediction.probabilities[:, index].tolist()
            for index, base in enumerate(alphabet.BASES)
        },
    }
    write_json(table, folder / "locus.json")
