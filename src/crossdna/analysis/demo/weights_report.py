"""The report of a demonstration that starts from shipped weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pysam
from sklearn.metrics import roc_auc_score

from crossdna.analysis.demo.stages import stage_seconds
from crossdna.analysis.plots import BLUE, GREY, STYLE, new_figure, save_figure
from crossdna.analysis.report import (
    Commands,
    Facts,
    Paragraph,
    Picture,
    Section,
    Table,
    render_report,
)
from crossdna.analysis.statistics import Interval, interval
from crossdna.analysis.supervised.report import verdict
from crossdna.files import atomic_open, atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crossdna.analysis.report import Part

SCORE: Final = "XD_LLR"
FREQUENCY: Final = "AF"
COMMON: Final = 0.05
RARE: Final = 0.001
_SHOWN: Final = 8
_RESAMPLES: Final = 1000


class Alleles(NamedTuple):
    """Scored alleles of a VCF."""

    names: list[str]
    """Such as ``z:974703 A>G``."""
    llr: NDArray[np.float64]
    """log p(alternate) - log p(reference)."""
    frequency: NDArray[np.float64]


class Steps(NamedTuple):
    """What the report is made of."""

    model: str
    finetuned: Path
    """What ``crossdna finetune`` left."""
    variants: Path
    """The scored VCF."""
    promoter: Path
    """The picture of ``crossdna ism``."""
    place: str
    contig: str
    """What the contig of the genome file is."""
    records: Mapping[str, Path]
    """Folders of the stages, by what each did."""


def read_alleles(path: Path) -> Alleles:
    """Substitutions of a scored VCF that have an allele frequency."""
    names, llr, frequency = [], [], []
    with pysam.VariantFile(str(path)) as file:
        for record in file:
            scores, shares = record.info.get(SCORE), record.info.get(FREQUENCY)
            for alt, score, share in zip(
                record.alts or (), scores or (), shares or (), strict=False
            ):
                if score is None or share is None:
                    continue
                names.append(f"{record.chrom}:{record.pos} {record.ref}>{alt}")
                llr.append(float(score))
                frequency.append(float(share))
    return Alleles(names, np.array(llr), np.array(frequency))


def rare_against_common(alleles: Alleles) -> Interval | None:
    """AUROC of a low score for rare against common alleles; None without both."""
    chosen = (alleles.frequency <= RARE) | (alleles.frequency >= COMMON)
    scores, rare = -alleles.llr[chosen], alleles.frequency[chosen] <= RARE
    if rare.all() or not rare.any():
        return None
    random = np.random.default_rng(0)
    draws = []
    for _ in range(_RESAMPLES):
        rows = random.integers(0, len(rare), len(rare))
        both = 0 < rare[rows].sum() < len(rows)
        draws.append(roc_auc_score(rare[rows], scores[rows]) if both else np.nan)
    return interval(float(roc_auc_score(rare, scores)), np.array(draws))


def rare_verdict(auroc: Interval) -> str:
    """Say in words what the scores tell of rare against common alleles."""
    nothing = auroc.low <= 0.5 <= auroc.high
    return (
        f"Rare (at most {RARE:.1%} of chromosomes) against common (at least "
        f"{COMMON:.0%}): AUROC {_number(auroc._asdict())}; 0.5 is chance"
        f"{', so it tells nothing here' if nothing else ''}."
    )


def write_weights_report(folder: Path, steps: Steps, commands: str) -> Path:
    """Write ``report.html``.

    Parameters
    ----------
    commands
        What was typed, and what to type next.
    """
    metrics = json.loads((steps.finetuned / "metrics.json").read_text())
    alleles = read_alleles(steps.variants)
    seconds = {name: stage_seconds(path) for name, path in steps.records.items()}
    primary = metrics["primary_metric"]
    best = metrics["model"]["metrics"][primary]
    opening: list[Part] = [
        Paragraph(
            f"Ready-made weights ({steps.model}), put to work on human DNA: a "
            "classifier of promoters beside baselines, variants of 1000 Genomes "
            "scored, a promoter changed base by base.",
            "lead",
        ),
        Facts(
            {
                f"Promoters: test {primary.upper()}": f"{best['estimate']:.3f}",
                "Substitutions scored": f"{len(alleles.llr):,}",
                "Minutes in all": f"{sum(seconds.values()) / 60:.1f}",
            }
        ),
    ]
    gain = metrics.get("against_best_baseline")
    if gain:
        # The sentence of the fine-tuning's own report.
        opening.append(Paragraph(f"Promoters. {verdict(gain['name'], gain[primary])}"))
    sections = [
        _promoters(metrics, folder),
        _variants(alleles, folder, steps.contig),
        Section(
            "A promoter, base by base",
            [
                Paragraph(
                    f"Every base of {steps.place} replaced by each other one: what the "
                    "model, which never saw this stretch of chromosome 20, expects "
                    "there. Above: the bases it holds to be irreplaceable."
                ),
                Picture(steps.promoter, "Effects of all substitutions in a promoter"),
            ],
        ),
        Section(
            "How this was made",
            [
                Table(
                    "Steps",
                    ["step", "seconds"],
                    [[name, f"{value:.0f}"] for name, value in seconds.items()],
                ),
                Commands(commands),
            ],
        ),
    ]
    path = folder / "report.html"
    with atomic_open(path) as handle:
        handle.write(render_report("CrossDNA at work", opening, sections))
    return path


def _promoters(metrics: dict[str, Any], folder: Path) -> Section:
    judged = {"CrossDNA, fine-tuned": metrics["model"], **metrics["others"]}
    found = {name: one["metrics"] for name, one in judged.items()}
    names = [n for n in metrics["model"]["metrics"] if n in metrics["chance"]]
    rows = [
        [name, *(_number(values[metric]) for metric in names)]
        for name, values in found.items()
    ]
    rows.append(["by chance", *(f"{metrics['chance'][n]:.3f}" for n in names)])
    primary = metrics["primary_metric"]
    figure = folder / "promoters.png"
    _draw({name: values[primary] for name, values in found.items()}, primary, figure)
    counts = metrics["rows"]
    parts: list[Part] = [
        Paragraph(
            f"TATA promoters of human genes against other sequences with a TATA word "
            f"(GUE, prom_core_tata): 70 bases, {counts['train']:,} to learn from, "
            f"{counts['test']:,} to test on. The baselines learned from the same rows."
        ),
        Picture(figure, "First metric of every predictor with its interval"),
        Table(
            "Test set, with 95 % bootstrap intervals",
            ["", *names],
            rows,
            frozenset({0}),
        ),
    ]
    return Section("Promoters: fine-tuned, beside baselines", parts)


def _variants(alleles: Alleles, folder: Path, contig: str) -> Section:
    order = np.argsort(alleles.llr)[:_SHOWN]
    rows = [
        [alleles.names[i], f"{alleles.llr[i]:+.2f}", f"{alleles.frequency[i]:.4f}"]
        for i in order
    ]
    parts: list[Part] = [
        Paragraph(
            "The score is log p(alternate) - log p(reference) at the masked base: "
            "negative where the model expects the reference. Rare alleles should have "
            "lower scores than common ones if it knew what selection removes."
        )
    ]
    auroc = rare_against_common(alleles)
    if auroc is not None:
        parts.append(Paragraph(rare_verdict(auroc)))
        picture = folder / "variants.png"
        _histogram(alleles, picture)
        parts.append(Picture(picture, "Scores of rare and of common alleles"))
    parts.append(
        Table(
            "The least expected alleles", ["allele", "score", "allele frequency"], rows
        )
    )
    parts.append(Paragraph(contig, "note"))
    return Section("Variants of 1000 Genomes, scored", parts)


def _number(value: Mapping[str, float | None]) -> str:
    if value["estimate"] is None:
        return "undefined"
    return f"{value['estimate']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _draw(values: Mapping[str, Mapping[str, float]], metric: str, path: Path) -> None:
    """A point with its interval for each predictor, ours first."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.5, 0.5 * len(values) + 1)
        axes = figure.add_subplot()
        for row, value in enumerate(values.values()):
            middle = value["estimate"]
            ends = [[middle - value["low"]], [value["high"] - middle]]
            colour = GREY if row else BLUE
            axes.errorbar([middle], [row], xerr=ends, fmt="o", color=colour, capsize=3)
        axes.set_yticks(range(len(values)), list(values))
        axes.invert_yaxis()
        axes.set_xlabel(metric.upper())
        with atomic_path(path) as temporary:
            save_figure(figure, temporary)


def _histogram(alleles: Alleles, path: Path) -> None:
    import matplotlib

    groups: Sequence[tuple[str, NDArray[np.bool_], str]] = (
        (f"rare, at most {RARE:.1%}", alleles.frequency <= RARE, GREY),
        (f"common, at least {COMMON:.0%}", alleles.frequency >= COMMON, BLUE),
    )
    with matplotlib.rc_context(STYLE):
        figure = new_figure(7.5, 3)
        axes = figure.add_subplot()
        bins = np.linspace(alleles.llr.min(), alleles.llr.max(), 30).tolist()
        for name, chosen, colour in groups:
            label = f"{name} ({chosen.sum()})"
            axes.hist(
                alleles.llr[chosen], bins, density=True, alpha=0.6, color=colour,
                label=label,
            )  # fmt: skip
        axes.set_xlabel("log p(alternate) - log p(reference)")
        axes.set_ylabel("density")
        axes.legend()
        with atomic_path(path) as temporary:
            save_figure(figure, temporary)
