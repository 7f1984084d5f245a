import gzip
import hashlib
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossdna import alphabet
from crossdna.data import genome_cache
from crossdna.data.genome import Genome
from crossdna.errors import CrossDNAError


def cache_files(folder):
    return sorted(folder.glob("*"))


def test_contigs_in_file_order(make_genome):
    genome = make_genome(chr2="ACGTN", chr10="acg", chr1="T")
    assert list(genome.contigs.items()) == [("chr2", 5), ("chr10", 3), ("chr1", 1)]
    assert genome.total_bases == 9
    assert "3 contigs, 9 bases" in repr(genome)


def test_fetch_and_softmask(make_genome):
    genome = make_genome(a="ACGTN", b="acgTn")
    assert genome.fetch("b", 1, 5).tolist() == [1, 2, 3, 4]
    assert genome.fetch("b", 1, 5).dtype == np.uint8
    assert genome.fetch_softmask("b", 1, 5).tolist() == [True, True, False, True]
    assert genome.fetch("a", 2, 2).size == 0
    ids = genome.fetch("a", 0, 5)
    ids[:] = 0
    assert genome.fetch("a", 0, 5).tolist() == [0, 1, 2, 3, 4]


def test_fetch_padded_has_n_beyond_the_ends(make_genome):
    genome = make_genome(a="ACGT")
    cases = {(-2, 6): "NNACGTNN", (1, 3): "CG", (-5, -1): "NNNN", (9, 11): "NN"}
    for (start, end), letters in cases.items():
        assert alphabet.decode(genome.fetch_padded("a", start, end)) == letters


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (0, 5), (3, 2), (5, 6)])
def test_fetch_refuses_what_is_not_on_the_contig(make_genome, start, end):
    with pytest.raises(CrossDNAError, match="a has 4 bases"):
        make_genome(a="ACGT", b="ACGT").fetch("a", start, end)


def test_gather_refuses_what_is_not_on_the_contig(make_genome):
    genome = make_genome(a="ACGT", b="ACGT")
    for starts in ([0, 2], [-1]):
        with pytest.raises(CrossDNAError, match="a has 4 bases"):
            genome.gather("a", starts, 3)
    assert genome.gather("a", [], 3).ids.shape == (0, 3)


@settings(max_examples=30, deadline=None)
@given(
    contigs=st.lists(
        st.text("ACGTNacgtnRy", min_size=1, max_size=300), min_size=1, max_size=4
    ),
    width=st.integers(1, 90),
    packed=st.booleans(),
    data=st.data(),
)
def test_every_way_of_reading_gives_the_letters_of_the_file(
    contigs, width, packed, data
):
    lines = []
    for number, letters in enumerate(contigs):
        lines += [f">c{number} text"]
        lines += [letters[i : i + width] for i in range(0, len(letters), width)]
    content = "\n".join(lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.fa"
        path.write_bytes(gzip.compress(content) if packed else content)
        genome = Genome.open(path, Path(folder) / "cache")
        assert list(genome.contigs.values()) == [len(text) for text in contigs]
        number = data.draw(st.integers(0, len(contigs) - 1))
        letters, contig = contigs[number], f"c{number}"
        start = data.draw(st.integers(0, len(letters)))
        end = data.draw(st.integers(start, len(letters)))
        ids = alphabet.encode(letters[start:end])
        lower = [letter.islower() for letter in letters[start:end]]
        assert genome.fetch(contig, start, end).tolist() == ids.tolist()
        assert genome.fetch_softmask(contig, start, end).tolist() == lower
        assert genome.fetch_padded(contig, start, end).tolist() == ids.tolist()
        bases = genome.gather(contig, [start, 0], end - start)
        assert bases.ids[0].tolist() == ids.tolist()
        assert bases.softmask[0].tolist() == lower
        assert bases.ids[1].tolist() == alphabet.encode(letters[: end - start]).tolist()


def test_several_files_and_the_names_they_share(write, tmp_path):
    first, second = write("a.fa", ">a\nAC\n"), write("b.fa", ">b\nGT\n")
    genome = Genome.open([first, second], tmp_path / "cache")
    assert list(genome.contigs) == ["a", "b"]
    assert genome.fetch("b", 0, 2).tolist() == [2, 3]
    with pytest.raises(CrossDNAError, match=r"contig a is in both .*a\.fa and .*c\.fa"):
        Genome.open([first, write("c.fa", ">a\nTT\n")], tmp_path / "cache")
    with pytest.raises(CrossDNAError, match="contig a is there twice"):
        Genome.open(write("d.fa", ">a\nAC\n>a\nGT\n"), tmp_path / "cache")
    with pytest.raises(CrossDNAError, match="at least one"):
        Genome.open([], tmp_path / "cache")


def test_nothing_is_left_behind_by_a_file_that_is_refused(write, tmp_path):
    with pytest.raises(CrossDNAError, match="protein"):
        Genome.open(write("p.fa", ">p\nMKLV\n"), tmp_path / "cache")
    assert cache_files(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("asked", "suggested"),
    [("1", "chr1"), ("CHR1", "chr1"), ("MT", "chrM"), ("chr1_randm", "chr1_random")],
)
def test_unknown_contig_suggests_the_likely_one(make_genome, asked, suggested):
    genome = make_genome(chr1="A", chrM="A", chr1_random="A")
    with pytest.raises(CrossDNAError, match=f"did you mean '{suggested}'"):
        genome.resolve(asked)
    assert genome.resolve("chr1") == "chr1"


def test_unknown_contig_suggests_names_without_chr(make_genome):
    genome = make_genome(**{"1": "A", "2": "A", "MT": "A"})
    for asked, suggested in {"chr2": "2", "chrM": "MT"}.items():
        with pytest.raises(CrossDNAError, match=f"did you mean '{suggested}'"):
            genome.fetch(asked, 0, 1)
    with pytest.raises(CrossDNAError, match="it has 1, 2, MT"):
        genome.resolve("scaffold_900")


def test_cache_is_used_again_and_rebuilt_when_the_source_changes(write, tmp_path):
    path, cache = write("g.fa", ">a\nACGT\n"), tmp_path / "cache"
    first = Genome.open(path, cache)
    (file,) = cache_files(cache)
    made = file.stat()
    assert Genome.open(path, cache).fingerprint == first.fingerprint
    assert file.stat().st_ino == made.st_ino
    # Same size, same modification time, other bases: the ends of the file tell.
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text(">a\nACGA\n")
    os.utime(path, ns=times)
    second = Genome.open(path, cache)
    assert second.fetch("a", 0, 4).tolist() == [0, 1, 2, 0]
    assert second.fingerprint != first.fingerprint
    # The genome opened before keeps reading what it was opened with.
    assert first.fetch("a", 0, 4).tolist() == [0, 1, 2, 3]
    os.utime(path, ns=(0, 1))
    inode = file.stat().st_ino
    assert Genome.open(path, cache).fingerprint == second.fingerprint
    assert file.stat().st_ino != inode


def test_fingerprint_is_of_the_content(write, tmp_path):
    cache = tmp_path / "cache"
    text = ">a x\nACgt\n>b\nNN\n"
    plain = Genome.open(write("g.fa", text), cache).fingerprint
    packed = write("h.fa.gz", gzip.compress(b">a\nAC\ngt\n>b other\nNN"))
    assert Genome.open(packed, cache).fingerprint == plain
    for number, other in enumerate(("ACGT", "ACgtNN")):
        changed = text.replace("ACgt", other)
        path = write(f"o{number}.fa", changed)
        assert Genome.open(path, cache).fingerprint != plain


@pytest.mark.parametrize("keep", [0, 1, 40, 0.5, -1, -60])
def test_truncated_cache_is_rebuilt(make_genome, tmp_path, random_letters, keep):
    letters = random_letters(3000)
    make_genome(a=letters)
    (file,) = cache_files(tmp_path / "cache")
    content = file.read_bytes()
    keep = int(keep * len(content)) if isinstance(keep, float) else keep
    file.write_bytes(content[:keep])
    genome = make_genome(a=letters)
    assert genome.fetch("a", 0, 3000).tolist() == alphabet.encode(letters).tolist()


@pytest.mark.parametrize("at", [-1, -20, -50, -100])
def test_damaged_end_of_the_cache_is_rebuilt(make_genome, tmp_path, at):
    make_genome(a="ACGT" * 100)
    (file,) = cache_files(tmp_path / "cache")
    content = bytearray(file.read_bytes())
    content[at] ^= 0x55
    file.write_bytes(content)
    assert make_genome(a="ACGT" * 100).fetch("a", 0, 4).tolist() == [0, 1, 2, 3]


def test_damaged_bases_are_rebuilt_when_they_are_first_read(
    make_genome, tmp_path, random_letters
):
    letters = random_letters(2_500_000)
    ids = alphabet.encode(letters)
    make_genome(a=letters)
    (file,) = cache_files(tmp_path / "cache")
    content = bytearray(file.read_bytes())
    content[1_500_000] ^= 1
    for read in (
        lambda genome: genome.fetch("a", 1_499_990, 1_500_010),
        lambda genome: genome.gather("a", [1_499_990], 20).ids[0],
        lambda genome: genome.fetch("a", 0, 2_500_000)[1_499_990:1_500_010],
    ):
        file.write_bytes(content)
        genome = make_genome(a=letters)
        assert genome.fetch("a", 0, 10).tolist() == ids[:10].tolist()
        assert read(genome).tolist() == ids[1_499_990:1_500_010].tolist()
        assert file.read_bytes() != content
    genome = make_genome(a=letters)
    assert np.array_equal(genome.fetch("a", 0, len(ids)), ids)


def _open_and_fingerprint(arguments):
    return Genome.open(*arguments).fingerprint


def test_processes_may_build_at_once(write, tmp_path, random_letters):
    path, cache = write("g.fa", f">a\n{random_letters(400_000)}\n"), tmp_path / "cache"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_open_and_fingerprint, [(path, cache)] * 4, chunksize=1)
    assert set(found) == {Genome.open(path, cache).fingerprint}
    assert len(cache_files(cache)) == 1


def test_pickled_genome_reads_the_same_cache(make_genome):
    genome = make_genome(a="ACGTN" * 1000)
    text = pickle.dumps(genome)
    assert len(text) < 1000
    assert pickle.loads(text).fetch("a", 0, 5).tolist() == [0, 1, 2, 3, 4]


def test_default_cache_folder(write, tmp_path, monkeypatch):
    path = write("g.fa", ">a\nACGT\n")
    monkeypatch.setenv("CROSSDNA_CACHE", str(tmp_path / "chosen"))
    Genome.open(path)
    assert len(cache_files(tmp_path / "chosen")) == 1
    monkeypatch.delenv("CROSSDNA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Genome.open(path)
    assert len(cache_files(tmp_path / "home/.cache/crossdna")) == 1


def test_cache_folder_that_cannot_be_written(write, tmp_path):
    path, occupied = write("g.fa", ">a\nACGT\n"), write("file", "")
    with pytest.raises(CrossDNAError, match=r"cannot create the cache.*CROSSDNA_CACHE"):
        Genome.open(path, occupied / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_cache_folder(write, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o500)
    with pytest.raises(CrossDNAError, match=r"cannot write to .*CROSSDNA_CACHE"):
        Genome.open(write("g.fa", ">a\nACGT\n"), folder)


def test_full_disk_leaves_nothing(write, tmp_path):
    path, cache = write("g.fa", f">a\n{'ACGT' * 5000}\n"), tmp_path / "cache"
    # No disk to fill at hand: here the system lets no file grow beyond 8 kB.
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "from crossdna.data.genome import Genome; from crossdna.errors import *\n"
        f"try: Genome.open({str(path)!r}, {str(cache)!r})\n"
        "except CrossDNAError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cannot write ")
    assert "File too large" in done.stdout
    assert cache_files(cache) == []


def test_a_source_that_changes_while_it_is_read_is_refused(
    write, tmp_path, monkeypatch
):
    path = write("g.fa", ">a\nACGT\n")
    encode = genome_cache._encode

    def encode_and_touch(source, output):
        footer = encode(source, output)
        source.write_text(">a\nACGTACGT\n")
        return footer

    monkeypatch.setattr(genome_cache, "_encode", encode_and_touch)
    with pytest.raises(CrossDNAError, match="changed while it was read"):
        Genome.open(path, tmp_path / "cache")
    assert cache_files(tmp_path / "cache") == []


REAL = ("sacCer3", "ecoli_K12_MG1655", "hg38_chr2_1-2333275")


@pytest.mark.parametrize("name", REAL)
def test_real_genomes_read_as_htslib_reads_them(shared, tmp_path, rng, name):
    path = shared / f"data/genomes/{name}.fa.gz"
    genome = Genome.open(path, tmp_path / "cache")
    plain = tmp_path / "plain.fa"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    with pysam.FastaFile(str(plain)) as reader:
        assert genome.contigs == dict(
            zip(reader.references, reader.lengths, strict=True)
        )
        for contig, length in genome.contigs.items():
            for start in rng.integers(0, length - 5000, 5).tolist():
                text = reader.fetch(contig, start, start + 5000)
                ids = genome.fetch(contig, start, start + 5000)
                assert alphabet.decode(ids) == text.upper()
                lower = np.frombuffer(text.encode(), np.uint8) >= ord("a")
                softmask = genome.fetch_softmask(contig, start, start + 5000)
                assert np.array_equal(softmask, lower)


def test_shipped_files_are_those_that_their_readme_describes(yeast):
    text = (yeast / "README.md").read_text()
    sums = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", text, flags=re.MULTILINE))
    files = {file.name for file in yeast.iterdir()} - {"README.md"}
    assert set(sums.values()) == files
    for digest, name in sums.items():
        assert hashlib.sha256((yeast / name).read_bytes()).hexdigest() == digest


def test_counts_of_the_real_yeast_genome(yeast, tmp_path):
    genome = Genome.open(yeast / "sacCer3.fa.gz", tmp_path / "cache")
    assert len(genome.contigs) == 16
    counts, lower = np.zeros(5, int), 0
    for contig, length in genome.contigs.items():
        counts += np.bincount(genome.fetch(contig, 0, length), minlength=5)
        lower += int(genome.fetch_softmask(contig, 0, length).sum())
    assert counts.sum() == 12_071_326
    assert counts[4] == 0
    assert round(counts[[1, 2]].sum() / counts.sum(), 4) == 0.383
    assert round(lower / counts.sum(), 3) == 0.127
