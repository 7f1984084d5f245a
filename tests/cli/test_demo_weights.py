"""``crossdna demo`` without a recipe: shipped weights at work."""

import gzip
import re
import shutil

import numpy as np
import pysam
import pytest
import torch

from crossdna import CrossDNAConfig, CrossDNAForMaskedLM, CrossDNATokenizer, alphabet
from crossdna.analysis.demo.weights_report import (
    Alleles,
    rare_against_common,
    rare_verdict,
    read_alleles,
)
from crossdna.analysis.statistics import Interval
from crossdna.cli import demo_weights, main

HEADER = """##fileformat=VCFv4.2
##contig=<ID=z,length=4000>
##INFO=<ID=AF,Number=A,Type=Float,Description="Frequency">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO
"""


@pytest.fixture
def letters():
    return alphabet.decode(np.random.default_rng(3).integers(0, 4, 4000))


@pytest.fixture
def data(tmp_path, letters):
    """A folder like data/human: promoters have a TATA box, variants a frequency."""
    folder = tmp_path / "data"
    (folder / "promoters").mkdir(parents=True)
    random = np.random.default_rng(4)
    for name, rows in (("train", 60), ("dev", 24), ("test", 30)):
        lines = ["sequence,label"]
        for row in range(rows):
            dna = alphabet.decode(random.integers(0, 4, 40))
            label = row % 2
            lines.append(f"{dna[:10] + 'TATAAA' + dna[16:] if label else dna},{label}")
        with gzip.open(folder / "promoters" / f"{name}.csv.gz", "wt") as file:
            file.write("\n".join(lines) + "\n")
    (tmp_path / "g.fa").write_text(f">z\n{letters}\n")
    with gzip.open(folder / "chr20_1-2Mb.fa.gz", "wt") as file:
        file.write(f">z\n{letters}\n")
    lines = [
        f"z\t{p}\t.\t{letters[p - 1]}\t{'A' if letters[p - 1] != 'A' else 'G'}\t.\t.\t"
        f"AF={0.2 if p % 20 else 0.0005}\n"
        for p in range(1000, 1200, 10)
    ]
    (tmp_path / "v.vcf").write_text(HEADER + "".join(lines))
    target = str(folder / "variants.vcf.gz")
    pysam.tabix_compress(str(tmp_path / "v.vcf"), target, force=True)
    return folder


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=8, attention_heads=2, block_size=32
    )
    folder = tmp_path / "model"
    CrossDNAForMaskedLM(config).save_pretrained(folder)
    CrossDNATokenizer().save_pretrained(folder)
    return folder


def test_what_was_taken_away_is_made_again(data, model, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_weights, "PROMOTER", "z:1,101-1,110")
    output = tmp_path / "demo"
    words = ["demo", "--model", str(model), "--data", str(data)]
    assert main([*words, "--output", str(output)]) == 0
    shutil.rmtree(output / "promoter")
    (output / "variants.vcf.gz").unlink()
    assert main([*words, "--output", str(output)]) == 0
    assert (output / "promoter" / "ism.parquet").exists()
    assert (output / "variants.vcf.gz").exists()


def test_options_of_the_other_demonstration_are_refused(data, tmp_path, capsys):
    end = ["--output", str(tmp_path / "demo")]
    assert main(["demo", "--locus", "z:1-9", *end]) == 2
    assert "belong to a recipe" in capsys.readouterr().err
    (tmp_path / "x.toml").touch()
    recipe = str(tmp_path / "x.toml")
    assert main(["demo", recipe, "--model", "crossdna-tiny", *end]) == 2
    assert "without a recipe" in capsys.readouterr().err


def test_everything_ends_in_one_page(data, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_weights, "PROMOTER", "z:1,101-1,120")
    output = tmp_path / "demo"
    words = ["demo", "--model", str(model), "--data", str(data)]
    assert main([*words, "--output", str(output)]) == 0
    page = (output / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "20</dd>" in page
    assert "AUROC" in page
    assert "Ready-made weights (model)" in page
    # What fine-tuning found stands here too, and every interval under its number.
    own = (output / "promoters" / "report.html").read_text()
    assert re.search(r'class="lead">([^<]*)', own)[1] in page
    assert not re.search(r"<td>[-.\d]+ \[", page)
    alleles = read_alleles(output / "variants.vcf.gz")
    assert len(alleles.llr) == 20
    assert np.isfinite(alleles.llr).all()
    # Repeated, nothing is done again.
    kept = (output / "promoters" / "metrics.json").stat().st_mtime_ns
    capsys.readouterr()
    assert main([*words, "--output", str(output)]) == 0
    assert (output / "promoters" / "metrics.json").stat().st_mtime_ns == kept
    assert "scored" not in capsys.readouterr().out


def test_an_interval_around_chance_tells_nothing():
    assert "tells nothing here." in rare_verdict(Interval(0.406, 0.285, 0.55))
    assert "nothing" not in rare_verdict(Interval(0.306, 0.285, 0.45))
    assert "nothing" not in rare_verdict(Interval(0.606, 0.585, 0.65))


def test_missing_data_is_named(model, tmp_path, capsys):
    words = ["demo", "--model", str(model), "--data", str(tmp_path)]
    assert main([*words, "--output", str(tmp_path / "demo")]) == 2
    assert "train.csv.gz: no such file" in capsys.readouterr().err


def test_rare_alleles_with_lower_scores_are_told_from_common_ones():
    frequency = np.repeat([0.0005, 0.3, 0.01], 20)
    llr = np.repeat([-3.0, 0.5, -9.0], 20) + np.linspace(0, 1, 60)
    found = rare_against_common(Alleles([""] * 60, llr, frequency))
    assert found.estimate == 1
    assert found.low == pytest.approx(1)
    turned = rare_against_common(Alleles([""] * 60, -llr, frequency))
    assert turned.estimate == 0
    alone = Alleles([""] * 20, llr[:20], frequency[:20])
    assert rare_against_common(alone) is None
