"""embed through the command line: formats, layers, strands, bounded pieces."""

import shutil
from importlib.util import find_spec

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
import zarr
from tests.labelled_sets import rows_with_motif, write_csv

from crossdna import alphabet
from crossdna.analysis.embedding import embed
from crossdna.analysis.embedding.plot import project
from crossdna.analysis.inference import load_model
from crossdna.cli import main
from crossdna.data.labelled import Task
from crossdna.data.task_card import TaskCard
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAModel
from crossdna.models.fingerprint import fingerprint
from crossdna.tokenizers.nucleotide import CrossDNATokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint and a CSV of sequences with different lengths."""
    folder = tmp_path_factory.mktemp("embed")
    torch.manual_seed(0)
    config = CrossDNAConfig(
        d_model=16, depth=2, num_heads=2, head_dim=4, attention_heads=2,
        window_size=16, use_bridge=False,
    )  # fmt: skip
    CrossDNAModel(config).save_pretrained(folder / "model")
    CrossDNATokenizer().save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    rows = [
        (f"r{i}", letters[: 20 + i % 7], label)
        for i, (letters, label) in enumerate(rows_with_motif(rng, 30))
    ]
    write_csv(folder / "x.csv", ["key", "sequence", "label"], rows)
    return folder


def run(folder, output, *more, source="x.csv"):
    arguments = [
        "embed",
        folder / source,
        "--model",
        folder / "model",
        "--output",
        output,
    ]
    return main([*map(str, arguments), "--device", "cpu", *map(str, more)])


def expected(folder, **options):
    """Vectors of each sequence alone."""
    job = embed.EmbedJob(model=str(folder / "model"), **options)
    table = pl.read_csv(folder / "x.csv")
    model = CrossDNAModel.from_pretrained(folder / "model")
    return [
        embed.embed_sequences(model, [alphabet.encode(letters)], job)
        for letters in table["sequence"]
    ]


@pytest.mark.parametrize("suffix", ["parquet", "npz", "zarr"])
def test_formats_hold_the_same_vectors(folder, tmp_path, suffix):
    output = tmp_path / f"e.{suffix}"
    assert run(folder, output, "--chunk-size", 7, "--batch-bases", 60) == 0
    if suffix == "parquet":
        table = pl.read_parquet(output)
        assert table["key"].to_list() == [f"r{i}" for i in range(30)]
        found = np.array(table["embedding"].to_list())
    elif suffix == "npz":
        found = np.load(output)["embeddings"]
    else:
        group = zarr.open_group(output, mode="r")
        found, notes = group["embeddings"][:], dict(group.attrs)
        assert notes["strand_policy"] == "average"
    np.testing.assert_allclose(found, np.concatenate(expected(folder)), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_bfloat16_is_near_and_said(folder, tmp_path):
    for precision in ("float32", "bf16"):
        output = tmp_path / f"{precision}.npz"
        assert run(folder, output, "--precision", precision) == 0
        assert f"precision={precision}" in np.load(output)["metadata"]
    exact, rough = (
        np.load(tmp_path / f"{p}.npz")["embeddings"] for p in ("float32", "bf16")
    )
    assert not np.array_equal(exact, rough)
    assert np.linalg.norm(exact - rough) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_a_vector_per_base(folder, tmp_path, suffix):
    output = tmp_path / f"e.{suffix}"
    assert run(folder, output, "--per-base", "--chunk-size", 11, "--layer", 1) == 0
    parts = expected(folder, pool="none", layer=1)
    if suffix == "parquet":
        found = [
            np.array(row) for row in pl.read_parquet(output)["embedding"].to_list()
        ]
    else:
        arrays = np.load(output)
        found = np.split(arrays["embeddings"], arrays["offsets"][1:-1])
    assert len(found) == 30
    for own, alone in zip(found, parts, strict=True):
        np.testing.assert_allclose(own, alone, atol=1e-5)


def test_strands_are_averaged_unless_told_otherwise(folder):
    model = CrossDNAModel.from_pretrained(folder / "model")
    ids = alphabet.encode("ACGGTCATTTGACCAGTAGGTAC")
    both = [ids, alphabet.reverse_complement(ids)]
    job = embed.EmbedJob(model="")
    ahead, back = embed.embed_sequences(model, both, job)
    np.testing.assert_allclose(ahead, back, atol=1e-5)
    single = embed.EmbedJob(model="", strand="+")
    ahead, back = embed.embed_sequences(model, both, single)
    assert np.abs(ahead - back).max() > 1e-3


def test_picture_and_its_column(folder, tmp_path):
    picture = tmp_path / "e.png"
    output = tmp_path / "e.npz"
    assert run(folder, output, "--plot", picture, "--color", "label") == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run(folder, tmp_path / "f.npz", "--color", "colour") == 2
    assert not (tmp_path / "f.npz").exists()


@pytest.mark.parametrize(
    ("suffix", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")]
)
def test_pictures_are_what_their_names_say(folder, tmp_path, suffix, start):
    pictures = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for picture in pictures:
        assert run(folder, tmp_path / "e.npz", "--plot", picture) == 0
    first, second = (picture.read_bytes() for picture in pictures)
    assert first.startswith(start)
    assert first == second


def test_a_checkpoint_has_the_fingerprint_that_every_verb_gives_it(
    folder, tiny_checkpoint, tmp_path
):
    model = str(tiny_checkpoint())
    output = tmp_path / "e.parquet"
    words = ["embed", str(folder / "x.csv"), "--model", model, "--device", "cpu"]
    assert main([*words, "--output", str(output)]) == 0
    found = pq.read_schema(output).metadata[b"fingerprint"].decode()
    assert found == str(fingerprint(load_model(model), model))


@pytest.mark.parametrize(
    ("strands", "said"), [("both", "average"), ("forward", "forward")]
)
def test_strands_are_those_of_the_training(
    folder, tiny_checkpoint, tmp_path, strands, said
):
    path = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=2)
    shutil.copytree(path, tmp_path / "tuned")
    task = Task(kind="binary", columns=("label",), classes=("0", "1"))
    TaskCard(task=task, strands=strands, max_length=40).write(tmp_path / "tuned")
    output = tmp_path / "e.parquet"
    words = ["embed", folder / "x.csv", "--model", tmp_path / "tuned"]
    words = [*map(str, words), "--device", "cpu", "--output", str(output)]
    assert main(words) == 0
    assert pq.read_schema(output).metadata[b"strand_policy"].decode() == said
    assert main([*words, "--strand", "-"]) == 0
    assert pq.read_schema(output).metadata[b"strand_policy"].decode() == "reverse"
    assert main([*words, "--strand", "both"]) == (0 if strands == "both" else 2)


def test_projection_keeps_distances_of_a_plane(rng):
    plane = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 12))
    points, names = project(plane.astype(np.float32), "pca")
    before = np.linalg.norm(plane[:1] - plane, axis=1)
    after = np.linalg.norm(points[:1] - points, axis=1)
    np.testing.assert_allclose(before, after, rtol=1e-4)
    assert "component 1 (" in names[0]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn is not installed")
def test_umap_keeps_two_clouds_apart(rng):
    clouds = np.repeat([0.0, 8.0], 30)[:, None] + rng.normal(size=(60, 16))
    points, names = project(clouds.astype(np.float32), "umap")
    assert points.shape == (60, 2)
    assert names == ("UMAP 1", "UMAP 2")
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    nearest = (apart + np.diag(np.full(60, np.inf))).argmin(1)
    assert np.array_equal(nearest < 30, np.arange(60) < 30)
    few, _ = project(clouds[:4].astype(np.float32), "umap")
    assert np.isfinite(few).all()


def test_killed_run_goes_on(folder, tmp_path, monkeypatch):
    output = tmp_path / "e.npz"
    whole = embed.embed_sequences
    calls = []

    def killed(model, sequences, job):
        calls.append(len(sequences))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(model, sequences, job)

    monkeypatch.setattr(embed, "embed_sequences", killed)
    assert run(folder, output, "--chunk-size", 8) == 130
    assert not output.exists()
    assert run(folder, output, "--chunk-size", 8, "--layer", 0) == 2
    assert run(folder, output, "--chunk-size", 8) == 0
    # Each run embeds a single sequence first, to see whether it can.
    assert calls == [1, 8, 8, 8, 1, 1, 8, 6]
    found = np.load(output)["embeddings"]
    np.testing.assert_allclose(found, np.concatenate(expected(folder)), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("e.npz", ["--plot", "no/such/folder.png"], "no folder no/such"),
        ("e.npz", ["--plot", "picture.gif"], "pictures end in .png, .pdf, .svg"),
        ("e.npz", ["--color", "sequence"], "add --plot"),
        ("e.parquet", [], "clash.csv already has a column 'embedding'"),
    ],
)
def test_what_cannot_be_written_is_said_before_any_work(
    folder, tmp_path, monkeypatch, capsys, name, more, message
):
    rows = [("ACGTACGT", 1), ("ACGTTCGT", 2)]
    write_csv(folder / "clash.csv", ["sequence", "embedding"], rows)
    monkeypatch.setattr(embed, "embed_sequences", None)
    assert run(folder, tmp_path / name, *more, source="clash.csv") == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("e.txt", [], "embeddings are written as .parquet, .npz, .zarr"),
        ("no/e.npz", [], "no folder"),
        ("e.npz", ["--layer", "9"], "layer 9 does not exist"),
        ("e.npz", ["--sequence-column", "z"], "no column 'z'"),
    ],
)
def test_errors(folder, tmp_path, capsys, name, more, message):
    assert run(folder, tmp_path / name, *more) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("umap") is not None, reason="umap-learn is installed")
def test_a_missing_library_is_missed_before_any_work(folder, tmp_path, capsys):
    picture = ("--plot", tmp_path / "p.png", "--projection", "umap")
    assert run(folder, tmp_path / "e.npz", *picture) == 2
    assert "umap-learn" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_input_is_not_overwritten(folder, capsys):
    table = pl.read_csv(folder / "x.csv")
    table.write_parquet(folder / "same.parquet")
    before = (folder / "same.parquet").read_bytes()
    assert run(folder, folder / "same.parquet", source="same.parquet") == 2
    assert "choose another --output" in capsys.readouterr().err
    assert (folder / "same.parquet").read_bytes() == before
