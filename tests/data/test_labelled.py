"""Tasks found from labels, labels as numbers, and what is refused."""

import numpy as np
import polars as pl
import pytest

from crossdna import alphabet
from crossdna.data import labelled
from crossdna.data.base_labels import Feature, add_base_labels, read_features
from crossdna.data.genome import Genome
from crossdna.data.labelled_inputs import InputOptions, read_sets
from crossdna.data.sequence_tables import read_sequences
from crossdna.errors import CrossDNAError


def table_of(tmp_path, columns, name="x.csv"):
    """A CSV with distinct sequences of 8 bases and these label columns."""
    names = list(columns)
    count = len(columns[names[0]])
    letters = [
        "".join("ACGT"[i >> shift & 3] for shift in range(0, 16, 2))
        for i in range(count)
    ]
    lines = [",".join(["sequence", *names])]
    lines += [
        ",".join([letters[i], *(str(columns[n][i]) for n in names)])
        for i in range(count)
    ]
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return read_sequences(path)


def detect(tmp_path, values, kind="auto", **more):
    table = table_of(tmp_path, {"label": values})
    return labelled.detect_task(table, ("label",), kind, **more)


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([0, 1, 1], "binary", ("0", "1")),
        (["True", "false", "TRUE"], "binary", ("false", "True")),
        (["pos", "neg"], "binary", ("neg", "pos")),
        (["none", "some"], "binary", ("none", "some")),
        ([0, 1, "0.0", "1.", "+1", "-0"], "binary", ("0", "1")),
        (["-1.0", 1, "2.0", 2], "multiclass", ("-1.0", "1", "2.0")),
        (["01", "1", "001", "1.0"], "multiclass", ("001", "01", "1")),
        (["True", "False", "unknown"], "multiclass", ("False", "True", "unknown")),
        (["00000011", "10100000"], "per-base", ("0", "1")),
        ([10, 9, 2], "multiclass", ("2", "9", "10")),
        (["a", "c", "b"], "multiclass", ("a", "b", "c")),
        ([0.5, 1.5, 2.25], "regression", ()),
        (list(range(30)), "regression", ()),
        (["EEEEIIII", "IIIIIIII", "....EEEE"], "per-base", ("E", "I")),
    ],
)
def test_kinds_are_found(tmp_path, values, kind, classes):
    task = detect(tmp_path, values)
    assert (task.kind, task.classes) == (kind, classes)


def test_several_columns(tmp_path):
    flags = table_of(tmp_path, {"a": [0, 1, 0], "b": [1, 1, 0]})
    task = labelled.detect_task(flags, ("a", "b"))
    assert (task.kind, task.outputs) == ("multilabel", 2)
    assert labelled.label(flags, task).labels.tolist() == [[0, 1], [1, 1], [0, 0]]
    flags = table_of(tmp_path, {"a": ["0.0", "1.0", 0], "b": ["True", "true", "False"]})
    task = labelled.detect_task(flags, ("a", "b"))
    assert task.kind == "multilabel"
    assert labelled.label(flags, task).labels.tolist() == [[0, 1], [1, 1], [0, 0]]
    numbers = table_of(tmp_path, {"a": [0, 2.5, 0], "b": [1, 1, 0]})
    task = labelled.detect_task(numbers, ("a", "b"))
    assert (task.kind, task.names) == ("regression", ("a", "b"))


def test_positive_class_can_be_named(tmp_path):
    assert detect(tmp_path, ["TATA", "other"]).classes == ("TATA", "other")
    task = detect(tmp_path, ["TATA", "other"], positive="TATA")
    assert task.classes == ("other", "TATA")
    flags = ["True", "False"]
    for name in ("False", "false", "0"):
        assert detect(tmp_path, flags, positive=name).classes == ("True", "False")
    assert detect(tmp_path, [0, 1], positive="FALSE").classes == ("1", "0")
    assert detect(tmp_path, [0, 1], positive="0.0").classes == ("1", "0")
    with pytest.raises(CrossDNAError, match="'no' is not one of two classes"):
        detect(tmp_path, ["TATA", "other"], positive="no")


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([1, "x", 3, 4], "auto", r"x\.csv:3: label 'x'.* is text, unlike"),
        (["x", "y", "z", 4], "auto", r"x\.csv:5: label '4'.* is a number, unlike"),
        ([1.5, "high", 2], "regression", r"x\.csv:3: label 'high'.*not a number"),
        ([1.5, "nan", 2], "regression", r"x\.csv:3: label 'nan'.*missing value"),
        ([1, 0, "NA"], "auto", r"x\.csv:4: label 'NA'.*missing value"),
        (["up", "N/A", "down"], "multiclass", r"x\.csv:3: label 'N/A'.*missing"),
        (["1.0", "NaN"], "auto", r"x\.csv:3: label 'NaN'.*missing value"),
        ([1, 1, 1], "auto", r"column 'label' holds one class only \(1\)"),
        ([0.5, 0.5], "regression", r"all 2 labels.*nothing to learn"),
        ([1, "", 0], "auto", r"x\.csv:3: no label in column 'label'"),
        ([0, 1, 2], "binary", r"holds 3 classes.*not the two"),
        ([0, 1, 2], "multilabel", r"x\.csv:4: label '2'.*not 0 or 1"),
        (['"1,5"', 2, 2.5], "auto", r"x\.csv:2: .*decimal comma\? Write 1\.5, or"),
        ([1, '"-,5"'], "regression", r"x\.csv:3: .*decimal comma\? Write -\.5"),
        ([f"s{i}" for i in range(30)], "auto", "30 different labels in 30 rows; are"),
        (["AAAAAAAA", "AAA"], "per-base", r"x\.csv:3: 3 labels for a sequence of 8"),
    ],
)
def test_bad_labels(tmp_path, values, kind, message):
    with pytest.raises(CrossDNAError, match=message):
        detect(tmp_path, values, kind)


def test_whole_numbers_are_the_same_classes_in_every_file(tmp_path):
    task = detect(tmp_path, ["0.0", "1.0"])
    assert task.classes == ("0.0", "1.0")
    data = labelled.label(table_of(tmp_path, {"label": [1, 0, "+1"]}), task)
    assert data.labels.tolist() == [1, 0, 1]


def test_true_and_false_in_every_file(tmp_path):
    def numbers(train, values):
        table = table_of(tmp_path, {"label": values})
        return labelled.label(table, detect(tmp_path, train)).labels.tolist()

    assert numbers(["True", "False"], [1, "0.0", "TRUE"]) == [1, 0, 1]
    assert numbers([0, 1], ["True", "false", 1]) == [1, 0, 1]
    # Beside a third class they are names, also where that one does not occur.
    assert numbers(["True", "False", "unknown"], ["True", "False"]) == [1, 0]
    with pytest.raises(CrossDNAError, match=r"class 'true' does not occur in the"):
        numbers(["a", "b"], ["true", "a"])


def test_lists_are_no_labels(tmp_path):
    path = tmp_path / "x.parquet"
    pl.DataFrame({"sequence": ["ACGT"], "label": [[0, 1, 1, 0]]}).write_parquet(path)
    with pytest.raises(CrossDNAError, match=r"column 'label' holds no numbers or text"):
        labelled.detect_task(read_sequences(path), ("label",))


def test_unknown_class_in_another_file(tmp_path):
    task = detect(tmp_path, ["a", "b"])
    with pytest.raises(CrossDNAError, match=r"t\.csv:3: class 'c' does not occur in"):
        labelled.label(table_of(tmp_path, {"label": ["a", "c"]}, "t.csv"), task)


def test_label_columns(tmp_path):
    table = table_of(tmp_path, {"id": [1, 2], "Label": [0, 1], "extra": [3, 4]})
    assert labelled.find_label_columns(table) == ("Label",)
    assert labelled.find_label_columns(table, ["extra"]) == ("extra",)
    with pytest.raises(CrossDNAError, match="no column 'lable'; there are"):
        labelled.find_label_columns(table, ["lable"])
    table = table_of(tmp_path, {"id": [1, 2], "chrom": [1, 1], "strength": [3, 4]})
    assert labelled.find_label_columns(table) == ("strength",)
    table = table_of(tmp_path, {"label": [0, 1], "file": ["plate1", "plate2"]})
    assert labelled.find_label_columns(table) == ("label",)
    table = table_of(tmp_path, {"group": [1, 2], "strength": [3, 4]})
    assert labelled.find_label_columns(table) == ("strength",)
    table = table_of(tmp_path, {"id": [1, 2], "group": ["case", "control"]})
    assert labelled.find_label_columns(table) == ("group",)
    table = table_of(tmp_path, {"this": [1, 2], "that": [3, 4]})
    with pytest.raises(CrossDNAError, match="which column holds the labels"):
        labelled.find_label_columns(table)


def test_base_labels_from_features(tmp_path):
    (tmp_path / "g.fa").write_text(">c1\n" + "ACGT" * 5 + "\n")
    genome = Genome.open(tmp_path / "g.fa", cache=tmp_path)
    (tmp_path / "r.bed").write_text("c1\t0\t10\tx\t0\t+\nc1\t5\t12\tx\t0\t-\n")
    gff = tmp_path / "a.gff"
    gff.write_text(
        "##gff-version 3\nc1\t.\texon\t3\t6\t.\t+\t.\t.\nc1\t.\tCDS\t5\t5\t.\t+\t.\t.\n"
    )
    features = read_features(gff)
    assert features == [Feature("c1", 2, 6, "exon"), Feature("c1", 4, 5, "CDS")]
    table = read_sequences(tmp_path / "r.bed", genome=genome)
    found = add_base_labels(table, features)
    assert found.names == {"-": "none", "A": "CDS", "B": "exon"}
    again = add_base_labels(table, features[::-1], found.names)
    assert again.table.columns["base_labels"].to_list()[1] == "------B"
    assert found.table.columns["base_labels"].to_list() == ["--BBAB----", "------B"]
    task = labelled.detect_task(found.table, ("base_labels",))
    labels = labelled.label(found.table, task).labels
    assert task.kind == "per-base"
    assert labels[1].tolist() == [0, 0, 0, 0, 0, 0, 2]
    (tmp_path / "bad.gff").write_text("c1\t.\texon\tx\t6\n")
    with pytest.raises(CrossDNAError, match=r"bad\.gff:1: 'x' and '6' must be whole"):
        read_features(tmp_path / "bad.gff")


def test_base_labels_are_the_same_whatever_says_the_place(tmp_path, rng):
    letters = "".join(rng.choice(list("ACGT"), 200))
    turned = alphabet.decode(alphabet.reverse_complement(alphabet.encode(letters)))
    one, other = turned[-50:-20], letters[100:140]
    files = {
        "r.bed": "c1\t20\t50\tx\t0\t-\nc1\t100\t140\ty\t0\t+\n",
        "bedtools.fa": f">c1:20-50(-)\n{one}\n>c1:100-140(+)\n{other}\n",
        "samtools.fa": f">c1:21-50/rc\n{one}\n>c1:101-140\n{other}\n",
        "r.csv": "sequence,chrom,start,end,strand\n"
        f"{one},c1,20,50,-\n{other},c1,100,140,+\n",
        "names.csv": f"sequence,id,strand\n{one},c1:20-50,-\n{other},c1:100-140,+\n",
    }
    (tmp_path / "g.fa").write_text(f">c1\n{letters}\n")
    genome = Genome.open(tmp_path / "g.fa", cache=tmp_path)
    features = [Feature("c1", 22, 25, "site"), Feature("c1", 110, 120, "site")]
    found = {}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        table = read_sequences(tmp_path / name, genome=genome)
        labels = add_base_labels(table, features).table.columns["base_labels"]
        found[name] = labels.to_list()
    expected = ["-" * 25 + "AAA" + "-" * 2, "-" * 10 + "A" * 10 + "-" * 20]
    assert found == dict.fromkeys(files, expected)


def test_base_labels_of_uncertain_places_are_refused(tmp_path):
    (tmp_path / "x.fa").write_text(">c1:20-24\nACGT\n>c1:30-35\nACGT\n")
    table = read_sequences(tmp_path / "x.fa")
    with pytest.raises(CrossDNAError, match=r"x\.fa:3: .*not as long.*give BED"):
        add_base_labels(table, [Feature("c1", 21, 22, "site")])


def test_kinds_of_base_labels_are_called_by_their_names(tmp_path):
    (tmp_path / "x.fa").write_text(">chr1:20-24\nACGT\n")
    (tmp_path / "t.fa").write_text(">chr1:40-44\nACGT\n")
    train, test = (read_sequences(tmp_path / name) for name in ("x.fa", "t.fa"))
    exon, cds = Feature("chr1", 21, 22, "exon"), Feature("chr1", 42, 43, "CDS")
    names = add_base_labels(train, [exon, cds]).names
    assert sorted(names.values()) == ["exon", "none"]
    with pytest.raises(CrossDNAError, match=r"t\.fa:1: bases of kind 'CDS' do not occ"):
        add_base_labels(test, [exon, cds], names)
    with pytest.raises(CrossDNAError, match=r"one kind \(none\); features must cover"):
        add_base_labels(train, [cds])
    with pytest.raises(CrossDNAError, match=r"regions lie on chr1, the features on 1:"):
        add_base_labels(train, [exon._replace(contig="1")])


def test_split_column_and_files(tmp_path):
    table_of(
        tmp_path,
        {
            "label": [0, 1, 0, 1, 0, 1],
            "split": ["train", "train", "dev", "dev", "test", "test"],
        },
    )
    sets = read_sets([tmp_path / "x.csv"], [], [], InputOptions())
    assert [len(part) for part in sets.named().values()] == [2, 2, 2]
    assert sets.how == "column"
    assert sets.test.labels.tolist() == [0, 1]
    table_of(tmp_path, {"label": [1, 0]}, "t.csv")
    files = read_sets([tmp_path / "x.csv"], [tmp_path / "t.csv"], [tmp_path / "t.csv"],
                      InputOptions(label_columns=("label",)))  # fmt: skip
    assert files.how == "files"
    assert [len(part) for part in files.named().values()] == [6, 2, 2]


def split_of(tmp_path, **columns):
    """Row numbers of each split, of a set whose rows differ in nothing else."""
    count = len(next(iter(columns.values())))
    columns = {"row": list(range(count)), **columns, "label": [0, 1] * (count // 2)}
    table_of(tmp_path, columns)
    options = InputOptions(similarity=1.0)
    sets = read_sets([tmp_path / "x.csv"], [], [], options)
    rows = {
        name: [int(row) for row in part.table.columns["row"]]
        for name, part in sets.named().items()
    }
    return sets.how, rows


@pytest.mark.parametrize(
    "words",
    [
        ("Train", "Val", "Test"),
        ("train ", " dev", "test"),
        ("training", "eval", "TEST"),
        ("train", "validation", "test"),
    ],
)
def test_spellings_of_splits(tmp_path, words):
    how, rows = split_of(tmp_path, split=[word for word in words for _ in range(2)])
    assert how == "column"
    assert rows == {"train": [0, 1], "valid": [2, 3], "test": [4, 5]}


def test_folds_do_not_hide_a_split(tmp_path):
    words = ["test", "test", "train", "train", "valid", "valid"]
    _, rows = split_of(tmp_path, fold=[0, 1, 2, 0, 1, 2], split=words)
    assert rows == {"train": [2, 3], "valid": [4, 5], "test": [0, 1]}
    # A column that does not fit is no matter where another one does.
    _, rows = split_of(tmp_path, set=["test", *"abcde"], split=words)
    assert rows["train"] == [2, 3]


@pytest.mark.parametrize(
    ("word", "message"),
    [("", "nothing in column 'split'"), ("hold-out", "'hold-out' in column 'split'")],
)
def test_a_split_column_with_other_words(tmp_path, word, message):
    words = ["train", "train", "valid", word, "test", "test"]
    with pytest.raises(CrossDNAError, match=rf"x\.csv:5: {message}, which says train"):
        split_of(tmp_path, split=words)


def test_what_a_split_column_lacks_is_split_off_train(tmp_path):
    for word, missing in (("test", "valid"), ("dev", "test")):
        words = ["train"] * 40 + [word] * 10
        how, rows = split_of(tmp_path, split=words)
        assert how == f"column ({missing}: similarity)"
        assert len(rows[missing]) > 0
        assert sorted(rows["train"] + rows[missing]) == list(range(40))
    with pytest.raises(CrossDNAError, match="column 'split' marks no row as train"):
        split_of(tmp_path, split=["dev", "test"])


def test_one_word_parts_nothing(tmp_path):
    how, rows = split_of(tmp_path, split=["train"] * 50)
    assert how == "similarity"
    assert sum(map(len, rows.values())) == 50


def test_class_strata_of_quantities(tmp_path):
    values = np.arange(100) / 7
    table = table_of(tmp_path, {"label": values.tolist()})
    data = labelled.label(table, labelled.detect_task(table, ("label",)))
    assert np.bincount(labelled.class_strata(data)).tolist() == [20] * 5
