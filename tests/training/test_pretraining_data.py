"""Genomes of a recipe: splits, held-out windows and batches."""

import numpy as np
import pytest
import torch

from crossdna.data.genome import Genome
from crossdna.data.masking import IGNORED, MaskingConfig
from crossdna.errors import CrossDNAError
from crossdna.training.pretraining_data import (
    GenomeSettings,
    MaskingCollator,
    WindowSettings,
    open_genomes,
    split_regions,
    training_windows,
    validation_windows,
)


@pytest.fixture
def genome(toy_genome):
    return Genome.open(toy_genome)


def contigs(regions):
    return [region.contig for region in regions]


def test_contigs_go_to_their_splits_and_the_rest_trains(toy_genome, genome):
    settings = GenomeSettings(fasta=toy_genome, valid=("two",), test=("three",))
    splits = split_regions(settings, genome)
    assert {name: contigs(regions) for name, regions in splits.items()} == {
        "train": ["one"],
        "valid": ["two"],
        "test": ["three"],
    }


def test_bed_says_the_splits(toy_genome, genome, tmp_path):
    bed = tmp_path / "splits.bed"
    bed.write_text("one\t0\t500\ttrain\none\t500\t900\tvalid\ntwo\t0\t100\ttest\n")
    splits = split_regions(GenomeSettings(fasta=toy_genome, regions=bed), genome)
    assert [len(splits[name][0]) for name in ("train", "valid", "test")] == [
        500,
        400,
        100,
    ]


@pytest.mark.parametrize(
    ("bed", "message"),
    [
        (
            "one\t0\t500\ttrain\none\t499\t900\tvalid\n",
            r"one:500-500 is in train and in",
        ),
        ("one\t0\t500\ttrain\none\t600\t900\tdev\n", "column 4 says 'dev'"),
        ("one\t0\t500\ttest\n", "no region is named train"),
        ("one\t0\t500000\ttrain\n", r"splits\.bed:1: .*beyond the end"),
    ],
)
def test_bad_splits_are_named(toy_genome, genome, tmp_path, bed, message):
    path = tmp_path / "splits.bed"
    path.write_text(bed)
    with pytest.raises(CrossDNAError, match=message):
        split_regions(GenomeSettings(fasta=toy_genome, regions=path), genome)


def test_what_no_heldout_list_names_is_for_training(toy_genome, tmp_path):
    genome = Genome.open(toy_genome)
    size = genome.contigs["one"]
    bed = tmp_path / "heldout.bed"
    bed.write_text("one 10 20 valid\none 30 40 exclude:copy\ntwo 0 5 test\n")
    splits = split_regions(GenomeSettings(fasta=toy_genome, heldout=bed), genome)
    assert [(r.start, r.end) for r in splits["train"] if r.contig == "one"] == [
        (0, 10), (20, 30), (40, size),
    ]  # fmt: skip
    assert [str(r) for r in splits["valid"]] == ["one:11-20"]
    assert [str(r) for r in splits["test"]] == ["two:1-5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one 0 5 train\n", "column 4 says 'train'; write valid, test or exclude"),
        ("one 0 5 valid\none 4 9 test\n", "one:5-5 is in valid and in test"),
    ],
)
def test_wrong_heldout_lists_are_refused(toy_genome, tmp_path, text, message):
    path = tmp_path / "heldout.bed"
    path.write_text(text)
    with pytest.raises(CrossDNAError, match=message):
        split_regions(
            GenomeSettings(fasta=toy_genome, heldout=path), Genome.open(toy_genome)
        )


def test_contradictory_settings_are_refused(toy_genome, genome):
    with pytest.raises(CrossDNAError, match="one is in valid and in test"):
        GenomeSettings(fasta=toy_genome, valid=("one",), test=("one", "two"))
    with pytest.raises(CrossDNAError, match="give one of"):
        GenomeSettings(fasta=toy_genome, valid=("one",), regions=toy_genome)
    everything = GenomeSettings(fasta=toy_genome, test=("one", "two", "three"))
    with pytest.raises(CrossDNAError, match="none is left to train"):
        split_regions(everything, genome)
    with pytest.raises(CrossDNAError, match=r"no \[genome\.NAME\] section"):
        open_genomes({})


def test_windows_stay_in_their_split(toy_genome):
    settings = {"toy": GenomeSettings(fasta=(toy_genome,), valid=("two",))}
    genomes, shape = open_genomes(settings), WindowSettings(length=64, valid_windows=20)
    train = training_windows(genomes, shape, samples=50, seed=1)
    valid = validation_windows(genomes, shape)
    assert {train.locus(i).contig for i in range(50)} == {"one", "three"}
    assert len(valid) == 20
    assert {valid.locus(i).contig for i in range(20)} == {"two"}
    nothing_held_out = open_genomes({"toy": GenomeSettings(fasta=toy_genome)})
    assert validation_windows(nothing_held_out, shape) is None


def test_a_batch_depends_on_its_samples_only(toy_genome):
    genomes = open_genomes({"toy": GenomeSettings(fasta=toy_genome)})
    shape = WindowSettings(length=64, repeat_weight=0.25)
    windows = training_windows(genomes, shape, samples=10, seed=1)
    collate = MaskingCollator(MaskingConfig(), seed=1)
    both = collate(windows.__getitems__([7, 2]))
    alone = collate(windows.__getitems__([2]))
    for name, value in alone.items():
        assert torch.equal(both[name][1:], value)
    assert both["index"].tolist() == [7, 2]
    hidden = both["labels"] != IGNORED
    assert torch.equal(both["weights"] > 0, hidden)
    assert set(np.unique(both["weights"])) <= {0.0, 0.25, 1.0}
    assert both["input_ids"].dtype == both["labels"].dtype == torch.int64
