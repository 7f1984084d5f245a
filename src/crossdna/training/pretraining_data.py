"""From a recipe's genomes to batches of windows with hidden bases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch

from crossdna.data.genome import Genome
from crossdna.data.masking import MaskingConfig, mask_bases
from crossdna.data.regions import (
    by_name,
    complement,
    merge,
    overlap,
    read_bed,
    resolve_contig,
    whole_contigs,
)
from crossdna.data.windows import Source, WindowDataset
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crossdna.data.regions import Region
    from crossdna.data.windows import Window

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")
VALID_SEED = 0
"""Seed of the windows and masks to evaluate on: the same for every run of a recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenomeSettings:
    """A ``[genome.NAME]`` section: FASTA files and what of them stays unseen."""

    fasta: Path | tuple[Path, ...]
    """Plain, gzip or BGZF; relative paths start at the working directory."""
    valid: tuple[str, ...] = ()
    """Contigs for evaluation during training."""
    test: tuple[str, ...] = ()
    """Contigs that training never sees, for ``crossdna evaluate``."""
    regions: Path | None = None
    """BED file whose 4th column says train, valid or test, instead of contigs."""
    heldout: Path | None = None
    """BED file of what is not for training: its 4th column says valid, test or exclude;
    exclude may give a reason (``exclude:copy``). All the rest is for training."""
    weight: float = 1.0
    """Share of the windows, relative to the other genomes."""

    def __post_init__(self) -> None:
        given = [bool(self.valid or self.test), self.regions, self.heldout]
        if sum(map(bool, given)) > 1:
            raise CrossDNAError("give one of: valid and test, regions, heldout")
        if both := set(self.valid) & set(self.test):
            raise CrossDNAError(f"{min(both)} is in valid and in test")


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSettings:
    """The ``[windows]`` section: what is cut from the genomes."""

    length: int = 1024
    """Bases in a window."""
    valid_windows: int = 256
    """Windows in an evaluation during training."""
    max_n_share: float = 0.05
    """Windows with a larger share of N are drawn again."""
    reverse_complement: bool = True
    """Draw the strand of each window."""
    repeat_weight: float = 1.0
    """Weight of lower-case bases in the training loss."""

    def __post_init__(self) -> None:
        for name in ("length", "valid_windows"):
            if getattr(self, name) < 1:
                raise CrossDNAError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )


class OpenGenome(NamedTuple):
    """A genome of the recipe, opened, with its regions by split."""

    name: str
    genome: Genome
    regions: dict[SplitName, list[Region]]
    weight: float


def open_genomes(
    settings: Mapping[str, GenomeSettings], cache: Path | None = None
) -> list[OpenGenome]:
    """Open every genome of a recipe and split it.

    Raises
    ------
    CrossDNAError
        Whatever is wrong with a file, a contig's name or the splits.
    """
    if not settings:
        raise CrossDNAError("the recipe has no [genome.NAME] section")
    opened = []
    for name, part in settings.items():
        paths = (part.fasta,) if isinstance(part.fasta, Path) else part.fasta
        genome = Genome.open(paths, cache)
        opened.append(
            OpenGenome(name, genome, split_regions(part, genome), part.weight)
        )
    return opened


def split_regions(
    settings: GenomeSettings, genome: Genome
) -> dict[SplitName, list[Region]]:
    """Say which regions belong to which split; what no list names is for training.

    Raises
    ------
    CrossDNAError
        Unknown contig or split, a base in two splits, or nothing to train on.
    """
    if settings.regions is not None:
        return _splits_of_bed(settings.regions, genome)
    if settings.heldout is not None:
        return _splits_around(settings.heldout, genome)
    where = str(genome.paths[0])
    valid, test = (
        {resolve_contig(name, genome.contigs, where) for name in names}
        for names in (settings.valid, settings.test)
    )
    splits: dict[SplitName, list[Region]] = {name: [] for name in SPLITS}
    for region in whole_contigs(genome.contigs):
        held: SplitName = "test" if region.contig in test else "train"
        splits["valid" if region.contig in valid else held].append(region)
    if not splits["train"]:
        raise CrossDNAError(f"{where}: all contigs are held out, none is left to train")
    return splits


def _splits_of_bed(path: Path, genome: Genome) -> dict[SplitName, list[Region]]:
    named = by_name(read_bed(path, genome.contigs))
    if unknown := sorted(set(named) - set(SPLITS)):
        raise CrossDNAError(
            f"{path}: column 4 says {unknown[0]!r}; write train, valid or test"
        )
    splits: dict[SplitName, list[Region]] = {
        name: named.get(name, []) for name in SPLITS
    }
    if not splits["train"]:
        raise CrossDNAError(f"{path}: no region is named train")
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if common := overlap(splits[first], splits[second]):  # type: ignore[index]
            raise CrossDNAError(f"{path}: {common[0]} is in {first} and in {second}")
    return splits


def _splits_around(path: Path, genome: Genome) -> dict[SplitName, list[Region]]:
    """Splits from a list of what is not for training."""
    regions = read_bed(path, genome.contigs)
    named = by_name([replace(part, name=part.name.split(":")[0]) for part in regions])
    if unknown := sorted(set(named) - {"valid", "test", "exclude"}):
        raise CrossDNAError(
            f"{path}: column 4 says {unknown[0]!r}; write valid, test or exclude"
        )
    valid, test = merge(named.get("valid", [])), merge(named.get("test", []))
    if common := overlap(valid, test):
        raise CrossDNAError(f"{path}: {common[0]} is in valid and in test")
    train = complement(regions, genome.contigs)
    if not train:
        raise CrossDNAError(f"{path}: nothing is left to train")
    return {"train": train, "valid": valid, "test": test}


def training_windows(
    genomes: Sequence[OpenGenome], settings: WindowSettings, *, samples: int, seed: int
) -> WindowDataset:
    """Windows to learn from; sample i is a function of (seed, i)."""
    sources = [Source(g.name, g.genome, g.regions["train"], g.weight) for g in genomes]
    return WindowDataset(
        sources,
        length=settings.length,
        samples=samples,
        seed=seed,
        max_n_share=settings.max_n_share,
        reverse_complement=settings.reverse_complement,
        repeat_weight=settings.repeat_weight,
    )


def validation_windows(
    genomes: Sequence[OpenGenome], settings: WindowSettings
) -> WindowDataset | None:
    """Windows to evaluate on, always the same ones; None where nothing is held out."""
    sources = [
        Source(g.name, g.genome, g.regions["valid"], g.weight)
        for g in genomes
        if g.regions["valid"]
    ]
    if not sources:
        return None
    return WindowDataset(
        sources,
        length=settings.length,
        samples=settings.valid_windows,
        seed=VALID_SEED,
        max_n_share=settings.max_n_share,
        reverse_complement=settings.reverse_complement,
        part="validation",
    )


@dataclass(frozen=True)
class MaskingCollator:
    """Turn windows into a batch of tensors, hiding bases by (seed, sample) alone."""

    config: MaskingConfig
    seed: int

    def __call__(self, windows: Sequence[Window]) -> dict[str, torch.Tensor]:
        """Mask and stack.

        Returns
        -------
        input_ids, labels : (B, L) int64
        weights : (B, L) float32
            0 where nothing is predicted.
        index : (B,) int64
            The sample numbers.
        """
        indices = [window.index for window in windows]
        masked = mask_bases(
            np.stack([window.ids for window in windows]),
            indices,
            seed=self.seed,
            config=self.config,
            weights=np.stack([window.weights for window in windows]),
        )
        return {
            "input_ids": torch.from_numpy(masked.input_ids),
            "labels": torch.from_numpy(masked.labels),
            "weights": torch.from_numpy(masked.weights),
            "index": torch.tensor(indices),
        }
