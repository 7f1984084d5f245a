import gzip
import os

import numpy as np
import pysam
import pytest

from crossdna.data import fasta
from crossdna.errors import CrossDNAError


def records(path):
    """Names and codes of all records."""
    found = {}
    for record, contig, codes in fasta.read_pieces(path):
        name, before = found.get(record, (contig, b""))
        found[record] = name, before + codes
    return list(found.values())


def message(path):
    with pytest.raises(CrossDNAError) as caught:
        records(path)
    return str(caught.value).replace(str(path), "FILE")


def test_names_bases_and_case(write):
    path = write("a.fa", ">chr1 first one\nACGT\nacgtn\n\n>chr2\nNRYu")
    assert records(path) == [
        ("chr1", bytes([0, 1, 2, 3, 8, 9, 10, 11, 12])),
        ("chr2", bytes([4, 4, 4, 11])),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_line_ends(write, newline, end):
    path = write("a.fa", newline.join([">a x", "AC", "GT", ">b", "TT"]) + end)
    assert records(path) == [("a", bytes([0, 1, 2, 3])), ("b", bytes([3, 3]))]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 64])
def test_pieces_do_not_depend_on_the_chunk_size(write, monkeypatch, chunk):
    text = ">a long header\nACGTA\nCC\n>b\n>c\nTTT\n".replace(">b\n", ">b\nG\n")
    path = write("a.fa", text)
    whole = records(path)
    monkeypatch.setattr(fasta, "_CHUNK", chunk)
    assert records(path) == whole
    assert [name for name, _ in whole] == ["a", "b", "c"]


def test_gzip_bgzf_and_several_members_read_as_plain(write, tmp_path, random_letters):
    text = f">a\n{random_letters(200_000)}\n>b\n{random_letters(777)}\n"
    plain = write("a.fa", text)
    half = text.encode()[:100_001], text.encode()[100_001:]
    members = write("members.fa.gz", gzip.compress(half[0]) + gzip.compress(half[1]))
    packed = write("plain_name.fa", gzip.compress(text.encode()))
    bgzf = tmp_path / "a.fa.bgz"
    pysam.tabix_compress(str(plain), str(bgzf))
    for path in members, packed, bgzf:
        assert records(path) == records(plain)


def test_progress_ends_at_the_size_of_the_file(write, random_letters):
    path = write("a.fa.gz", gzip.compress(f">a\n{random_letters(9000)}\n".encode()))
    seen = []
    list(fasta.read_pieces(path, seen.append))
    assert seen[-1] == path.stat().st_size


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "FILE: no records"),
        ("\n\n", "FILE: no records"),
        ("ACGT\n", "FILE:1: not a FASTA file: expected a line that starts with >"),
        ("\n\n@read1\nACGT\n", "FILE:3: not a FASTA file"),
        (">a\nAC\n>b\n>c\nGT\n", "FILE:4: record b has no bases"),
        (">a\nAC\n>b\n", "FILE:4: record b has no bases"),
        (">a", "FILE:1: record a has no bases"),
        (">\nACGT\n", "FILE:1: record without a name after >"),
        ("> a\nACGT\n", "FILE:1: record without a name after >"),
        (
            ">a\nACGT\n>sp|P1\nACG\nACMKLV\n",
            "FILE:5: record sp|P1: 'L' at base 8 is not a DNA base; "
            "is this a protein file?",
        ),
        (">a\nAC-GT\n", "FILE:2: record a: '-' at base 3 is not a DNA base"),
        (">a\nAC GT\n", "FILE:2: record a: ' ' at base 3 is not a DNA base"),
        (b">a\nAC\xe9T\n", "FILE:2: record a: 'é' at base 3 is not a DNA base"),
    ],
)
def test_bad_content_says_where(write, content, expected):
    assert message(write("bad.fa", content)).startswith(expected)


def test_the_position_of_a_bad_letter_counts_over_chunks(write, monkeypatch):
    monkeypatch.setattr(fasta, "_CHUNK", 8)
    path = write("a.fa", ">a\r\n" + "ACGTA\r\n" * 10 + "ACG*\r\n")
    assert message(path).startswith("FILE:12: record a: '*' at base 54 ")


def test_truncated_and_damaged_gzip(write, tmp_path, random_letters):
    content = gzip.compress(f">a\n{random_letters(50_000)}\n".encode())
    assert "truncated gzip" in message(write("cut.fa.gz", content[:-500]))
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 0xFF
    assert "gzip" in message(write("damaged.fa.gz", bytes(damaged)))
    plain = write("a.fa", f">a\n{random_letters(200_000)}\n")
    bgzf = tmp_path / "a.fa.gz"
    pysam.tabix_compress(str(plain), str(bgzf))
    cut = write("cut_bgzf.fa.gz", bgzf.read_bytes()[:-28])
    assert "truncated" in message(cut)


def test_missing_file_and_folder(tmp_path):
    assert message(tmp_path / "none.fa") == "FILE: no such file"
    assert message(tmp_path) == "FILE is a folder; give the file itself"


def test_a_pipe_is_refused(tmp_path):
    """As the shell's <(command) gives one: files are read more than once."""
    pipe = tmp_path / "pipe.fa"
    os.mkfifo(pipe)
    # Both ends, so that opening does not wait for the other.
    end = os.open(pipe, os.O_RDWR)
    try:
        assert "is a pipe, which can be read only once" in message(pipe)
    finally:
        os.close(end)


def test_open_lines(write, tmp_path):
    path = write("a.txt.gz", gzip.compress("a\r\nü\n\nlast".encode()))
    assert list(fasta.open_lines(path)) == ["a\r", "ü", "", "last"]
    marked = write("m.txt", "\ufeffa\nb\n".encode())
    assert list(fasta.open_lines(marked)) == ["a", "b"]
    with pytest.raises(CrossDNAError, match="not a text file"):
        list(fasta.open_lines(write("b.txt", b"\xff\xfe\n")))


def test_real_genome_matches_htslib(shared, tmp_path):
    path = shared / "data/genomes/hg19_chr22_20000001-21000000.fa.gz"
    plain = tmp_path / "plain.fa"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    letters = np.frombuffer("".join("ACGTN....acgtn").encode(), np.uint8)
    with pysam.FastaFile(str(plain)) as reader:
        for name, codes in records(path):
            shown = np.frombuffer(codes, np.uint8)
            shown = np.where(shown >= 8, shown + 1, shown)
            assert letters[shown].tobytes().decode() == reader.fetch(name)
