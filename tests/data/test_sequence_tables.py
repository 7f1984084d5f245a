"""Tables of sequences: every kind of file, columns kept, errors with file and line."""

import csv
import gzip

import numpy as np
import polars as pl
import pytest

from crossdna import alphabet
from crossdna.data import labelled
from crossdna.data.genome import Genome
from crossdna.data.labelled_inputs import InputOptions, read_inputs
from crossdna.data.sequence_tables import read_sequences
from crossdna.data.table_files import write_table
from crossdna.errors import CrossDNAError

ROWS = [("ACGTACGTAC", "1"), ("GGGTTTAAAC", "0"), ("ttttnnnnac", "1")]


def write(path, text):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def letters(table):
    return [alphabet.decode(ids) for ids in table.ids]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.tsv", "x.txt"])
def test_delimited(tmp_path, name):
    mark = "," if ".csv" in name else "\t"
    text = "\n".join(mark.join(row) for row in [("note", "seq", "label")]) + "\n"
    text += "".join(mark.join((f"n{i}", *row)) + "\n" for i, row in enumerate(ROWS))
    table = read_sequences(write(tmp_path / name, text))
    assert letters(table) == [row[0].upper() for row in ROWS]
    assert table.columns.columns == ["note", "seq", "label"]
    assert table.columns["seq"].to_list() == [row[0] for row in ROWS]
    assert table.places[2] == f"{tmp_path / name}:4"


def test_quoted_fields_and_windows_line_ends(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfname,sequence\r\n"a, b",ACGTACGTAA\r\n')
    table = read_sequences(path)
    assert table.columns["name"].to_list() == ["a, b"]
    assert letters(table) == ["ACGTACGTAA"]


@pytest.mark.parametrize("mark", [";", "\t", ","])
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt"])
def test_fields_are_told_apart_by_what_the_first_line_has(tmp_path, name, mark):
    text = f"Sequence (5'->3'){mark}Bound?\nACGTACGTAA{mark}yes\n"
    table = read_sequences(write(tmp_path / name, text))
    assert table.columns.rows() == [("ACGTACGTAA", "yes")]


def test_the_promised_mark_is_preferred(tmp_path):
    text = "seq;uence,sequence\na;b,ACGTACGTAA\n"
    table = read_sequences(write(tmp_path / "x.csv", text))
    assert table.columns.columns == ["seq;uence", "sequence"]


def test_parquet_keeps_types(tmp_path):
    path = tmp_path / "x.parquet"
    pl.DataFrame({"sequence": ["ACGT", "CCGT"], "y": [0.5, 1.5]}).write_parquet(path)
    table = read_sequences(path)
    assert table.columns["y"].dtype == pl.Float64
    assert table.places[1] == f"{path}: row 2"


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["ACGTACGT", "CCCCCCCC"])])
def test_text_in_categories(tmp_path, kind):
    column = pl.Series(["CCCCCCCC", "ACGTACGT", "CCCCCCCC"]).cast(kind)
    for name in ("sequence", "by content"):
        pl.DataFrame({name: column}).write_parquet(tmp_path / "x.parquet")
        table = read_sequences(tmp_path / "x.parquet")
        assert letters(table) == column.to_list()


def test_sequences_longer_than_csv_takes_by_itself(tmp_path):
    text = f"sequence,label\n{'ACGT' * 40_000},1\n"
    before = csv.field_size_limit()
    assert read_sequences(write(tmp_path / "x.csv", text)).lengths.tolist() == [160_000]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("end", ["\n", "\n  \n\n", ",\n,\n", "\r\n"])
def test_empty_lines_at_the_end_are_no_rows(tmp_path, end):
    text = "sequence,label\nACGT,1\nCCCC,0\n"
    table = read_sequences(write(tmp_path / "x.csv", text + end))
    assert letters(table) == ["ACGT", "CCCC"]
    assert len(table.columns) == 2
    with pytest.raises(CrossDNAError, match=r"x\.csv:4: empty row"):
        read_sequences(write(tmp_path / "x.csv", text + end + "GGGG,1\n"))


def test_sequence_column_by_content(tmp_path):
    text = "a,b\nACGTACGTAA,1\nCCCCCCCCCCC,0\n"
    assert read_sequences(write(tmp_path / "x.csv", text)).sequence_column == "a"
    two = "a,b\nACGTACGTAA,ACGTACGTAA\n"
    path = write(tmp_path / "y.csv", two)
    with pytest.raises(CrossDNAError, match=r"several columns.*--sequence-column"):
        read_sequences(path)
    assert read_sequences(path, sequence_column="b").sequence_column == "b"


def test_fasta_labels_in_headers(tmp_path):
    text = ">a label=1\nACGT\nAC\n>b extra label=0\nGG\n>c|1\nTTT\n"
    table = read_inputs([write(tmp_path / "x.fa", text)], InputOptions())
    assert letters(table) == ["ACGTAC", "GG", "TTT"]
    assert table.columns["label"].to_list() == ["1", "0", "1"]
    path = write(tmp_path / "y.fa", ">a one two\nACGT\n")
    with pytest.raises(CrossDNAError, match=r"y\.fa:1: no label in the header"):
        read_inputs([path], InputOptions())


def test_a_name_ends_at_any_white_space(tmp_path):
    path = write(tmp_path / "x.fa", ">a\tone two\nACGT\n>b  three\nAC\n>c\nAC\n")
    table = read_sequences(path)
    assert table.columns["id"].to_list() == ["a", "b", "c"]
    assert table.columns["description"].to_list() == ["one two", "three", ""]


def test_one_fasta_per_class(tmp_path):
    first = write(tmp_path / "enhancer.fa", ">a\nACGT\n>b\nAAAA\n")
    second = write(tmp_path / "x.fa.gz", ">c\nCCCC\n")
    table = read_inputs([first, f"other={second}"], InputOptions())
    assert table.columns["class_of_file"].to_list() == ["enhancer", "enhancer", "other"]
    assert table.columns["id"].to_list() == ["a", "b", "c"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_tables_with_labels_are_parts_of_one(tmp_path, suffix):
    parts = []
    for number, (sequence, label) in enumerate(ROWS):
        part = pl.DataFrame({"sequence": [sequence], "label": [label]})
        parts.append(tmp_path / f"part{number}.{suffix}")
        write_table(part, parts[-1])
    table = read_inputs(parts, InputOptions())
    assert table.columns.rows() == ROWS
    assert table.places[2].startswith(f"{parts[2]}:")
    names = [f"c{number}={path}" for number, path in enumerate(parts)]
    classes = read_inputs(names, InputOptions())
    assert classes.columns["class_of_file"].to_list() == ["c0", "c1", "c2"]
    assert labelled.find_label_columns(classes) == ("class_of_file",)


def test_tables_of_sequences_alone_are_a_class_each(tmp_path):
    first = write(tmp_path / "yes.csv", "sequence,chrom\nACGT,1\n")
    second = write(tmp_path / "no.csv", "sequence,chrom\nCCCC,2\n")
    table = read_inputs([first, second], InputOptions())
    assert table.columns["class_of_file"].to_list() == ["yes", "no"]


def test_parquet_files_with_other_types_of_one_column(tmp_path):
    whole, broken, listed = (tmp_path / f"{name}.parquet" for name in "abc")
    for path, value in ((whole, 1), (broken, 1.5), (listed, [1])):
        pl.DataFrame({"sequence": ["ACGT"], "gc": [value]}).write_parquet(path)
    table = read_inputs([f"x={whole}", f"y={broken}"], InputOptions())
    assert table.columns["gc"].to_list() == [1.0, 1.5]
    with pytest.raises(CrossDNAError, match=r"a\.parquet.*one kind of values here"):
        read_inputs([f"x={whole}", f"y={listed}"], InputOptions())


def test_parts_with_different_columns(tmp_path):
    first = write(tmp_path / "a.csv", "sequence,label\nACGT,1\n")
    second = write(tmp_path / "b.csv", "sequence,y\nCCCC,2\n")
    with pytest.raises(CrossDNAError, match=r"b\.csv and .*a\.csv have different col"):
        read_inputs([first, second], InputOptions())


def test_names_that_are_places(tmp_path):
    path = write(tmp_path / "x.fa", ">chr1:10-20\nACGT\n>chr2_5_9\nACGT\n")
    regions = read_sequences(path).regions
    assert [(r.contig, r.start, r.end) for r in regions] == [
        ("chr1", 10, 20),
        ("chr2", 5, 9),
    ]
    other = write(tmp_path / "y.fa", ">seq_1_2\nACGT\n>seq_2_3\nACGT\n")
    assert read_sequences(other).regions is None


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (("chr1:10-14(-)", "chr1:20-24(+)"), [(10, 14, "-"), (20, 24, "+")]),
        (("chr1:11-14/rc", "chr1:21-24"), [(10, 14, "-"), (20, 24, "+")]),
        (("chr1:11-14:-", "chr1:1-4:*"), [(10, 14, "-"), (0, 4, "+")]),
        # One row that does not fit: nobody knows how the others count.
        (("chr1:11-14", "chr1:21-25"), [(11, 14, "+"), (21, 25, "+")]),
    ],
    ids=["bedtools", "samtools", "R", "unknown"],
)
def test_strand_and_first_base_of_names(tmp_path, names, places):
    text = "".join(f">{name}\nACGT\n" for name in names)
    regions = read_sequences(write(tmp_path / "x.fa", text)).regions
    assert [(r.start, r.end, r.strand) for r in regions] == places


def test_strand_column(tmp_path):
    text = "sequence,chrom,start,end,strand\nACGT,1,0,4,-1\nACGT,1,8,12,.\n"
    regions = read_sequences(write(tmp_path / "x.csv", text)).regions
    assert [(r.start, r.strand) for r in regions] == [(0, "-"), (8, "+")]
    text = "sequence,name,strand\nACGT,1:1-4,-\nACGT,1:9-12,+\n"
    regions = read_sequences(write(tmp_path / "x.csv", text)).regions
    assert [(r.start, r.strand) for r in regions] == [(0, "-"), (8, "+")]
    text = text.replace("+", "watson")
    with pytest.raises(CrossDNAError, match=r"x\.csv:3: 'watson' in column 'strand'"):
        read_sequences(write(tmp_path / "x.csv", text))
    # Without places the column is nobody's business.
    text = text.replace("name", "note")
    assert read_sequences(write(tmp_path / "y.csv", text)).regions is None


def test_a_column_of_places(tmp_path):
    text = "sequence,name\nACGT,chr1:10-14\nACGT,chr2_5_9\n"
    regions = read_sequences(write(tmp_path / "x.csv", text)).regions
    assert [(r.contig, r.start, r.end) for r in regions] == [
        ("chr1", 10, 14),
        ("chr2", 5, 9),
    ]
    text = "sequence,name\nACGT,chr1:10-14\nACGT,other\n"
    assert read_sequences(write(tmp_path / "y.csv", text)).regions is None


def test_bed_with_genome(tmp_path):
    fasta = write(tmp_path / "g.fa", ">c1\nAACCGGTTNA\n>c2\nTTTTTTTTTT\n")
    genome = Genome.open(fasta, cache=tmp_path)
    text = "# note\nc1\t0\t4\tup\t0\t+\nc1\t2\t6\tdown\t0\t-\nc2\t0\t3\tup\t7\t.\n"
    table = read_sequences(write(tmp_path / "r.bed", text), genome=genome)
    assert letters(table) == ["AACC", "CCGG", "TTT"]
    assert table.columns.columns == [
        "contig", "start", "end", "name", "score", "strand"
    ]  # fmt: skip
    assert table.columns["score"].to_list() == ["0", "0", "7"]
    beyond = write(tmp_path / "b.bed", "c1\t0\t4\nc1\t5\t11\n")
    with pytest.raises(CrossDNAError, match=r"b\.bed:2.*beyond the end of c1"):
        read_sequences(beyond, genome=genome)
    with pytest.raises(CrossDNAError, match="needs the genome"):
        read_sequences(beyond)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "sequence,label\nACGT,1\n\nACGT,0\n", r"x\.csv:3: empty row"),
        ("x.csv", "sequence,label\nACGT,1\n,\nACGT,0\n", r"x\.csv:3: empty row"),
        ("x.csv", "sequence,label\nACGT,1\n,0\n", r"x\.csv:3: empty sequence"),
        ("x.csv", "sequence,label\nACGT,1\nAC1T,0\n", r"x\.csv:3: character '1' at.*3"),
        ("x.csv", "sequence,label\nACGT,1,7\n", r"x\.csv:2: 3 fields.*names 2"),
        ("x.csv", "ACGTACGTACGT,1\nACGT,0\n", r"x\.csv:1: the first line holds a seq"),
        ("x.csv", "a,a\n1,2\n", r"x\.csv:1: two columns have the same name"),
        ("x.csv", "sequence,label\n", r"x\.csv: no rows"),
        ("x.csv", "", r"x\.csv: empty file"),
        ("x.csv", "number,label\n1,1\n", r"no column looks like the sequences"),
        ("x.fa", ">a\nACGT\n>b\n>c\nACGT\n", r"x\.fa:3: record b has no bases"),
        ("x.fa", "ACGT\n", r"x\.fa:1: not a FASTA file"),
        ("x.fa", ">a\nAC\nGEF\n", r"x\.fa:1: character 'E' at position 4"),
        ("x.doc", "?", r"cannot tell what this is"),
        ("x.parquet", "?", r"not a Parquet file"),
    ],
)
def test_bad_input(tmp_path, name, text, message):
    with pytest.raises(CrossDNAError, match=message):
        read_sequences(write(tmp_path / name, text))


def test_missing_file_and_column(tmp_path):
    with pytest.raises(CrossDNAError, match="no such file"):
        read_sequences(tmp_path / "none.csv")
    path = write(tmp_path / "x.csv", "sequence,label\nACGT,1\n")
    with pytest.raises(CrossDNAError, match="no column 'seq'; there are sequence, lab"):
        read_sequences(path, sequence_column="seq")


def test_take_keeps_rows_together(tmp_path):
    text = "sequence,k\n" + "".join(f"{'ACGT'[i] * 4},{i}\n" for i in range(4))
    table = read_sequences(write(tmp_path / "x.csv", text)).take(np.array([3, 1]))
    assert letters(table) == ["TTTT", "CCCC"]
    assert table.columns["k"].to_list() == ["3", "1"]
    assert [place.rpartition(":")[2] for place in table.places] == ["5", "3"]
