"""Whole pretraining runs on a toy genome."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from crossdna.config import read_recipe, to_table, write_toml
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import CrossDNAForMaskedLM
from crossdna.training import pretrain as module
from crossdna.training.checkpoints import complete_checkpoints, partial_path
from crossdna.training.pretrain import pretrain
from crossdna.training.pretraining_recipe import PretrainRecipe
from crossdna.training.teacher import Teacher
from crossdna.training.trainer import NonFiniteLossError


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(one, other, tolerance=1e-6):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=tolerance, rtol=0)


def log_rows(folder, key="loss"):
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row[key] for row in rows if key in row}


@pytest.fixture
def no_side_effects():
    """Trainer seeds global generators; give them back as they were."""
    state = torch.random.get_rng_state()
    yield
    torch.random.set_rng_state(state)


pytestmark = pytest.mark.usefixtures("no_side_effects")


def test_a_run_leaves_a_model_that_loads_and_how_it_was_made(make_recipe, tmp_path):
    recipe = make_recipe()
    out = pretrain(recipe, tmp_path / "run")
    model = AutoModelForMaskedLM.from_pretrained(out)
    batch = AutoTokenizer.from_pretrained(out)(["ACGTN"], return_tensors="pt")
    assert model(**batch).logits.shape == (1, 5, 5)
    assert model.config.gate_frozen is False
    assert read_recipe(out / "recipe.toml", PretrainRecipe) == recipe
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["steps"] == facts["weights_of_step"] == 6
    assert len(facts["genomes"]["toy"]) == 32
    assert sorted(log_rows(out)) == [1, 2, 3, 4, 5, 6]
    assert sorted(log_rows(out, "eval_bits_per_base")) == [3, 6]
    assert {"config.json", "training_log.jsonl", "tensorboard"} <= {
        path.name for path in out.iterdir()
    }
    assert [p.name for p in complete_checkpoints(out / "checkpoints")] == [
        "checkpoint-4",
        "checkpoint-6",
    ]
    assert not [path for path in out.rglob(".*")]
    names = weights(out)
    assert not any("teacher" in name or "ema" in name for name in names)


def test_same_seed_same_weights_other_seed_others(make_recipe, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        pretrain(make_recipe(train={"steps": 2, "seed": seed}), tmp_path / name)
    assert_same_weights(tmp_path / "a", tmp_path / "b", tolerance=0)
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a", tmp_path / "c")


def test_learns_what_is_there(make_recipe, tmp_path):
    recipe = make_recipe(
        train={
            "steps": 60,
            "batch_size": 16,
            "lr": 1e-2,
            "evaluate_every": 30,
            "save_every": 30,
            "log_every": 5,
        },
        model={"dropout": 0.0},
    )
    out = pretrain(recipe, tmp_path / "run")
    bits = log_rows(out, "eval_bits_per_base")
    assert bits[60] < 1.6 < bits[30] + 0.6
    assert bits[60] < bits[30]


def test_gradient_accumulation_gives_the_same_weights(make_recipe, tmp_path):
    for name, micro in (("whole", 4), ("parts", 1)):
        recipe = make_recipe(
            model={"dropout": 0.0}, train={"micro_batch": micro, "steps": 4}
        )
        pretrain(recipe, tmp_path / name)
    for key in ("loss", "grad_norm", "loss_semantic", "eval_loss"):
        whole, parts = (log_rows(tmp_path / name, key) for name in ("whole", "parts"))
        assert whole == pytest.approx(parts, abs=1e-5)
    # Adam divides by the gradient's size: rounding shows where that is about zero.
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", tolerance=1e-4)


def test_best_weights_are_kept_on_request(make_recipe, tmp_path):
    # The rate grows to the end, by far too much: the last model is never the best.
    recipe = make_recipe(
        train={
            "keep": "best",
            "lr": 3.0,
            "warmup": 1.0,
            "min_lr_share": 1.0,
            "steps": 12,
            "evaluate_every": 1,
        }
    )
    out = pretrain(recipe, tmp_path / "run")
    losses = log_rows(out, "eval_loss")
    best = min(losses, key=losses.get)
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["weights_of_step"] == best < 12
    assert_same_weights(out, out / "checkpoints" / f"best-{best}", tolerance=0)


def test_without_a_terminal_each_logged_loss_is_a_line(
    make_recipe, tmp_path, capsys, monkeypatch
):
    # A tiny network may wait longer for its windows than it computes.
    monkeypatch.setattr("crossdna.training.progress.MUCH_WAITING", 2)
    pretrain(make_recipe(train={"log_every": 2}), tmp_path / "run")
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("step")]
    number = r"\d+\.\d{4}"
    assert [line.split(":")[0] for line in lines] == [
        f"step {step} of 6" for step in (2, 4, 6)
    ]
    assert re.fullmatch(rf"step 2 of 6: loss {number}, [\d,]+ bases/s", lines[0])
    assert ", held-out " in lines[1]


def test_a_slow_loader_is_told(make_recipe, tmp_path, capsys, monkeypatch):
    def slowly(batches, count):
        time.sleep(2.0)
        return islice(batches, count)

    monkeypatch.setattr("crossdna.training.trainer.islice", slowly)
    out = pretrain(make_recipe(train={"steps": 3, "log_every": 1}), tmp_path / "run")
    shares = log_rows(out, "data_wait")
    assert set(shares) == {1, 2, 3}
    assert all(0.1 < share <= 1 for share in shares.values())
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("step")]
    assert all("% of the time waiting for windows" in line for line in lines[1:])


def test_masked_objective_alone(make_recipe, tmp_path):
    recipe = make_recipe(
        objective={"type": "masked"}, train={"steps": 2, "precision": "bf16"}
    )
    out = pretrain(recipe, tmp_path / "run")
    assert set(log_rows(out, "loss_masked")) == {1, 2}
    assert not log_rows(out, "loss_gate")


def test_bf16_with_teachers_is_finite(make_recipe, tmp_path):
    recipe = make_recipe(train={"steps": 5, "precision": "bf16"})
    out = pretrain(recipe, tmp_path / "run")
    assert set(log_rows(out, "loss_gate")) == {1, 2, 3, 4, 5}
    assert all(value.dtype == torch.float32 for value in weights(out).values())


def command(table_path, output, *more):
    return [
        sys.executable,
        "-m",
        "crossdna",
        "pretrain",
        str(table_path),
        "--output",
        str(output),
        *more,
    ]


def run(words, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "0"}
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, **options
    )


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_is_uninterrupted(make_recipe, tmp_path):
    recipe = make_recipe(train={"steps": 24, "save_every": 3, "evaluate_every": 5})
    file = tmp_path / "recipe.toml"
    file.write_text(write_toml(to_table(recipe)))
    whole = pretrain(recipe, tmp_path / "whole")
    out = tmp_path / "killed"
    for at in (1, 12):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command(file, out, "--resume"),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for_checkpoint(out / "checkpoints", at, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "provenance.json").exists()
    done = run(command(file, out, "--resume"))
    assert done.returncode == 0, done.stderr
    assert_same_weights(whole, out)
    assert_same_weights(
        whole / "checkpoints" / "checkpoint-24", out / "checkpoints" / "checkpoint-24"
    )
    assert log_rows(out, "eval_loss") == pytest.approx(
        log_rows(whole, "eval_loss"), abs=1e-6
    )
    assert not list((out / "checkpoints").glob(".*"))


def _wait_for_checkpoint(folder, step, process):
    """Return at some moment after the checkpoint of `step` or a later one is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        if any(int(p.name.split("-")[1]) >= step for p in complete_checkpoints(folder)):
            return
        time.sleep(0.005)
    raise AssertionError(f"no checkpoint {step} in {folder}")


def test_half_written_checkpoint_is_passed_over(make_recipe, tmp_path):
    recipe = make_recipe()
    whole = pretrain(recipe, tmp_path / "whole")
    again = pretrain(recipe, tmp_path / "again")
    # What a kill during saving leaves: an older whole checkpoint, a partial newer one.
    newest = again / "checkpoints" / "checkpoint-6"
    newest.rename(partial_path(newest))
    (partial_path(newest) / "optimizer.pt").unlink()
    (again / "provenance.json").unlink()
    (again / "model.safetensors").unlink()
    pretrain(recipe, again, resume=True)
    assert_same_weights(whole, again)
    assert not partial_path(newest).exists()


def test_finished_run_is_left_alone(make_recipe, tmp_path):
    recipe = make_recipe(train={"steps": 2})
    out = pretrain(recipe, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    pretrain(recipe, out, resume=True)
    assert before == {
        path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")
    }


def test_full_directory_needs_resume(make_recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(CrossDNAError, match="not empty"):
        pretrain(make_recipe(), tmp_path / "run")
    with pytest.raises(CrossDNAError, match=r"no recipe\.toml"):
        pretrain(make_recipe(), tmp_path / "run", resume=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_resuming_with_another_recipe_is_refused_by_name(make_recipe, tmp_path):
    pretrain(make_recipe(train={"steps": 2}), tmp_path / "run")
    with pytest.raises(CrossDNAError, match=r"train\.lr = 0\.001, not 0\.5"):
        pretrain(make_recipe(train={"lr": 0.5}), tmp_path / "run", resume=True)
    pretrain(
        make_recipe(train={"lr": 0.001, "log_every": 7}), tmp_path / "run", resume=True
    )


def unfinished(folder, after):
    """Take away what a run did after one of its checkpoints."""
    (folder / "provenance.json").unlink()
    for path in complete_checkpoints(folder / "checkpoints"):
        if int(path.name.split("-")[1]) > after:
            shutil.rmtree(path)


@pytest.mark.parametrize("what", ["DNA", "train regions"])
def test_other_data_is_refused_on_resumption(make_recipe, toy_genome, tmp_path, what):
    held = tmp_path / "held.bed"
    held.write_text("two\t0\t200\tvalid\n")
    fasta = tmp_path / "own.fa"
    fasta.write_bytes(toy_genome.read_bytes())
    genome = {"toy": {"fasta": str(fasta), "heldout": str(held)}}
    recipe = make_recipe(genome=genome)
    out = pretrain(recipe, tmp_path / "run")
    unfinished(out, after=4)
    if what == "DNA":
        fasta.write_bytes(toy_genome.read_bytes().replace(b"A", b"C", 1))
    else:
        held.write_text("two\t0\t300\tvalid\n")
    with pytest.raises(CrossDNAError, match=f"genome.toy: its {what}"):
        pretrain(recipe, out, resume=True)


def test_a_resumed_run_saves_as_often_as_it_is_told_now(make_recipe, tmp_path):
    often = {"save_every": 1, "keep_checkpoints": 9}
    out = pretrain(make_recipe(), tmp_path / "run")
    unfinished(out, after=4)
    pretrain(make_recipe(train=often), out, resume=True)
    kept = [path.name for path in complete_checkpoints(out / "checkpoints")]
    assert kept == ["checkpoint-4", "checkpoint-5", "checkpoint-6"]


def test_a_resumed_run_needs_its_first_weights_no_more(make_recipe, tmp_path):
    first = pretrain(make_recipe(train={"steps": 2}), tmp_path / "first")
    recipe = make_recipe(train={"initial": str(first)})
    whole = pretrain(recipe, tmp_path / "whole")
    again = pretrain(recipe, tmp_path / "again")
    unfinished(again, after=4)
    shutil.rmtree(first)
    pretrain(recipe, again, resume=True)
    assert_same_weights(whole, again)


def test_teachers_go_where_the_model_goes(make_recipe, tmp_path, monkeypatch):
    """Copied before transformers moves the model, which a CPU does not show."""
    moved = []
    plain = Teacher.to
    monkeypatch.setattr(
        Teacher, "to", lambda self, device: moved.append(device) or plain(self, device)
    )
    pretrain(make_recipe(train={"steps": 1}), tmp_path / "run")
    assert moved == [torch.device("cpu")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_teachers_on_a_gpu(make_recipe, tmp_path):
    out = pretrain(make_recipe(train={"device": "cuda"}), tmp_path / "run")
    assert log_rows(out, "loss_semantic")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"genome": {"toy": {"fasta": "absent.fa"}}}, r"absent\.fa"),
        ({"windows": {"length": 100_000}}, "shorter windows"),
        ({"train": {"micro_batch": 3}}, "micro_batch 3 does not divide"),
        ({"train": {"device": "cuda"}}, "no CUDA device"),
    ],
)
def test_bad_input_is_found_before_anything_is_written(
    make_recipe, tmp_path, sections, message
):
    if "no CUDA" in message and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(CrossDNAError, match=message):
        pretrain(make_recipe(**sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_held_out_contig_suggests(make_recipe, toy_genome, tmp_path):
    genome = {"toy": {"fasta": str(toy_genome), "valid": ["chrone"]}}
    with pytest.raises(CrossDNAError, match="did you mean 'one'"):
        pretrain(make_recipe(genome=genome), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_loss_that_is_no_number_stops_with_step_loci_and_state(
    make_recipe, tmp_path, monkeypatch
):
    recipe = make_recipe()

    class Poisoned(CrossDNAForMaskedLM):
        calls = 0

        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            if self.training:
                self.calls += 1
                if self.calls == 3:
                    output.logits = output.logits * float("nan")
            return output

    monkeypatch.setattr(module, "new_language_model", Poisoned)
    with pytest.raises(NonFiniteLossError, match=r"step 2: the loss is nan.*toy one:"):
        pretrain(recipe, tmp_path / "run")
    place = tmp_path / "run" / "checkpoints" / "non-finite-2-process-0"
    report = json.loads((place / "metrics.json").read_text())
    assert report["step"] == 2
    assert report["samples"] == [8, 9, 10, 11]
    assert len(report["loci"]) == 4
    assert all(value.isfinite().all() for value in weights(place).values())
    assert (place / "optimizer.pt").is_file()


def test_a_run_ends_when_its_time_is_up(make_recipe, tmp_path):
    recipe = make_recipe(
        train={"steps": 1_000_000, "max_minutes": 0.02, "evaluate_every": 1_000_000}
    )
    out = pretrain(recipe, tmp_path / "run")
    facts = json.loads((out / "provenance.json").read_text())
    assert 1 <= facts["steps"] < 1000
    rates = log_rows(out, "learning_rate")
    assert rates[facts["steps"]] < 0.3 * recipe.train.lr
    assert list(log_rows(out, "eval_loss")) == [facts["steps"]]
    (clock,) = (
        json.loads((path / "clock.json").read_text())["seconds"]
        for path in complete_checkpoints(out / "checkpoints")[-1:]
    )
    assert clock >= 1.2


@pytest.mark.slow
def test_two_processes_learn_like_one(make_recipe, tmp_path):
    recipe = make_recipe(model={"dropout": 0.0}, train={"steps": 8})
    file = tmp_path / "recipe.toml"
    file.write_text(write_toml(to_table(recipe)))
    one = pretrain(recipe, tmp_path / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words = command(file, tmp_path / "two")[1:]
    done = run([*torchrun, "--nproc-per-node", "2", *words])
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "two" / "provenance.json").read_text())
    assert facts["processes"] == 2
    for key in ("loss", "loss_masked", "loss_semantic", "loss_gate", "eval_loss"):
        assert log_rows(tmp_path / "two", key) == pytest.approx(
            log_rows(one, key), abs=1e-3
        )
    assert_same_weights(one, tmp_path / "two", tolerance=1e-3)
    # The run goes on with another number of processes as if nothing had happened.
    for name in ("provenance.json", "model.safetensors"):
        (tmp_path / "two" / name).unlink()
    for path in complete_checkpoints(tmp_path / "two" / "checkpoints")[-1:]:
        path.rename(partial_path(path))
    pretrain(recipe, tmp_path / "two", resume=True)
    assert_same_weights(one, tmp_path / "two", tolerance=1e-3)


def test_settings_newer_than_a_run_do_not_stop_its_resumption(make_recipe, tmp_path):
    out = pretrain(make_recipe(train={"steps": 2}), tmp_path / "run")
    (out / "provenance.json").unlink()
    path = out / "recipe.toml"
    lines = path.read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith(("tf32", "compile"))]
    assert len(older) == len(lines) - 2
    path.write_text("".join(older))
    pretrain(make_recipe(train={"steps": 2}), out, resume=True)
    assert (out / "provenance.json").is_file()
