"""split and audit through the command line, files read back."""

import json

import polars as pl
import pytest

from crossdna.cli import main


@pytest.fixture
def csv(tmp_path, rng):
    lines = ["sequence,label,note"]
    lines += [
        f"{''.join(rng.choice(list('ACGT'), 60))},{i % 2},row {i}" for i in range(60)
    ]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["tsv", "csv", "parquet"])
def test_split_keeps_rows_and_columns(tmp_path, csv, suffix, capsys):
    output = tmp_path / f"out.{suffix}"
    assert main(["split", str(csv), "--output", str(output)]) == 0
    if suffix == "parquet":
        table = pl.read_parquet(output)
    else:
        table = pl.read_csv(output, separator="\t" if suffix == "tsv" else ",")
    assert table.columns == ["sequence", "label", "note", "split", "group"]
    assert table["note"].to_list() == [f"row {i}" for i in range(60)]
    assert sorted(table["split"].unique()) == ["test", "train", "valid"]
    assert "60 rows split by similarity" in capsys.readouterr().out


def test_split_file_is_understood_by_audit(tmp_path, csv, capsys):
    split, report = tmp_path / "s.tsv", tmp_path / "a.json"
    main(["split", str(csv), "--output", str(split)])
    assert (
        main(
            ["audit", "--train", str(split), "--label-column", "label",
             "--output", str(report)]
        )
        == 0
    )  # fmt: skip
    found = json.loads(report.read_text())
    assert found["split_by"] == "column"
    assert [part["rows"] for part in found["splits"]] == [48, 6, 6]
    assert all(pair["identical"] == 0 for pair in found["pairs"])
    assert "warning" not in capsys.readouterr().out


def test_split_file_needs_no_name_of_its_label(tmp_path, rng):
    lines = ["seq,strength"]
    lines += [f"{''.join(rng.choice(list('ACGT'), 60))},{i / 7}" for i in range(60)]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    split = tmp_path / "s.csv"
    assert main(["split", str(tmp_path / "x.csv"), "--output", str(split)]) == 0
    assert main(["audit", "--train", str(split)]) == 0


def test_audit_finds_the_known_leak(shared, capsys):
    """PROVENANCE.md: prom_core_tata shares 16 sequences between train and test."""
    folder = shared / "data/benchmarks/gue/prom/prom_core_tata"
    files = [str(folder / f"{name}.csv.gz") for name in ("train", "dev", "test")]
    assert (
        main(["audit", "--train", files[0], "--valid", files[1], "--test", files[2]])
        == 0
    )
    assert "16 of 613 test sequences are also in train" in capsys.readouterr().out


def test_audit_of_two_files_splits_nothing_off(tmp_path, csv, capsys):
    report = tmp_path / "a.json"
    words = ["audit", "--train", str(csv), "--test", str(csv), "--output", str(report)]
    assert main(words) == 0
    found = json.loads(report.read_text())
    assert found["split_by"] == "files"
    assert [(part["name"], part["rows"]) for part in found["splits"]] == [
        ("train", 60),
        ("test", 60),
    ]
    (pair,) = found["pairs"]
    assert pair["identical"] == 60
    assert "valid" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["split", "none.csv", "--output", "x.tsv"], "none.csv: no such file"),
        (["split", "x.csv", "--output", "x.doc"], "a table is written as"),
        (["split", "x.csv", "--output", "no/x.tsv"], "no folder no"),
        (["split", "x.csv", "--output", "y.tsv", "--by", "contig"], "no coordinates"),
        (
            ["split", "x.csv", "--output", "y.tsv", "--similarity", "2"],
            "between 0 and 1",
        ),
        (["audit", "--train", "x.csv", "--shares", "0", "1", "1"], "train not zero"),
        (["audit", "--train", "x.csv", "--label-column", "z"], "no column 'z'"),
        (["audit", "--train", "x.csv", "--output", "x.csv"], "x.csv is what is read"),
        (["split", "a=x.csv", "--output", "x.csv"], "x.csv is what is read"),
    ],
)
def test_errors_exit_with_2(tmp_path, csv, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = csv.read_bytes()
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert csv.read_bytes() == before
    assert not (tmp_path / "y.tsv").exists()
