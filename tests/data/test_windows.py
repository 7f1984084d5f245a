import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader

from crossdna import alphabet
from crossdna.data.genome import Genome
from crossdna.data.regions import Region, merge, subtract, whole_contigs
from crossdna.data.windows import (
    Source,
    WindowDataset,
    evaluation_windows,
)
from crossdna.errors import CrossDNAError


@pytest.fixture(scope="module")
def genomes(tmp_path_factory):
    """Two species: one with gaps and repeats, one without."""
    folder = tmp_path_factory.mktemp("genomes")
    rng = np.random.default_rng(4)

    def contig(length, gaps=()):
        letters = rng.choice(list("ACGTacgt"), length)
        for start, end in gaps:
            letters[start:end] = "N"
        return "".join(letters)

    (folder / "a.fa").write_text(
        f">a1\n{contig(3000, [(500, 900), (2950, 3000)])}\n"
        f">a2\n{contig(700)}\n>a3\n{contig(60)}\n"
    )
    (folder / "b.fa").write_text(f">b1\n{contig(2000)}\n")
    return {name: Genome.open(folder / f"{name}.fa", folder / "cache") for name in "ab"}


@pytest.fixture(scope="module")
def make(genomes):
    def make(weights=(1.0, 1.0), regions=None, **options):
        sources = [
            Source(name, genome, regions or whole_contigs(genome.contigs), weight)
            for (name, genome), weight in zip(genomes.items(), weights, strict=False)
        ]
        plain = {"length": 100, "samples": 1000, "seed": 1}
        return WindowDataset(sources, **plain | options)

    return make


def same(first, second):
    return (
        first.index == second.index
        and first.locus == second.locus
        and np.array_equal(first.ids, second.ids)
        and np.array_equal(first.weights, second.weights)
    )


def test_a_window_is_what_the_genome_has_at_its_locus(make, genomes):
    windows = make(repeat_weight=0.25).batch(range(200)).windows()
    for window in windows:
        source, contig, start, end, strand = window.locus
        ids = genomes[source].fetch(contig, start, end)
        weights = np.where(genomes[source].fetch_softmask(contig, start, end), 0.25, 1)
        if strand == "-":
            ids, weights = alphabet.reverse_complement(ids), weights[::-1]
        assert np.array_equal(window.ids, ids)
        assert np.array_equal(window.weights, weights)
        assert window.ids.dtype == np.uint8
        assert window.weights.dtype == np.float32
        assert len(window.ids) == end - start == 100
    assert {window.locus.strand for window in windows} == {"+", "-"}
    assert {window.locus.contig for window in windows} == {"a1", "a2", "b1"}


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    indices=st.lists(st.integers(0, 999), min_size=1, max_size=20),
    data=st.data(),
)
def test_a_sample_depends_on_seed_and_index_alone(make, seed, indices, data):
    dataset = make(seed=seed)
    batch = dataset.__getitems__(indices)
    order = data.draw(st.permutations(range(len(indices))))
    shuffled = make(seed=seed, samples=5000).batch([indices[i] for i in order])
    for place, window in zip(order, shuffled.windows(), strict=True):
        assert same(window, batch[place])
    one = data.draw(st.sampled_from(range(len(indices))))
    assert same(dataset[indices[one]], batch[one])
    assert dataset.locus(indices[one]) == batch[one].locus


def test_other_seeds_give_other_windows(make):
    first, second = (make(seed=seed).batch(range(50)).loci for seed in (1, 2))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 5


# A machine with one core has fewer than the workers.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (0, 7), (2, 7)])
def test_loader_gives_the_same_whatever_workers_and_batches(make, workers, batch_size):
    dataset = make(samples=40)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
        # Started afresh, workers get the dataset pickled: the harder case.
        multiprocessing_context="spawn" if workers else None,
    )
    found = [window for batch in loader for window in batch]
    assert [window.index for window in found] == list(range(40))
    assert all(same(window, dataset[window.index]) for window in found)


def test_pickled_dataset_gives_the_same_windows(make):
    dataset = make()
    again = pickle.loads(pickle.dumps(dataset))
    assert all(same(again[i], dataset[i]) for i in range(10))


def test_starts_are_uniform_over_what_the_regions_allow(make):
    regions = [
        Region("a1", 900, 1100),
        Region("a1", 1050, 1300),
        Region("a2", 0, 150),
        Region("a2", 300, 399),
    ]
    dataset = make(weights=[1], regions=regions, samples=40_000)
    loci = dataset.batch(range(40_000)).loci
    starts = [locus.start + (10_000 if locus.contig == "a2" else 0) for locus in loci]
    # 301 starts in the joined region, 51 in the other; the short one has none.
    values, counts = np.unique(starts, return_counts=True)
    allowed = [*range(900, 1201), *range(10_000, 10_051)]
    assert values.tolist() == allowed
    assert stats.chisquare(counts).pvalue > 1e-4
    strands = np.array([locus.strand == "-" for locus in loci])
    assert abs(strands.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(loci))


def test_windows_with_many_n_are_drawn_again(make, genomes):
    gaps = genomes["a"].fetch("a1", 0, 3000) == alphabet.N
    for share in (0.0, 0.05, 0.5):
        dataset = make(weights=[1], max_n_share=share, samples=20_000)
        batch = dataset.batch(range(20_000))
        n_share = (batch.ids == alphabet.N).mean(axis=1)
        assert n_share.max() <= share
        allowed = [
            start for start in range(2901) if gaps[start : start + 100].mean() <= share
        ]
        starts = [locus.start for locus in batch.loci if locus.contig == "a1"]
        values, counts = np.unique(starts, return_counts=True)
        assert set(values.tolist()) <= set(allowed)
        # Drawing again leaves the allowed starts equally likely.
        full = np.zeros(len(allowed))
        full[np.searchsorted(allowed, values)] = counts
        assert stats.chisquare(full).pvalue > 1e-4
    assert (make(max_n_share=1.0).batch(range(1000)).ids == alphabet.N).any()


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.2, 0.2)])
def test_sources_mix_by_weight_also_where_windows_are_drawn_again(make, weights):
    dataset = make(weights=weights, max_n_share=0.0, samples=20_000)
    sources = [locus.source for locus in dataset.batch(range(20_000)).loci]
    expected = weights[0] / sum(weights)
    error = np.sqrt(expected * (1 - expected) / len(sources))
    assert abs(sources.count("a") / len(sources) - expected) < 5 * error


def test_no_reverse_strand_when_not_asked_for(make):
    dataset = make(reverse_complement=False)
    assert {locus.strand for locus in dataset.batch(range(200)).loci} == {"+"}
    # The loci stay those of the same samples with both strands.
    both = [locus[:4] for locus in make().batch(range(200)).loci]
    assert [locus[:4] for locus in dataset.batch(range(200)).loci] == both


def test_length_and_indices(make):
    dataset = make(samples=10)
    assert len(dataset) == 10
    for index in (10, -1):
        with pytest.raises(IndexError, match="samples are 0 to 9"):
            dataset[index]
    assert dataset.batch([]).ids.shape == (0, 100)


def test_text_of_a_locus(make):
    locus = make().locus(3)
    text = f"{locus.source} {locus.contig}:{locus.start + 1}-{locus.end}"
    assert str(locus) == f"{text}({locus.strand})"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"length": 0}, "window length must be at least 1, got 0"),
        ({"length": -5}, "got -5"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"max_n_share": 1.5}, "max_n_share must be from 0 to 1"),
        ({"max_n_share": -0.1}, "max_n_share"),
        ({"repeat_weight": -1.0}, "repeat_weight must be 0 or more"),
        ({"seed": -1}, "seed must be from 0"),
        ({"weights": (1.0, 0.0)}, "weights above 0, got {'a': 1.0, 'b': 0.0}"),
        ({"weights": (1.0, float("nan"))}, "weights above 0"),
        ({"weights": ()}, "weights above 0"),
        (
            {"length": 5000},
            "a: no training region has 5000 bases (the longest has 3000)",
        ),
        ({"length": 5000, "part": "validation"}, "a: no validation region has 5000"),
    ],
)
def test_impossible_settings_are_refused(make, options, said):
    with pytest.raises(CrossDNAError) as caught:
        make(**options)
    assert said in str(caught.value)


def test_regions_and_names_of_sources_are_checked(genomes):
    genome = genomes["a"]
    options = {"length": 10, "samples": 1, "seed": 0}
    with pytest.raises(CrossDNAError, match="yeast: a2:1-701 goes beyond the end"):
        WindowDataset([Source("yeast", genome, [Region("a2", 0, 701)])], **options)
    with pytest.raises(CrossDNAError, match="yeast: no contig 'a9'"):
        WindowDataset([Source("yeast", genome, [Region("a9", 0, 20)])], **options)
    with pytest.raises(CrossDNAError, match="no training region"):
        WindowDataset([Source("yeast", genome, [])], **options)
    twice = [Source("yeast", genome, whole_contigs(genome.contigs))] * 2
    with pytest.raises(CrossDNAError, match="two sources have the same name"):
        WindowDataset(twice, **options)


def test_a_gap_without_windows_is_an_error_that_names_the_sample(make):
    dataset = make(weights=[1], regions=[Region("a1", 500, 900)])
    with pytest.raises(CrossDNAError, match=r"a: 4096 training windows .*7.* 5% N"):
        dataset[7]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("xy"), st.integers(0, 300), st.integers(1, 90)),
        max_size=6,
    ),
    st.integers(1, 40),
)
def test_tiling_covers_each_base_once(parts, length):
    regions = [Region(contig, start, start + size) for contig, start, size in parts]
    tiles = evaluation_windows(regions, length)
    counted = [
        Region(tile.region.contig, tile.region.end - tile.new, tile.region.end)
        for tile in tiles
    ]
    long_enough = [region for region in merge(regions) if len(region) >= length]
    assert sum(map(len, counted)) == sum(map(len, long_enough))
    assert merge(counted) == long_enough
    assert all(len(tile.region) == length for tile in tiles)
    assert not subtract([tile.region for tile in tiles], regions)


def test_real_gaps_of_human_chromosomes_are_skipped(shared, tmp_path):
    genome = Genome.open(
        shared / "data/genomes/hg19_chr6_apd_hap1.fa.gz", tmp_path / "cache"
    )
    source = Source("human", genome, whole_contigs(genome.contigs))
    dataset = WindowDataset([source], length=1024, samples=10_000, seed=0)
    batch = dataset.batch(range(2000))
    # Half of this haplotype is N.
    assert (batch.ids == alphabet.N).mean(axis=1).max() <= 0.05
    assert len({locus.start for locus in batch.loci}) > 1900


def test_two_real_species_mix(shared, tmp_path):
    files = {"yeast": "sacCer3.fa.gz", "coli": "ecoli_K12_MG1655.fa.gz"}
    sources = []
    for name, file in files.items():
        genome = Genome.open(shared / "data/genomes" / file, tmp_path / "cache")
        sources.append(Source(name, genome, whole_contigs(genome.contigs), 0.5))
    batch = WindowDataset(sources, length=512, samples=4000, seed=0).batch(range(4000))
    gc = np.isin(batch.ids, (alphabet.C, alphabet.G)).mean(axis=1)
    coli = np.array([locus.source == "coli" for locus in batch.loci])
    assert abs(coli.mean() - 0.5) < 0.05
    assert abs(gc[coli].mean() - 0.508) < 0.01
    assert abs(gc[~coli].mean() - 0.383) < 0.01


def test_regions_that_are_too_short_are_told(make, genomes):
    (note,) = make().notes()
    assert note == (
        "a: 1 of 3 training regions (60 bases, 0.016 of all) are shorter than a window "
        "of 100 and never read"
    )
    assert make(length=50).notes() == []
