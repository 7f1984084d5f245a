import gzip

import numpy as np
import pytest

from crossdna.data.annotation import (
    CDS,
    CLASSES,
    INTERGENIC,
    INTRON,
    OTHER_GENIC,
    REPEAT,
    UTR,
    Annotation,
    _Layer,
    repeat_track,
)
from crossdna.data.genome import Genome
from crossdna.errors import CrossDNAError

GFF = """\
##gff-version 3
chr1\tx\tregion\t1\t60\t.\t+\t.\tID=chr1
chr1\tx\tgene\t5\t40\t.\t+\t.\tID=g1
chr1\tx\tmRNA\t5\t40\t.\t+\t.\tID=t1;Parent=g1
chr1\tx\texon\t5\t15\t.\t+\t.\tID=e1;Parent=t1
chr1\tx\texon\t31\t40\t.\t+\t.\tID=e2;Parent=t1
chr1\tx\tCDS\t11\t15\t.\t+\t0\tID=c1;Parent=t1
chr1\tx\tCDS\t31\t34\t.\t+\t1\tID=c1;Parent=t1
chr1\tx\tgene\t46\t52\t.\t-\t.\tID=g2
chr1\tx\ttRNA\t46\t52\t.\t-\t.\tID=t2;Parent=g2
chr1\tx\texon\t48\t52\t.\t-\t.\tID=e3;Parent=t2
chrX\tx\tgene\t1\t9\t.\t-\t.\tID=g3
##FASTA
>chr1
ACGT
"""
GTF = """\
chr1\tx\tgene\t5\t40\t.\t+\t.\tgene_id "g1"; transcript_id "";
chr1\tx\ttranscript\t5\t40\t.\t+\t.\tgene_id "g1"; transcript_id "t1";
chr1\tx\texon\t5\t15\t.\t+\t.\tgene_id "g1"; transcript_id "t1"; exon_number "1";
chr1\tx\texon\t31\t40\t.\t+\t.\tgene_id "g1"; transcript_id "t1"; exon_number "2";
chr1\tx\tCDS\t11\t15\t.\t+\t0\tgene_id "g1"; transcript_id "t1";
chr1\tx\tCDS\t31\t31\t.\t+\t1\tgene_id "g1"; transcript_id "t1";
chr1\tx\tstop_codon\t32\t34\t.\t+\t1\tgene_id "g1"; transcript_id "t1";
chr1\tx\ttranscript\t46\t52\t.\t-\t.\tgene_id "g2"; transcript_id "t2";
chr1\tx\texon\t48\t52\t.\t-\t.\tgene_id "g2"; transcript_id "t2";
"""
# Bases 13-14 (CDS), 21-22 (intron), 42-43 (intergenic), 50 (tRNA exon) are lower case.
LOWER = (12, 14), (20, 22), (41, 43), (49, 50)


@pytest.fixture
def genome(make_genome):
    letters = list("ACGT" * 15)
    for start, end in LOWER:
        letters[start:end] = [letter.lower() for letter in letters[start:end]]
    return make_genome(chr1="".join(letters), chr2="acGT")


def expected():
    classes = np.full(60, INTERGENIC)
    classes[4:15] = UTR
    classes[10:15] = CDS
    classes[15:30] = INTRON
    classes[30:34] = CDS
    classes[34:40] = UTR
    classes[45:52] = OTHER_GENIC
    classes[20:22] = classes[41:43] = REPEAT
    return classes.tolist()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("text", [GFF, GTF], ids=["gff3", "gtf"])
def test_classes_by_priority(write, genome, text, packed):
    content = gzip.compress(text.encode()) if packed else text
    annotation = Annotation.read(write("genes", content), genome)
    track = annotation.class_track("chr1")
    assert track.names == CLASSES
    assert track.classes.dtype == np.uint8
    assert track.classes.tolist() == expected()
    assert annotation.foreign_contigs == (("chrX",) if text == GFF else ())
    assert annotation.class_track("chr2").classes.tolist() == [REPEAT] * 2 + [0, 0]


@pytest.mark.parametrize(("start", "end"), [(0, 60), (13, 33), (14, 14), (50, 60)])
def test_part_of_a_track_is_a_part_of_the_track(write, genome, start, end):
    annotation = Annotation.read(write("genes.gff", GFF), genome)
    part = annotation.class_track("chr1", start, end)
    assert part.classes.tolist() == expected()[start:end]


def test_single_places_of_nested_stretches(rng):
    starts = rng.integers(0, 900, 60)
    spans = [(int(s), int(s + rng.integers(1, 100))) for s in starts]
    layer = _Layer.of(CDS, [*spans, (0, 700)])
    for start in range(0, 1000, 7):
        for end in (start, start + 1, start + 50):
            found = {tuple(span) for span in layer.within(start, end).tolist()}
            expected = {s for s in [*spans, (0, 700)] if s[0] < end and s[1] > start}
            assert found == expected


def test_order_of_lines_does_not_matter(write, genome, rng):
    lines = GFF.split("##FASTA")[0].splitlines()[1:]
    for _ in range(5):
        rng.shuffle(lines)
        annotation = Annotation.read(write("genes.gff", "\n".join(lines)), genome)
        assert annotation.class_track("chr1").classes.tolist() == expected()


def test_coding_sequence_without_exons_has_introns(write, genome):
    rows = "chr1\tx\tCDS\t{}\t{}\t.\t+\t0\tParent=g"
    text = "\n".join(rows.format(*span) for span in [(1, 5), (9, 10)])
    classes = Annotation.read(write("a.gff", text), genome).class_track("chr1").classes
    assert classes[:11].tolist() == [CDS] * 5 + [INTRON] * 3 + [CDS] * 2 + [INTERGENIC]


def test_gene_across_the_origin_of_a_circular_contig(write, genome):
    text = (
        "chr1\tx\tregion\t1\t60\t.\t+\t.\tID=r;Is_circular=true\n"
        "chr1\tx\tCDS\t58\t63\t.\t+\t0\tID=c;Parent=g\n"
    )
    classes = Annotation.read(write("a.gff", text), genome).class_track("chr1").classes
    assert np.flatnonzero(classes == CDS).tolist() == [0, 1, 2, 57, 58, 59]
    assert INTRON not in classes
    with pytest.raises(CrossDNAError, match="beyond the end"):
        Annotation.read(write("b.gff", text.replace(";Is_circular=true", "")), genome)


def test_repeat_track_needs_no_annotation(genome):
    track = repeat_track(genome, "chr1", 10, 60)
    assert track.names == ("unique", "repeat")
    lower = [at - 10 for start, end in LOWER for at in range(start, end)]
    assert np.flatnonzero(track.classes).tolist() == lower
    assert repeat_track(genome, "chr2").classes.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("chr1\tx\tgene\t1\t61\t.\t+\t.\tID=g", "beyond the end of chr1 .60 bases"),
        ("chr1\tx\tgene\t0\t9\t.\t+\t.\tID=g", "no 1-based range"),
        ("chr1\tx\tgene\t9\t8\t.\t+\t.\tID=g", "no 1-based range"),
        ("chr1\tx\tgene\ta\t8\t.\t+\t.\tID=g", "must be whole numbers"),
        ("chr1 x gene 1 8", "nine tab-separated columns of GFF3 or GTF, got 1"),
    ],
)
def test_bad_annotation_says_file_and_line(write, genome, line, said):
    path = write("bad.gff", f"##gff-version 3\n{line}\n")
    with pytest.raises(CrossDNAError, match=rf"bad\.gff:2: .*{said}"):
        Annotation.read(path, genome)


def test_annotation_of_another_genome(write, genome):
    with pytest.raises(CrossDNAError, match="did you mean 'chr1'"):
        Annotation.read(write("a.gff", "1\tx\tgene\t1\t8\t.\t+\t.\tID=g\n"), genome)
    geneless = write("b.gff", "chr1\tx\tregion\t1\t8\t.\t+\t.\tID=g\n")
    with pytest.raises(CrossDNAError, match="no genes, exons or CDS"):
        Annotation.read(geneless, genome)


def test_real_yeast_classes(yeast, tmp_path):
    genome = Genome.open(yeast / "sacCer3.fa.gz", tmp_path / "cache")
    annotation = Annotation.read(yeast / "sacCer3.gff.gz", genome)
    counts = np.zeros(len(CLASSES), int)
    coding = {contig: np.zeros(size, bool) for contig, size in genome.contigs.items()}
    with gzip.open(yeast / "sacCer3.gff.gz", "rt") as lines:
        for line in lines:
            fields = line.split("\t")
            if len(fields) == 9 and fields[2] == "CDS":
                coding[fields[0]][int(fields[3]) - 1 : int(fields[4])] = True
    for contig, bases in coding.items():
        classes = annotation.class_track(contig).classes
        assert np.array_equal(classes == CDS, bases)
        counts += np.bincount(classes, minlength=len(CLASSES))
    # Most of the yeast genome codes, and few of its genes have introns.
    assert 0.70 < counts[CDS] / counts.sum() < 0.75
    assert 0 < counts[INTRON] / counts.sum() < 0.01
    # ACT1 has the textbook intron of yeast; a part of it is lower case.
    act1 = annotation.class_track("chrVI", 53259, 54696).classes
    assert np.isin(act1, [INTRON, REPEAT]).sum() == 309
    assert (act1 == CDS).sum() == 1128
