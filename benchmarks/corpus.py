"""Which parts of the genomes the shipped models learn from, and the proof of it.

    python benchmarks/corpus.py build    # write recipes/pretrain/heldout/*.bed
    python benchmarks/corpus.py audit    # check the recipes; exit status 1 for any leak

`build` writes one BED file for each genome section of the recipes: blocks to validate
and test on, and what is left out of training: every place where a sequence of an
evaluation set lies (exact, or with at least half of its 24-mers in order; both
strands), loci of the variant sets, near copies of held-out blocks, and DNA that comes
twice. Yeast is held out by chromosome instead: the histone windows together cover nine
tenths of that genome, so they are evaluated on those chromosomes only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from crossdna.config import read_recipe
from crossdna.data.fasta import open_lines
from crossdna.data.genome import Genome
from crossdna.data.occurrences import copies, find_occurrences
from crossdna.data.regions import Region, merge, overlap, subtract
from crossdna.data.sequence_tables import read_sequences
from crossdna.files import atomic_open
from crossdna.training.pretraining_data import open_genomes
from crossdna.training.pretraining_recipe import PretrainRecipe

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
HELDOUT = ROOT / "recipes" / "pretrain" / "heldout"
PAD = 50
"""Bases left out on both sides of an evaluation sequence."""
VARIANT_PAD = 1000
TILE = 200
"""Bases of a held-out block that copies are looked for at once."""

EVALUATION = (
    "gue/tf/*/dev", "gue/tf/*/test", "gue/mouse/*/dev", "gue/mouse/*/test",
    "gue/prom/*/dev", "gue/prom/*/test", "gue/splice/*/dev", "gue/splice/*/test",
    "ienhancer/test", "lpd/*/dev", "lpd/*/test", "deepromoter/*",
    "ctcf_vs_pu1_peaks", "uci_splice_primate", "dna_methylation_iDNA_MS/test",
    "plant_promoter_strength/*", "promoters_cnn/*",
)  # fmt: skip
"""Sets, or parts of sets, that models are judged by."""

FILES = {
    "human": (
        "hg19_chr1_1-9876492", "hg38_chr2_1-2333275", "hg19_chr3_chr4_chr5_2Mb_each",
        "hg18_chr20_1-1000000_chrM", "hg19_chr20_1000001-2000000",
        "hg19_chr20_chr21_10.0-10.2M", "hg17_chr22_14500000-15500000",
        "hg19_chr22_20000001-21000000", "hg19_chr17_ctg5_chr4_ctg9_haps",
    ),
    "human_unplaced": ("hg19_random_unplaced",),
    "human_haplotypes": (
        "hg19_chr6_cox_hap2", "hg19_chr6_apd_hap1", "hg19_chr6_dbb_hap3",
        "hg19_chr6_mann_hap4", "hg19_chr6_mcf_hap5", "hg19_chr6_qbl_hap6",
        "hg19_chr6_ssto_hap7", "human_LPA_8_assemblies",
    ),
    "mouse": ("mm_chr9_3000001-4000000",),
    "worm": ("ce10_chrIII_chrM", "C.elegans_1pct"),
    "fly": ("D.melanogaster_1pct",),
    "yeast": ("sacCer3",),
    "arabidopsis": ("A.thaliana_1pct",),
}  # fmt: skip
"""Genome files of each section, as the recipes name them."""

# The 1000 Genomes and dbSNP windows are tested on as they are, with all their variants.
BLOCKS = {
    "human": [
        Region("z", 0, 1_000_000, "test"),
        Region("chr22_20000001-21000000", 0, 1_000_000, "test"),
        Region("chr1", 5_000_000, 5_100_000, "test"),
        Region("chr2", 1_800_000, 1_900_000, "test"),
        Region("chr3_42000000-44000000", 600_000, 700_000, "test"),
        Region("chr5_124000000-126000000", 1_400_000, 1_500_000, "test"),
        Region("chr1", 3_200_000, 3_300_000, "valid"),
        Region("chr1", 8_000_000, 8_100_000, "valid"),
        Region("chr2", 1_000_000, 1_100_000, "valid"),
        Region("chr4_103000000-105000000", 900_000, 1_000_000, "valid"),
        Region("chr17_ctg5_hap1", 800_000, 900_000, "valid"),
    ],
    "mouse": [
        Region("chr9_3000001-4000000", 300_000, 350_000, "valid"),
        Region("chr9_3000001-4000000", 650_000, 700_000, "test"),
    ],
    "worm": [
        Region("chrIII", 3_000_000, 3_100_000, "valid"),
        Region("chrIII", 9_000_000, 9_100_000, "valid"),
        Region("chrIII", 6_000_000, 6_100_000, "test"),
        Region("chrIII", 12_000_000, 12_100_000, "test"),
        # These are annotated.
        Region("V", 100_000, 150_000, "test"),
        Region("X", 100_000, 150_000, "valid"),
    ],
    "fly": [
        Region("2L", 100_000, 150_000, "valid"),
        Region("3R", 200_000, 250_000, "test"),
    ],
    "yeast": [
        Region("chrVIII", 0, 562_643, "valid"),
        Region("chrXIV", 0, 784_333, "test"),
        Region("chrXV", 0, 1_091_291, "test"),
    ],
    "arabidopsis": [
        Region("Chr1", 150_000, 200_000, "valid"),
        Region("Chr3", 100_000, 150_000, "test"),
    ],
}


def genome(section):
    """The files of one section."""
    return Genome.open(
        [SHARED / "genomes" / f"{name}.fa.gz" for name in FILES[section]]
    )


def evaluation_sequences():
    """Ids of all sequences that models are judged by, those of yeast's tasks apart."""
    found = []
    for pattern in EVALUATION:
        paths = sorted((SHARED / "benchmarks").glob(f"{pattern}.csv.gz"))
        if not paths:
            raise SystemExit(f"no evaluation set {pattern} in {SHARED}/benchmarks")
        for path in paths:
            found += read_sequences(path, sequence_column="sequence").ids
    found += read_sequences(
        SHARED / "variants/satmut_mpra_elements_reference.fa.gz"
    ).ids
    return found


def variant_loci(opened):
    """Surroundings of the ClinVar alleles; hg19 chromosome 1 is numbered as it is."""
    path = SHARED / "variants/clinvar_chr1_0.95-2.5Mb_b37.vcf.gz"
    positions = [
        int(line.split("\t")[1])
        for line in open_lines(path)
        if not line.startswith("#")
    ]
    size = opened.contigs["chr1"]
    return merge(
        Region("chr1", max(p - 1 - VARIANT_PAD, 0), min(p + VARIANT_PAD, size))
        for p in positions
    )


def padded(regions, contigs, pad):
    """Regions made longer on both sides."""
    return merge(
        Region(r.contig, max(r.start - pad, 0), min(r.end + pad, contigs[r.contig]))
        for r in regions
    )


def tile_starts(block):
    """Starts of tiles that cover all of a block; the last may overlap its neighbour."""
    return [*range(block.start, block.end - TILE, TILE), block.end - TILE]


def build():
    """Write a BED file for each section."""
    opened = {section: genome(section) for section in FILES}
    sequences = evaluation_sequences()
    tiles = [
        opened[section].fetch(block.contig, start, start + TILE)
        for section, blocks in BLOCKS.items()
        for block in blocks
        for start in tile_starts(block)
    ]
    # Haplotypes are copies of each other as a whole; their low weight speaks for that.
    order = [section for section in FILES if section != "human_haplotypes"]
    twice = dict(zip(order, copies([opened[s] for s in order]), strict=True))
    print(f"{len(sequences):,} sequences, {len(tiles):,} tiles", flush=True)
    for section, source in opened.items():
        blocks = BLOCKS.get(section, [])
        reasons = {"copy-of-heldout": find_occurrences(source, tiles, least=0.8)}
        reasons["twice"] = twice.get(section, [])
        if section != "yeast":
            places = find_occurrences(source, sequences)
            reasons["evaluation"] = padded(places, source.contigs, PAD)
        if section == "human":
            reasons["clinvar"] = variant_loci(source)
        write_bed(section, source, blocks, reasons)


def write_bed(section, source, blocks, reasons):
    """Blocks first, then what is left out, each base once; say what was found."""
    taken = list(blocks)
    rows = sorted(taken)
    for reason, regions in reasons.items():
        new = subtract(regions, taken)
        rows += [Region(r.contig, r.start, r.end, f"exclude:{reason}") for r in new]
        taken += new
        print(f"{section}: {reason} {len(new)} places, {sum(map(len, new)):,} bases")
    left = source.total_bases - sum(map(len, merge(taken)))
    print(
        f"{section}: {left:,} of {source.total_bases:,} bases to train on", flush=True
    )
    with atomic_open(HELDOUT / f"{section}.bed") as handle:
        handle.write("# written by benchmarks/corpus.py build\n")
        for row in rows:
            handle.write(f"{row.contig}\t{row.start}\t{row.end}\t{row.name}\n")


def audit(recipes):
    """Look for every evaluation sequence in what the recipes train on."""
    sequences = evaluation_sequences()
    leaks, done = 0, {}
    for path in recipes:
        recipe = read_recipe(path, PretrainRecipe)
        for part in open_genomes(recipe.genome):
            key = part.genome.fingerprint, tuple(part.regions["train"])
            if key not in done:
                done[key] = leaking(part, sequences)
            for region in done[key]:
                print(f"{path}: {part.name} {region} is of an evaluation set")
            leaks += len(done[key])
            print(f"{path}: {part.name}: {len(done[key])} leaks", flush=True)
    return 1 if leaks else 0


def leaking(part, sequences):
    """Training bases that an evaluation sequence covers, or that are held out."""
    train = part.regions["train"]
    held = part.regions["valid"] + part.regions["test"]
    if part.name == "yeast":
        return overlap(train, held)
    places = find_occurrences(part.genome, sequences)
    return overlap(train, [*places, *held])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("build", "audit"))
    parser.add_argument("recipes", nargs="*", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "build":
        build()
        return 0
    mixes = sorted((ROOT / "recipes" / "pretrain").glob("crossdna-*.toml"))
    return audit(arguments.recipes or mixes)


if __name__ == "__main__":
    raise SystemExit(main())
