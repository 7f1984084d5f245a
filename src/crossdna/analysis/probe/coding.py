"""The linear probe of coding against intergenic windows, whole and on file."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from crossdna.analysis.evaluation.run import Split, require_apart, write_json
from crossdna.analysis.plots import embedding_figure, save_figure
from crossdna.analysis.probe.linear import (
    Features,
    LabelledWindows,
    ProbeScore,
    ProbeSettings,
    Projection,
    draw_coding_windows,
    mean_embeddings,
    principal_components,
    random_copy,
    score_features,
    score_kmers,
    score_majority,
)
from crossdna.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from crossdna.analysis.provenance import Provenance
    from crossdna.data.annotation import Annotation


class ProbeResult(NamedTuple):
    """The probe of a model beside its rivals, and where the embeddings lie."""

    scores: dict[str, ProbeScore]
    projections: dict[str, Projection]
    classes: str
    train_windows: int
    labels: NDArray[np.int64]
    """(held-out windows,): 1 for coding."""


class LabelledSplit(NamedTuple):
    """Windows to fit a probe on and windows to judge it by."""

    train: LabelledWindows
    held_out: LabelledWindows


def draw_split_windows(
    annotation: Annotation, split: Split, settings: ProbeSettings
) -> LabelledSplit:
    """Draw coding and intergenic windows from both parts of a split.

    Raises
    ------
    CrossDNAError
        Parts that overlap, or one with too few windows of a class.
    """
    require_apart(split)
    return LabelledSplit(
        draw_coding_windows(
            annotation, split.train, settings, where="training regions"
        ),
        draw_coding_windows(
            annotation, split.held_out, settings, where="held-out regions"
        ),
    )


def probe_coding(
    model: Any,
    train: LabelledWindows,
    held_out: LabelledWindows,
    settings: ProbeSettings,
    *,
    advance: Callable[[int], None] = lambda windows: None,
) -> ProbeResult:
    """Probe a model, the same network with random weights, k-mers and chance.

    Parameters
    ----------
    model
        A model without a head.
    train, held_out
        From `draw_coding_windows`, of regions that do not overlap.
    advance
        Told how many windows have been embedded; all go through both networks.
    """
    networks = {
        "pretrained": (model, "linear probe on mean embeddings"),
        "random weights": (
            random_copy(model, seed=settings.seed),
            "the same network before training, same probe",
        ),
    }
    scores, projections = {}, {}
    for name, (network, description) in networks.items():
        features = Features(
            *(
                mean_embeddings(
                    network, part.ids, batch_size=settings.batch_size, advance=advance
                )
                for part in (train, held_out)
            )
        )
        scores[name] = score_features(
            train, held_out, features, settings, description=description
        )
        projections[name] = principal_components(features)
    scores["k-mers"] = score_kmers(train, held_out, settings)
    scores["majority"] = score_majority(held_out, settings)
    return ProbeResult(
        scores,
        projections,
        "coding (every base CDS) against intergenic",
        len(train.labels),
        held_out.labels,
    )


def write_probe(
    result: ProbeResult, made_by: Provenance, settings: ProbeSettings, folder: Path
) -> None:
    """Write ``probe.json`` and ``embedding.png``."""
    with atomic_path(folder / "embedding.png") as path:
        save_figure(embedding_figure(result.projections, result.labels), path)
    table = {
        "made_by": made_by,
        "settings": asdict(settings),
        "classes": result.classes,
        "train_windows": result.train_windows,
        "held_out_windows": len(result.labels),
        "scores": result.scores,
    }
    write_json(table, folder / "probe.json")
