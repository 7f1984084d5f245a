"""``crossdna score`` as a user runs it."""

import gzip
import io
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pysam
import pytest

from crossdna.cli import main

HEADER = """##fileformat=VCFv4.2
##source=test
##INFO=<ID=AF,Number=A,Type=Float,Description="frequency">
##FORMAT=<ID=GT,Number=1,Type=String,Description="genotype">
#CHROM	POS	ID	REF	ALT	QUAL	FILTER	INFO	FORMAT	s1
"""


@pytest.fixture
def letters(rng):
    return "".join(rng.choice(list("ACGT"), 2000))


@pytest.fixture
def genome(tmp_path, letters, cache_folder):
    path = tmp_path / "genome.fa.gz"
    path.write_bytes(
        gzip.compress(f">chr1\n{letters}\n>chr2\n{letters[::-1]}\n".encode())
    )
    return path


@pytest.fixture
def variants(tmp_path, letters):
    """Records of all kinds on contig 1, which the genome calls chr1."""
    lines = []
    for place in range(3, 1990, 60):
        ref = letters[place]
        others = [base for base in "ACGT" if base != ref]
        alts = [
            others[0],
            ",".join(others),
            f"{others[1]},<DEL>,*",
            ref + "GAT",
            ".",
            f"{ref}T,{others[2]}",
        ][len(lines) % 6]
        lines.append(f"1\t{place + 1}\trs{place}\t{ref}\t{alts}\t.\tPASS\t.\tGT\t0/1\n")
    wrong = "A" if letters[1994] != "A" else "C"
    lines.append(f"1\t1995\tbad\t{wrong}\tT\t.\t.\tAF=0.5\tGT\t0/0\n")
    path = tmp_path / "in.vcf"
    path.write_text(HEADER + "".join(lines))
    return path


def command(tiny_checkpoint, genome, variants, output, *more):
    words = ["score", "--model", tiny_checkpoint(), "--genome", genome]
    words += ["--variants", variants, "--output", output, "--window", 64]
    words += ["--mask-spacing", 4, "--device", "cpu", *more]
    return [str(word) for word in words]


def test_vcf_out(tiny_checkpoint, genome, variants, tmp_path, capsys):
    output = tmp_path / "out.vcf.gz"
    assert main(command(tiny_checkpoint, genome, variants, output)) == 0
    printed = capsys.readouterr()
    assert "REF differs from the genome in 1 of 35 records" in printed.err
    assert "contigs are named otherwise: 1 is chr1" in printed.err
    assert "reference_mismatch 1" in printed.out
    assert "spanning_deletion 6, symbolic 6" in printed.out
    left = {path.name for path in tmp_path.iterdir()} - {"cache"}
    assert left == {"genome.fa.gz", "in.vcf", "out.vcf.gz", "out.vcf.gz.tbi"}

    before = [line.split("\t") for line in variants.read_text().splitlines()]
    after = [
        line.split("\t")
        for line in gzip.decompress(output.read_bytes()).decode().splitlines()
    ]
    body = [row for row in after if not row[0].startswith("#")]
    given = [row for row in before if not row[0].startswith("#")]
    assert [row[:7] + row[8:] for row in body] == [row[:7] + row[8:] for row in given]
    assert [row for row in before[:4] if row not in after] == []

    with pysam.VariantFile(str(output)) as file:
        assert "negative = less expected" in file.header.info["XD_LLR"].description
        records = list(file.fetch("1"))
        for record in records:
            alts = record.alts or ()
            llr = record.info.get("XD_LLR", (None,) * len(alts))
            pll = record.info.get("XD_PLL", (None,) * len(alts))
            skip = record.info.get("XD_SKIP", (None,) * len(alts))
            assert len(llr) == len(pll) == len(skip) == len(alts)
            assert ("XD_NO_ALT" in record.info) == (not alts)
            for values in zip(llr, pll, skip, strict=True):
                assert sum(value not in (None, ".") for value in values) == 1
        assert records[2].info["XD_SKIP"] == (".", "symbolic", "spanning_deletion")
        assert records[-1].info["XD_SKIP"] == ("reference_mismatch",)
        assert records[-1].info["AF"] == (0.5,)


def test_what_no_score_applies_to_is_not_counted_as_scored(
    tiny_checkpoint, genome, variants, tmp_path, capsys
):
    output = tmp_path / "out.tsv"
    words = command(tiny_checkpoint, genome, variants, output, "--scores", "llr")
    assert main(words) == 0
    said = capsys.readouterr().out
    rows = pl.read_csv(output, separator="\t", comment_prefix="#", null_values="NA")
    scored = rows.filter(pl.col("llr").is_not_null())
    assert set(scored["skip"]) == {"."}
    assert f"{len(scored)} alleles scored" in said
    insertions = rows.filter(
        pl.col("alt").str.len_chars() > 1, pl.col("alt") != "<DEL>"
    )
    assert set(insertions["skip"]) == {"no_such_score"}
    assert f"no_such_score {len(insertions)}" in said


def bcftools(*words):
    done = subprocess.run(
        ["bcftools", *map(str, words)], capture_output=True, text=True, check=True
    )
    assert "[W::" not in done.stderr
    return done.stdout


def thinned(path, keep, target):
    """Header and chosen records of a VCF; gives the records."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    header = [line for line in lines if line.startswith("#")]
    records = keep([line for line in lines if not line.startswith("#")])
    target.write_text("\n".join([*header, *records]) + "\n")
    return records


def is_complex(record):
    _, _, _, ref, alt, *_ = record.split("\t")
    return "," in alt or len(ref) > 1 or len(alt) > 1


@pytest.mark.parametrize(
    ("variants", "genome", "keep"),
    [
        (
            "1000G_chr20_1-2Mb_hg19",
            "hg19_chr20_1000001-2000000",
            lambda records: list(filter(is_complex, records))[::15],
        ),
        (
            "clinvar_chr1_0.95-2.5Mb_b37",
            "hg19_chr1_1-9876492",
            lambda records: sorted(
                {*filter(is_complex, records[::2]), *records[::25]}, key=records.index
            ),
        ),
        (
            "dbsnp_chr22_20-21Mb_hg19_snv",
            "hg19_chr22_20000001-21000000",
            lambda records: records[::100],
        ),
    ],
)
def test_shared_files_round_trip(
    tiny_checkpoint, shared, tmp_path, cache_folder, variants, genome, keep
):
    given, output = tmp_path / "in.vcf", tmp_path / "out.vcf.gz"
    records = thinned(shared / f"data/variants/{variants}.vcf.gz", keep, given)
    fasta = shared / f"data/genomes/{genome}.fa.gz"
    words = command(tiny_checkpoint, fasta, given, output, "--scores", "llr", "pll")
    assert main(words) == 0
    with pysam.VariantFile(str(output)) as file:
        found = list(file)
    assert len(found) == len(records)
    for record, line in zip(found, records, strict=True):
        fields, after = line.split("\t"), str(record).rstrip("\n").split("\t")
        assert after[:2] + after[3:5] == fields[:2] + fields[3:5]
        # htslib writes numbers its own way, the file itself has the old text.
        assert after[7].count(";") >= fields[7].count(";")
        count = len(fields[4].split(","))
        for name in ("XD_LLR", "XD_PLL", "XD_SKIP"):
            assert len(record.info.get(name, [None] * count)) == count
    text = gzip.decompress(output.read_bytes()).decode().splitlines()
    for line, after in zip(records, [x for x in text if x[0] != "#"], strict=True):
        old, new = line.split("\t"), after.split("\t")
        assert old[:7] + old[8:] == new[:7] + new[8:]
        assert new[7].startswith("" if old[7] == "." else old[7])
    if not shutil.which("bcftools"):
        pytest.skip("bcftools is not installed")
    assert len(bcftools("view", "-H", output).splitlines()) == len(records)
    plain = tmp_path / "plain.fa"
    contig = records[0].split("\t")[0]
    name, _, letters = gzip.decompress(fasta.read_bytes()).decode().partition("\n")
    plain.write_text(f">{contig}\n{letters}")
    bcftools("norm", "-c", "e", "-f", plain, "-o", "/dev/null", output)
    first = records[0].split("\t")[1]
    assert bcftools("view", "-H", output, f"{contig}:{first}-{first}")
    # Split by allele and joined again, every allele has kept its scores.
    split, joined = tmp_path / "split.vcf", tmp_path / "joined.vcf"
    bcftools("norm", "-m-", "-o", split, output)
    bcftools("norm", "-m+any", "-o", joined, split)
    before, apart, after = (scored_rows(path) for path in (output, split, joined))
    assert len(apart) == sum(len(r.split("\t")[4].split(",")) for r in records)
    assert sum(row[3:5] != (".", ".") for row in apart) > 0.9 * len(apart)
    # Records that share a position with others come out joined with them.
    places = [row[0] for row in before]
    alone = [row for row in before if places.count(row[0]) == 1]
    assert any("," in row[2] for row in alone) or not any("," in r[2] for r in before)
    assert len(alone) > 0.9 * len(before)
    assert set(alone) <= set(after)


def scored_rows(path):
    columns = "%POS\t%REF\t%ALT\t%XD_LLR\t%XD_PLL\t%XD_SKIP\n"
    return [
        tuple(row.split("\t"))
        for row in bcftools("query", "-f", columns, path).splitlines()
    ]


def test_bcftools_reads_it(tiny_checkpoint, genome, variants, letters, tmp_path):
    if not shutil.which("bcftools"):
        pytest.skip("bcftools is not installed")
    plain = tmp_path / "plain.fa"
    plain.write_text(f">1\n{letters}\n")
    kept = [line for line in variants.read_text().splitlines() if "\tbad\t" not in line]
    variants.write_text("\n".join(kept) + "\n")
    output = tmp_path / "out.vcf.gz"
    assert main(command(tiny_checkpoint, genome, variants, output)) == 0

    assert len(bcftools("view", "-H", output).splitlines()) == 34
    assert len(bcftools("view", "-H", output, "1:100-400").splitlines()) == 5
    bcftools("norm", "-c", "e", "-f", plain, "-o", "/dev/null", output)
    bcftools("view", "-Ob", "-o", tmp_path / "out.bcf", output)
    split = bcftools("norm", "-m-", output)
    assert sum(not line.startswith("#") for line in split.splitlines()) > 50
    # The BCF goes in again, scored fields and all, and comes out the same.
    again = tmp_path / "again.vcf.gz"
    assert main(command(tiny_checkpoint, genome, tmp_path / "out.bcf", again)) == 0
    columns = "%POS\t%REF\t%ALT\t%XD_LLR\t%XD_PLL\t%XD_ENTROPY\t%XD_SKIP\t[%GT]\n"
    first, second = (bcftools("query", "-f", columns, path) for path in (output, again))
    assert first == second
    assert gzip.decompress(again.read_bytes()).count(b"##XD_score") == 1


def test_tables_and_stdin(tiny_checkpoint, genome, variants, tmp_path, monkeypatch):
    text = variants.read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    tsv, parquet = tmp_path / "out.tsv", tmp_path / "out.parquet"
    assert main(command(tiny_checkpoint, genome, "-", tsv)) == 0
    assert main(command(tiny_checkpoint, genome, variants, parquet)) == 0
    first = pl.read_csv(tsv, separator="\t", comment_prefix="#", null_values="NA")
    second = pl.read_parquet(parquet)
    assert first.columns == second.columns
    keys = ["chrom", "pos", "id", "ref", "alt", "record", "allele"]
    for key in keys:
        assert first[key].cast(pl.String).to_list() == (
            second[key].cast(pl.String).to_list()
        )
    assert second["record"].to_list() == sorted(second["record"].to_list())
    for name in ("llr", "pll", "entropy"):
        np.testing.assert_allclose(
            first[name].to_numpy(), second[name].to_numpy(), rtol=1e-5
        )
    metadata = pl.read_parquet_metadata(parquet)
    assert json.loads(metadata["crossdna"])["strand_policy"] == "average"
    # A table of the same variants gives the same scores.
    rows = second.filter(pl.col("skip") == ".")
    table = tmp_path / "in.tsv"
    rows.select("chrom", "pos", "ref", "alt").write_csv(table, separator="\t")
    again = tmp_path / "again.parquet"
    assert main(command(tiny_checkpoint, genome, table, again)) == 0
    found = pl.read_parquet(again)
    np.testing.assert_allclose(
        found["llr"].to_numpy(), rows["llr"].to_numpy(), atol=1e-5
    )


def test_precision_is_said_and_never_mixed(
    tiny_checkpoint, genome, variants, tmp_path, left_unfinished, capsys
):
    output = tmp_path / "out.parquet"

    # Two layers of random weights go further than what is asserted on CPUs that
    # multiply bfloat16 themselves.
    def checkpoint():
        return tiny_checkpoint(depth=1)

    rough = command(checkpoint, genome, variants, output, "--precision", "bf16")
    assert main(command(checkpoint, genome, variants, tmp_path / "e.parquet")) == 0
    assert main(rough) == 0
    notes = json.loads(pl.read_parquet_metadata(output)["crossdna"])
    assert notes["precision"] == "bf16"
    exact, found = (
        pl.read_parquet(path)["llr"].to_numpy()
        for path in (tmp_path / "e.parquet", output)
    )
    assert not np.array_equal(exact, found, equal_nan=True)
    np.testing.assert_allclose(exact, found, atol=0.05)
    # What one precision left unfinished, another does not finish.
    output.unlink()
    left_unfinished(rough)
    assert (tmp_path / "out.parquet.work").is_dir()
    capsys.readouterr()
    assert main(command(checkpoint, genome, variants, output)) != 0
    assert "precision" in capsys.readouterr().err


def test_killed_and_started_again(tiny_checkpoint, genome, variants, tmp_path):
    whole, broken = tmp_path / "whole.vcf.gz", tmp_path / "broken.vcf.gz"
    more = ("--chunk-size", 3, "--scores", "llr", "pll", "distance")
    assert main(command(tiny_checkpoint, genome, variants, whole, *more)) == 0
    words = command(tiny_checkpoint, genome, variants, broken, *more)
    process = subprocess.Popen([sys.executable, "-m", "crossdna", *words])
    work = tmp_path / "broken.vcf.gz.work"
    give_up = time.monotonic() + 240
    while len(list(work.glob("0*.npz"))) < 3 and time.monotonic() < give_up:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not broken.exists()
    kept = {path: path.stat().st_mtime_ns for path in work.glob("0*.npz")}
    assert 3 <= len(kept) < 12

    # Another setting does not get mixed in; the same ones go on where it ended.
    assert main([*words, "--strand", "+"]) == 2
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert main(words) == 0
    assert broken.read_bytes() == whole.read_bytes()
    assert broken.with_suffix(".gz.tbi").read_bytes() == (
        whole.with_suffix(".gz.tbi").read_bytes()
    )
    assert not work.exists()


def test_calibration_killed_and_started_again(
    tiny_checkpoint, genome, variants, tmp_path
):
    """The second stage of a run."""
    lines = variants.read_text().splitlines()
    variants.write_text("\n".join(lines[:13]) + "\n")
    whole, broken = tmp_path / "whole.vcf.gz", tmp_path / "broken.vcf.gz"
    more = ("--chunk-size", 40, "--scores", "llr", "--calibrate", 20)
    assert main(command(tiny_checkpoint, genome, variants, whole, *more)) == 0
    words = command(tiny_checkpoint, genome, variants, broken, *more)
    process = subprocess.Popen([sys.executable, "-m", "crossdna", *words])
    work = tmp_path / "broken.vcf.gz.work" / "calibration"
    give_up = time.monotonic() + 240
    while len(list(work.glob("0*.npz"))) < 2 and time.monotonic() < give_up:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(list(work.glob("0*.npz"))) >= 2
    assert not broken.exists()
    assert main(words) == 0
    assert broken.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_workers_give_the_same(tiny_checkpoint, genome, variants, tmp_path):
    one, two = tmp_path / "one.vcf.gz", tmp_path / "two.vcf.gz"
    more = ("--chunk-size", 10)
    assert main(command(tiny_checkpoint, genome, variants, one, *more)) == 0
    assert (
        main(command(tiny_checkpoint, genome, variants, two, *more, "--workers", 2))
        == 0
    )
    fields = ("XD_LLR", "XD_PLL", "XD_ENTROPY")
    with pysam.VariantFile(str(one)) as first, pysam.VariantFile(str(two)) as second:
        for a, b in zip(first, second, strict=True):
            for name in fields:
                left, right = (
                    [np.nan if v is None else v for v in r.info.get(name, ())]
                    for r in (a, b)
                )
                np.testing.assert_allclose(left, right, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("3\t5\t.\tA\tC", r"in.vcf:7: the genome has no contig '3'"),
        ("1\t2\t.\tN\tC", r"in.vcf:7: records are not sorted"),
        ("1\t2\t.\tN", r"in.vcf:7: 9 columns"),
        ("1\tx\t.\tN\tC", r"in.vcf:7: position 'x'"),
    ],
)
def test_bad_input(
    tiny_checkpoint, genome, variants, tmp_path, capsys, record, message
):
    lines = variants.read_text().splitlines()
    lines.insert(6, f"{record}\t.\t.\t.\tGT\t0")
    variants.write_text("\n".join(lines) + "\n")
    output = tmp_path / "out.vcf.gz"
    assert main(command(tiny_checkpoint, genome, variants, output)) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
    if "contig" in message:
        output, more = tmp_path / "out.tsv", ("--allow-missing-contigs",)
        assert main(command(tiny_checkpoint, genome, variants, output, *more)) == 0
        assert "missing_contig 1" in capsys.readouterr().out


def test_more_bad_input(tiny_checkpoint, genome, variants, tmp_path, capsys):
    def fails(variants=variants, output=tmp_path / "out.vcf.gz", more=()):
        assert main(command(tiny_checkpoint, genome, variants, output, *more)) == 2
        assert not output.exists()
        return capsys.readouterr().err

    assert "scores are written to" in fails(output=tmp_path / "out.txt")
    assert "does not exist" in fails(output=tmp_path / "no" / "out.tsv")
    assert "--prefix" in fails(more=("--prefix", "9X"))
    assert "needs a model for classification" in fails(more=("--scores", "head"))
    with pytest.raises(SystemExit, match="2"):
        fails(more=("--workers", "0"))
    assert "--workers: at least 1, not 0" in capsys.readouterr().err
    assert "add --calibrate" in fails(more=("--annotation", variants))
    kept = tmp_path / "mine" / "thesis.txt"
    kept.parent.mkdir()
    kept.write_text("years of work")
    assert "holds something else" in fails(more=("--work", kept.parent))
    assert kept.exists()
    assert "no such file" in fails(variants=tmp_path / "none.vcf")
    cut = tmp_path / "cut.vcf.gz"
    cut.write_bytes(gzip.compress(variants.read_bytes())[:-40])
    assert "truncated" in fails(variants=cut)
    empty = tmp_path / "empty.vcf"
    empty.write_text(HEADER)
    assert "no records" in fails(variants=empty)


def test_a_head_made_for_some_bases_gets_them_and_a_failed_run_blocks_nothing(
    tiny_checkpoint, genome, variants, tmp_path, capsys
):
    model = tiny_checkpoint(
        "CrossDNAForSequenceClassification", head_pooling="position", head_length=48
    )
    words = ["score", "--model", model, "--genome", genome, "--variants", variants]
    words = [*map(str, words), "--output", str(tmp_path / "out.tsv"), "--device", "cpu"]
    assert main([*words, "--window", "64"]) == 2
    assert "weights for 48" in capsys.readouterr().err
    assert (tmp_path / "out.tsv.work" / "run.json").exists()
    assert main(words) == 0
    notes = (tmp_path / "out.tsv").read_text().splitlines()[0]
    assert json.loads(notes.removeprefix("# crossdna score "))["window"] == "48"


def test_repeated_records_are_said_and_scored(
    tiny_checkpoint, genome, variants, tmp_path, capsys
):
    lines = variants.read_text().splitlines()[:7]
    variants.write_text("\n".join([*lines, lines[-1]]) + "\n")
    output = tmp_path / "out.tsv"
    words = command(tiny_checkpoint, genome, variants, output, "--scores", "llr")
    assert main(words) == 0
    assert "1 records repeat the one before" in capsys.readouterr().err
    rows = [line.split("\t") for line in output.read_text().splitlines()[2:]]
    same = [row[:5] + row[6:] for row in rows[-3:]]
    assert same == [row[:5] + row[6:] for row in rows[-6:-3]]
    assert [row[5] for row in rows[-6:]] == ["2"] * 3 + ["3"] * 3


def test_head(tiny_checkpoint, genome, variants, tmp_path):
    model = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=2)
    output = tmp_path / "out.vcf.gz"
    words = command(tiny_checkpoint, genome, variants, output, "--prefix", "MY_")
    words[words.index("--model") + 1] = str(model)
    assert main(words) == 0
    with pysam.VariantFile(str(output)) as file:
        record = next(iter(file))
        assert "MY_HEAD_LABEL_1" in record.info
        # The other class of two is its negative.
        assert "MY_HEAD_LABEL_0" not in file.header.info
        what = file.header.info["MY_HEAD_LABEL_1"].description
        assert "log-odds of LABEL_1 (natural logarithm of p / (1 - p))" in what


def test_a_table_does_not_take_the_place_of_its_variants(
    tiny_checkpoint, genome, letters, tmp_path, capsys
):
    table = tmp_path / "mine.tsv"
    content = f"chrom\tpos\tref\talt\tnote\nchr1\t11\t{letters[10]}\tACG\tx\n"
    table.write_text(content)
    assert main(command(tiny_checkpoint, genome, table, table)) == 2
    assert "choose another --output" in capsys.readouterr().err
    assert table.read_text() == content


def test_labels_of_a_head_have_columns_of_their_own(
    tiny_checkpoint, genome, variants, tmp_path
):
    labels = {"id2label": {0: "-", 1: "+", 2: "é", 3: "Up"}}
    model = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=4, **labels)
    output = tmp_path / "out.vcf.gz"
    words = command(tiny_checkpoint, genome, variants, output)
    words[words.index("--model") + 1] = str(model)
    assert main(words) == 0
    with pysam.VariantFile(str(output)) as file:
        heads = [name for name in file.header.info if name.startswith("XD_HEAD")]
        record = next(iter(file))
        values = [record.info[name] for name in heads]
    assert heads == ["XD_HEAD___0", "XD_HEAD___1", "XD_HEAD___2", "XD_HEAD_UP"]
    assert len(set(values)) == 4


def test_scored_again_nothing_of_before_is_left(
    tiny_checkpoint, genome, variants, tmp_path, capsys
):
    first, second = tmp_path / "first.vcf.gz", tmp_path / "second.vcf.gz"
    more = ("--scores", "llr", "entropy", "--calibrate", 20)
    assert main(command(tiny_checkpoint, genome, variants, first, *more)) == 0
    words = command(tiny_checkpoint, genome, first, second, "--scores", "llr")
    assert "are replaced" not in capsys.readouterr().err
    assert main(words) == 0
    said = capsys.readouterr().err
    assert "XD_LLR" in said
    assert "XD_ENTROPY" in said
    assert "are replaced; another --prefix keeps both" in said
    text = gzip.decompress(second.read_bytes()).decode()
    assert "XD_LLR" in text
    assert "XD_ENTROPY" not in text
    assert "XD_PERCENTILE" not in text


def test_open_references_are_no_sign_of_another_assembly(
    tiny_checkpoint, genome, tmp_path, capsys
):
    rows = "".join(f"1\t{p}\t.\tN\t<DEL>\t.\t.\t.\tGT\t0\n" for p in range(5, 99, 9))
    path = tmp_path / "sv.vcf"
    path.write_text(HEADER + rows)
    assert main(command(tiny_checkpoint, genome, path, tmp_path / "o.tsv")) == 0
    assert "REF differs" not in capsys.readouterr().err


def test_positions_off_the_contig_are_no_wrong_references(
    tiny_checkpoint, genome, letters, tmp_path, capsys
):
    end = len(letters)
    rows = [f"1\t{p}\t.\t{letters[p - 1]}\tN\t.\t.\t.\tGT\t0\n" for p in (5, 9)]
    rows += [f"1\t{end + p}\t.\tA\tC\t.\t.\t.\tGT\t0\n" for p in (1, 7)]
    path = tmp_path / "off.vcf"
    path.write_text(HEADER + "".join(rows))
    assert main(command(tiny_checkpoint, genome, path, tmp_path / "o.tsv")) == 0
    printed = capsys.readouterr()
    assert "REF differs" not in printed.err
    line = HEADER.count("\n") + 3
    assert f"off.vcf:{line}: 1: 2 records (this is the first) lie beyond" in printed.err
    assert "outside_contig 2" in printed.out
