"""The pretrain verb: exit codes, messages and what is (not) written."""

import os
import subprocess
import sys

import pytest
import torch

from crossdna.cli import main

RECIPE = """
[model]
type = "crossdna"
d_model = 16
depth = 1
num_heads = 2
head_dim = 8
attention_heads = 2
window_size = 8
hidden_ratio = 1.0
block_size = 16

[genome.toy]
fasta = "{fasta}"
valid = ["chr2"]

[windows]
length = 32
valid_windows = 8

[train]
steps = 2
batch_size = 2
device = "cpu"
"""


@pytest.fixture(autouse=True)
def own_cache_and_generator(tmp_path, monkeypatch):
    """Leave the user's cache and torch's generator as they are."""
    monkeypatch.setitem(os.environ, "CROSSDNA_CACHE", str(tmp_path / "cache"))
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


@pytest.fixture
def recipe(tmp_path, rng):
    fasta = tmp_path / "toy.fa"
    contigs = {
        name: "".join(rng.choice(list("ACGT"), 400)) for name in ("chr1", "chr2")
    }
    fasta.write_text("".join(f">{name}\n{s}\n" for name, s in contigs.items()))
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(fasta=fasta))
    return path


def pretrain(recipe, out, *more):
    return main(["pretrain", str(recipe), "--output", str(out), *more])


def test_trains_quietly_and_resumes_a_finished_run(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    assert pretrain(recipe, out, "--set", "train.lr=3e-4") == 0
    assert "lr = 0.0003" in (out / "recipe.toml").read_text()
    assert (out / "model.safetensors").is_file()
    assert pretrain(recipe, out, "--set", "train.lr=3e-4", "--resume") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    first, again = captured.out.splitlines()
    assert first == again
    assert first.startswith(f"{out}: model of step 2, best held-out loss 1.")


def test_full_output_directory(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    assert pretrain(recipe, out) == 2
    assert (
        "is not empty; continue the run in it with --resume" in capsys.readouterr().err
    )
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stesp=3", "unknown key 'stesp'; did you mean 'steps'"),
        ("model.blocksize=3", "unknown key 'blocksize'; did you mean 'block_size'"),
        ("windows.length=-1", "length must be at least 1"),
        ("genome.toy.fasta=absent.fa", "absent.fa"),
        ("genome.toy.valid=['2']", "did you mean 'chr2'"),
        ("genome.toy.valid=['chr1', 'chr2']", "none is left to train"),
        ("train.batch_size=7.5", "batch_size: expected int, got 7.5"),
        ("train", "write section.key=value"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(
    recipe, tmp_path, capsys, override, message
):
    out = tmp_path / "out"
    assert pretrain(recipe, out, "--set", override) == 2
    error = capsys.readouterr().err
    assert error.startswith("crossdna pretrain: error: ")
    assert message in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no records"),
        (b">p\nMKVLEF\n", "toy.fa:2"),
        (b"\x1f\x8b\x08\x00", "toy.fa"),
    ],
)
def test_bad_fasta_exits_2_and_writes_nothing(
    recipe, tmp_path, capsys, content, message
):
    (tmp_path / "toy.fa").write_bytes(content)
    assert pretrain(recipe, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_missing_recipe(tmp_path, capsys):
    assert pretrain(tmp_path / "absent.toml", tmp_path / "out") == 2
    assert "no such recipe" in capsys.readouterr().err


def test_full_disk_exits_2_and_leaves_no_half_checkpoint(recipe, tmp_path):
    # Files beyond the limit fail as on a full disk: the recipe fits, weights do not.
    script = (
        "import resource, signal, sys\n"
        "from crossdna.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = tmp_path / "out"
    words = ["pretrain", str(recipe), "--output", str(out), "--set", "train.keep=last"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "crossdna pretrain: error: cannot write" in done.stderr
    assert not list(out.rglob("*.safetensors"))
    assert not (out / "provenance.json").exists()
