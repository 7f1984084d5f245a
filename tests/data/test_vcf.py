"""Variant files: read with line numbers, written so that others read them."""

import gzip
import shutil
import subprocess

import pysam
import pytest

from crossdna.data.vcf import VariantFile, with_info, write_vcf
from crossdna.data.vcf_header import FieldLog, InfoField, extended_header
from crossdna.errors import CrossDNAError

HEADER = [
    "##fileformat=VCFv4.2",
    '##INFO=<ID=AF,Number=A,Type=Float,Description="x">',
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="g">',
    "##contig=<ID=1,length=1000>",
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ts1\ts 2",
]
RECORDS = [
    "1\t10\trs1\tA\tC,G\t3.10\tPASS\tAF=0.1,0.20\tGT\t0|1\t1|2",
    "1\t10\t.\tAT\tA\t.\t.\t.\tGT\t0/0\t./.",
    "1\t30\t.\tA\t<DEL>,*\t.\tq10;x\tEND=40;AF=.,.\tGT\t0/1\t0/2",
    "1\t50\t.\tG\t.\t.\t.\tDP=3\tGT\t0/0\t0/0",
]
FIELDS = [
    InfoField("XD_LLR", "A", "Float", 'log p(alt) - log p(ref), "masked"'),
    InfoField("XD_NO_ALT", "0", "Flag", "no alternate allele"),
]


def write(path, header=HEADER, records=RECORDS):
    text = "".join(f"{line}\n" for line in [*header, *records])
    path.write_text(text)
    return path


def test_records_as_in_the_file(tmp_path):
    file = VariantFile.open(write(tmp_path / "a.vcf"))
    records = list(file.records())
    assert file.samples == ["s1", "s 2"]
    assert [record.text for record in records] == RECORDS
    assert records[0][:6] == (6, "1", 9, "rs1", "A", ("C", "G"))
    assert records[3].alts == ()


def test_gzip_bgzf_and_windows_line_ends(tmp_path):
    text = "".join(f"{line}\r\n" for line in [*HEADER, *RECORDS]).encode()
    (tmp_path / "a.vcf.gz").write_bytes(gzip.compress(text))
    with pysam.BGZFile(str(tmp_path / "b.vcf.bgz"), "w", index=None) as output:
        output.write(text)
    for name in ("a.vcf.gz", "b.vcf.bgz"):
        file = VariantFile.open(tmp_path / name)
        assert [record.text for record in file.records()] == RECORDS


def test_bcf(tmp_path):
    header = [*HEADER[:-1], '##FILTER=<ID=q10,Description="q">']
    header += ['##FILTER=<ID=x,Description="q">']
    header += ['##INFO=<ID=END,Number=1,Type=Integer,Description="e">']
    header += ['##INFO=<ID=DP,Number=1,Type=Integer,Description="e">', HEADER[-1]]
    source = write(tmp_path / "a.vcf", header)
    with (
        pysam.VariantFile(str(source)) as given,
        pysam.VariantFile(str(tmp_path / "a.bcf"), "wb", header=given.header) as out,
    ):
        for record in given:
            out.write(record)
    file = VariantFile.open(tmp_path / "a.bcf")
    records = list(file.records())
    assert file.kind == "bcf"
    assert file.samples == ["s1", "s 2"]
    assert [r[1:6] for r in records] == [
        r[1:6] for r in VariantFile.open(source).records()
    ]
    assert records[2].line == 3
    (tmp_path / "cut.bcf").write_bytes((tmp_path / "a.bcf").read_bytes()[:-60])
    with pytest.raises(CrossDNAError, match=r"cut\.bcf.*truncated"):
        VariantFile.open(tmp_path / "cut.bcf")


@pytest.mark.parametrize(
    "text",
    [
        "1\t10\tA\tC\n1\t12\tg\tT,A\n",
        "# mine\n\nchr\tPOS\tref\talt\tnote\n1\t10\tA\tC\tx\n1\t12\tg\tT,A\ty\n",
        "note\talt\tpos\tref\tchrom\nx\tC\t10\tA\t1\n.\tT,A\t12\tg\t1\n",
    ],
)
def test_tables(tmp_path, text):
    path = tmp_path / "v.tsv"
    path.write_text(text)
    if text.startswith("note"):
        # Columns named in another order: found by name only when chrom comes first.
        path.write_text(
            "chrom\tnote\talt\tpos\tref\n1\tx\tC\t10\tA\n1\t.\tT,A\t12\tg\n"
        )
    records = list(VariantFile.open(path).records())
    assert [r[1:6] for r in records] == [
        ("1", 9, ".", "A", ("C",)),
        ("1", 11, ".", "G", ("T", "A")),
    ]
    assert records[0].text == "1\t10\t.\tA\tC\t.\t.\t."


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("1\t10\trs1\tA\tC", r"a\.vcf:7: 5 columns, but the header has 11"),
        ("1 10 rs1 A C", r"a\.vcf:7: 1 columns.*spaces"),
        ("1\t1e3\t.\tA\tC\t.\t.\t.\tGT\t0\t0", r"a\.vcf:7: position '1e3'"),
        ("1\t10\t.\tA?\tC\t.\t.\t.\tGT\t0\t0", r"a\.vcf:7: REF 'A\?'"),
        ("1\t10\t.\t\tC\t.\t.\t.\tGT\t0\t0", r"a\.vcf:7: REF ''"),
        ("1\t10\t.\tA\tC,\t.\t.\t.\tGT\t0\t0", r"a\.vcf:7: ALT 'C,'"),
        ("\t10\t.\tA\tC\t.\t.\t.\tGT\t0\t0", r"a\.vcf:7: no contig"),
        ("", r"a\.vcf:7: empty line"),
    ],
)
def test_malformed_lines(tmp_path, bad, message):
    path = write(tmp_path / "a.vcf", records=[RECORDS[0], bad, RECORDS[1]])
    with pytest.raises(CrossDNAError, match=message):
        list(VariantFile.open(path).records())


def test_malformed_files(tmp_path):
    with pytest.raises(CrossDNAError, match="no such file"):
        VariantFile.open(tmp_path / "none.vcf")
    path = write(tmp_path / "a.vcf", header=HEADER[:-1])
    with pytest.raises(CrossDNAError, match=r"a\.vcf:5: the header has no #CHROM"):
        VariantFile.open(path)
    path = write(tmp_path / "a.vcf", header=[*HEADER[:-1], "#CHROM\tPOS\tREF"])
    with pytest.raises(CrossDNAError, match=r"a\.vcf:5: the columns of a VCF"):
        VariantFile.open(path)
    whole = gzip.compress(write(tmp_path / "a.vcf").read_bytes() * 1, mtime=0)
    (tmp_path / "cut.vcf.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CrossDNAError, match="truncated"):
        list(VariantFile.open(tmp_path / "cut.vcf.gz").records())
    (tmp_path / "t.tsv").write_text("chrom\tpos\tref\n1\t2\tA\n")
    with pytest.raises(CrossDNAError, match=r"t\.tsv:1: no column 'alt'"):
        list(VariantFile.open(tmp_path / "t.tsv").records())
    path = write(tmp_path / "bare.vcf", header=[])
    with pytest.raises(CrossDNAError, match=r"bare\.vcf:1: 11 columns and no line"):
        list(VariantFile.open(path).records())
    (tmp_path / "t.tsv").write_text("1\t2\tA\n")
    with pytest.raises(CrossDNAError, match=r"t\.tsv:1: 3 columns"):
        list(VariantFile.open(tmp_path / "t.tsv").records())


def test_info_is_added_and_replaced():
    known = [field.key for field in FIELDS]
    once = with_info(RECORDS[0], {"XD_LLR": "-1,0.5", "XD_NO_ALT": None}, known)
    assert once == RECORDS[0].replace("0.20", "0.20;XD_LLR=-1,0.5")
    twice = with_info(once, {"XD_LLR": "2,.", "XD_NO_ALT": ""}, known)
    assert "AF=0.1,0.20;XD_LLR=2,.;XD_NO_ALT\t" in twice
    assert with_info(twice, {}, known) == RECORDS[0]
    assert with_info(RECORDS[1], {}, known) == RECORDS[1]


def test_header_is_kept_and_grows_once():
    contigs = {"1": 1000, "z": 77}
    once = extended_header(HEADER, FIELDS, contigs, "##crossdna_score=<a=1>")
    assert once[: len(HEADER) - 1] == HEADER[:-1]
    assert once[len(HEADER) - 1] == "##contig=<ID=z,length=77>"
    assert once[-1] == HEADER[-1]
    assert r"\"masked\"" in once[len(HEADER)]
    twice = extended_header(once, FIELDS, contigs, "##crossdna_score=<a=2>")
    assert sorted(twice) == sorted(line.replace("<a=1>", "<a=2>") for line in once)


def test_a_header_without_version_gets_one():
    header = extended_header(["##x=<ID=DB>", "#CHROM"], [], {}, "##a=1")
    assert header == ["##fileformat=VCFv4.2", "##x=<ID=DB>", "##a=1", "#CHROM"]


def test_empty_lines_behind_the_last_record(tmp_path):
    path = write(tmp_path / "a.vcf", records=[RECORDS[0], "", ""])
    assert [record.text for record in VariantFile.open(path).records()] == RECORDS[:1]


def test_others_read_what_is_written(tmp_path):
    header = extended_header(HEADER, FIELDS, {}, "##crossdna_score=<a=1>")
    header.insert(1, '##FILTER=<ID=q10,Description="q">')
    known = [field.key for field in FIELDS]
    values = [{"XD_LLR": "-1.5,0.25"}, {"XD_LLR": "3"}, {}, {"XD_NO_ALT": ""}]
    records = [
        with_info(text, value, known)
        for text, value in zip(RECORDS, values, strict=True)
    ]
    path = tmp_path / "out.vcf.gz"
    write_vcf(path, header, records, longest=1000)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out.vcf.gz",
        "out.vcf.gz.tbi",
    ]
    with pysam.VariantFile(str(path)) as file:
        found = list(file.fetch("1", 0, 20))
        assert [record.info["XD_LLR"] for record in found] == [(-1.5, 0.25), (3.0,)]
        assert found[0].samples["s 2"]["GT"] == (1, 2)
    with pysam.TabixFile(str(path)) as table:
        assert list(table.fetch("1", 9, 60)) == records
    if not shutil.which("bcftools"):
        pytest.skip("bcftools is not installed")
    shown = subprocess.run(
        ["bcftools", "view", "-H", path], capture_output=True, text=True, check=True
    )
    assert len(shown.stdout.splitlines()) == 4
    split = subprocess.run(
        ["bcftools", "norm", "-m-", "-t", "1:10", path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "XD_LLR=-1.5\t" in split.stdout
    assert "XD_LLR=0.25\t" in split.stdout


def test_unsorted_records_cannot_be_indexed_silently(tmp_path):
    path = tmp_path / "out.vcf.gz"
    with pytest.raises((CrossDNAError, OSError)):
        write_vcf(path, HEADER, [RECORDS[3], RECORDS[0]], longest=1000)
    assert list(tmp_path.iterdir()) == []


def test_fields_that_the_header_does_not_describe():
    header = ['##INFO=<ID=AF,Number=A,Type=Float,Description="x">', "#CHROM"]
    log = FieldLog(header)
    log.see("1\t5\t.\tA\tC\t.\tPASS\tAF=0.5;DB;X=1,2\tGT:DP:ZZ\t0/1:3:a")
    log.see("1\t6\t.\tA\tC\t.\tq10;.\t.")
    log.see("1\t7\t.\tA\tC,G\t.\t.\tAD=3,2,1;MQ=60.5\tGL:AD\t.:3,2,1")
    text = 'Description="Not described in the input">'
    assert list(log.lines.values()) == [
        f"##INFO=<ID=DB,Number=0,Type=Flag,{text}",
        f"##INFO=<ID=X,Number=.,Type=String,{text}",
        f"##FORMAT=<ID=GT,Number=1,Type=String,{text}",
        f"##FORMAT=<ID=DP,Number=1,Type=Integer,{text}",
        f"##FORMAT=<ID=ZZ,Number=.,Type=String,{text}",
        f"##FILTER=<ID=q10,{text}",
        f"##INFO=<ID=AD,Number=R,Type=Integer,{text}",
        f"##INFO=<ID=MQ,Number=1,Type=Float,{text}",
        f"##FORMAT=<ID=GL,Number=G,Type=Float,{text}",
        f"##FORMAT=<ID=AD,Number=R,Type=Integer,{text}",
    ]


def test_an_index_of_the_old_file_goes(tmp_path):
    path = tmp_path / "out.vcf.gz"
    write_vcf(path, HEADER, RECORDS[:1], longest=1000)
    pysam.tabix_index(str(path), preset="vcf", csi=True)
    assert (tmp_path / "out.vcf.gz.csi").exists()
    write_vcf(path, HEADER, RECORDS, longest=1000)
    with pysam.TabixFile(str(path)) as table:
        contigs = {record.split("\t")[0] for record in RECORDS}
        assert set(table.contigs) == contigs
    assert not (tmp_path / "out.vcf.gz.csi").exists()


def test_empty_parts_of_info_go():
    text = RECORDS[0].replace("AF=0.1,0.20", "AF=0.1,0.20;")
    assert text != RECORDS[0]
    assert with_info(text, {}, []) == RECORDS[0]


@pytest.mark.parametrize("name", ["a.vcf", "a.vcf.gz", "a.tsv"])
def test_a_mark_of_the_byte_order_is_no_text(tmp_path, name):
    lines = (
        [*HEADER, *RECORDS] if ".vcf" in name else ["chr\tpos\tref\talt", "1\t2\tA\tC"]
    )
    content = ("\ufeff" + "\n".join(lines) + "\n").encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    file = VariantFile.open(path)
    assert file.kind == ("vcf" if ".vcf" in name else "tsv")
    assert next(file.records()).contig == "1"


def test_a_damaged_first_block(tmp_path):
    path = tmp_path / "a.vcf.gz"
    content = bytearray(gzip.compress("\n".join([*HEADER, *RECORDS]).encode()))
    content[10:30] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(CrossDNAError, match=r"a\.vcf\.gz: "):
        VariantFile.open(path)
