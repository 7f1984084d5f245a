"""The whole evaluation of a model: baselines, measurement, strands, files."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdna.analysis.evaluation.baselines import Baselines, fit_baselines
from crossdna.analysis.evaluation.hidden import hide_whole, predicts_tokens
from crossdna.analysis.evaluation.measure import (
    MODEL,
    Condition,
    EvaluationSettings,
    baseline_predictors,
    class_grouping,
    count_windows,
    measure,
    model_predictor,
)
from crossdna.analysis.evaluation.strands import StrandDifference, strand_difference
from crossdna.analysis.inference import is_causal, network_name
from crossdna.analysis.plots import evaluation_figure, save_figure
from crossdna.analysis.provenance import Provenance, provenance
from crossdna.data.regions import Region, overlap
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open, atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crossdna.alphabet import Strand
    from crossdna.data.annotation import Annotation
    from crossdna.data.genome import Genome


class Evaluation(NamedTuple):
    """Everything that ``crossdna evaluate`` found."""

    made_by: Provenance
    model_name: str
    parameters: int
    """Numbers in the model that training changes."""
    genome: str
    held_out: str
    """Where it was measured."""
    train: str
    """What the baselines were fitted on."""
    windows: int
    """How many windows were measured."""
    settings: EvaluationSettings
    baselines: Baselines
    conditions: tuple[Condition, ...]
    strands: StrandDifference | None
    """None for causal models and byte pairs: the strands are asked for different
    things."""


class Split(NamedTuple):
    """Regions to fit the baselines on and regions to measure on, 0-based half-open."""

    train: Sequence[Region]
    held_out: Sequence[Region]


def require_apart(split: Split) -> None:
    """Refuse a split whose parts share a base."""
    shared = overlap(split.train, split.held_out)
    if shared:
        raise CrossDNAError(
            f"{shared[0]} is both in the training and in the held-out regions"
        )


def evaluate_model(
    model: Any,
    genome: Genome,
    split: Split,
    *,
    checkpoint: str,
    annotation: Annotation | None,
    settings: EvaluationSettings,
    strand: Strand = "+",
    advance: Callable[[int], None] = lambda windows: None,
) -> Evaluation:
    """Fit the baselines, measure them and the model, compare the strands.

    Parameters
    ----------
    model
        A masked or causal language model; see
        `crossdna.analysis.inference.load_model`.
    checkpoint
        Where the model came from, for the record.
    annotation
        Classes of bases to report; None for lower case (repeats) only.
    strand
        What the model reads; of both its probabilities are averaged.
    advance
        Told how many windows have been done; each counts once per condition.

    Raises
    ------
    CrossDNAError
        A region is in both parts of the split, no region holds a window, or a
        strand that the model cannot be asked about.
    """
    require_apart(split)
    causal = is_causal(model)
    if causal and strand != "+":
        raise CrossDNAError(
            "a causal model predicts the next base, as the baselines do: it is "
            "measured on the forward strand"
        )
    baselines = fit_baselines(
        genome.fetch(region.contig, region.start, region.end) for region in split.train
    )
    tokens = predicts_tokens(model)
    predictors = {
        MODEL: model_predictor(model, strand=strand),
        **baseline_predictors(baselines, causal=causal),
    }
    conditions = measure(
        genome,
        split.held_out,
        predictors,
        grouping=class_grouping(genome, annotation),
        settings=settings,
        causal=causal,
        whole=partial(hide_whole, model) if tokens else None,
        advance=advance,
    )
    return Evaluation(
        made_by=provenance(model, checkpoint, strand=strand),
        model_name=network_name(model),
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        genome=", ".join(str(path) for path in genome.paths),
        held_out=_describe(
            [part for part in split.held_out if len(part) >= settings.window], genome
        ),
        train=_describe(split.train, genome),
        # Of a single condition.
        windows=count_windows(split.held_out, settings, causal=True),
        settings=settings,
        baselines=baselines,
        conditions=conditions,
        strands=None
        if causal or tokens
        else strand_difference(model, genome, split.held_out, settings),
    )


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write ``evaluation.json`` and ``evaluation.png``."""
    two_sided = evaluation.baselines.two_sided
    table = {
        **evaluation._asdict(),
        "settings": asdict(evaluation.settings),
        "baselines": {
            "training_bases": evaluation.baselines.training_bases,
            "markov_concentrations": evaluation.baselines.markov.concentrations,
            "two_sided_size": two_sided.size,
            "two_sided_concentrations": two_sided.concentrations,
            "two_sided_bits_held_back": two_sided.bits,
            "context": "true bases of the same window, to the left (Markov) or on both "
            "sides (two-sided); a masked model sees all hidden bases of a window "
            "masked, a causal one the true bases to the left; the two kinds of model "
            "predict different things, and their bits are not comparable; models of "
            "byte pairs predict whole tokens, whose bits their bases share",
        },
    }
    figure = evaluation_figure(evaluation.conditions, model_name=evaluation.model_name)
    with atomic_path(folder / "evaluation.png") as path:
        save_figure(figure, path)
    write_json(table, folder / "evaluation.json")


def write_json(table: Any, path: Path) -> None:
    """Write tables, lists, intervals and other named tuples; NaN becomes null."""
    with atomic_open(path) as handle:
        json.dump(_plain(table), handle, indent=1, allow_nan=False)
        handle.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _describe(regions: Sequence[Region], genome: Genome, shown: int = 30) -> str:
    names = [
        region.contig if len(region) == genome.contigs[region.contig] else str(region)
        for region in regions[:shown]
    ]
    more = len(regions) - shown
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
