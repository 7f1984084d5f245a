"""Noticing what is no number, and steps in which nothing waits for the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from crossdna.models.crossdna import CrossDNAForMaskedLM
from crossdna.training import pretrain as module
from crossdna.training.finite import FiniteWatch
from crossdna.training.pretrain import pretrain
from crossdna.training.trainer import NonFiniteLossError

WAITING = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::masked_select",
    "aten::unique_consecutive",
    "aten::_unique2",
    "aten::equal",
    "aten::is_nonzero",
}


class Waits(TorchDispatchMode):
    """Lists the operations for which the host must wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.active, self.operations, self.found = False, 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.active:
            self.operations += 1
            name = function.name().split(".")[0]
            indices = args[1] if name in ("aten::index", "aten::index_put_") else ()
            if name in WAITING or any(
                x is not None and x.dtype == torch.bool for x in indices
            ):
                self.found.append(name)
        return function(*args, **(kwargs or {}))


def test_the_detector_finds_what_waits():
    x = torch.arange(4.0)
    with Waits() as waits:
        waits.active = True
        float(x.sum())
        x[x > 1]
        bool((x > 1).any())
    scalar = "aten::_local_scalar_dense"
    assert waits.found == [scalar, "aten::index", scalar]


class Watched(TrainerCallback):
    """Turns the detector on for all of a run but its first and its last step."""

    def __init__(self, waits):
        self.waits = waits

    def on_step_end(self, args, state, control, **_):
        self.waits.active = state.global_step < state.max_steps - 1


@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [("float32", "adamw"), ("bf16", "adamw"), ("bf16", "muon")],
)
def test_no_step_waits_for_the_device(
    make_recipe, tmp_path, monkeypatch, precision, optimizer
):
    """Loading, loss with teachers, clipping, update, schedule, moving averages."""
    recipe = make_recipe(
        objective={"strand_kl_weight": 0.1, "decorrelation_weight": 0.1},
        train={
            "precision": precision,
            "optimizer": optimizer,
            "micro_batch": 2,
            "steps": 8,
            "log_every": 100,
            "evaluate_every": 100,
            "save_every": 100,
        },
    )
    waits = Waits()
    add = module._add_callbacks

    def add_all(trainer, *others):
        add(trainer, *others)
        trainer.add_callback(Watched(waits))

    monkeypatch.setattr(module, "_add_callbacks", add_all)
    with waits:
        pretrain(recipe, tmp_path / "run")
    assert waits.operations > 1000
    assert waits.found == []


def test_the_first_bad_value_is_kept():
    watch = FiniteWatch(("loss", "norm"), torch.device("cpu"))
    for step, (loss, norm) in enumerate([(1.0, 2.0), (3.0, float("inf"))]):
        watch.start_step(step, [torch.tensor([2 * step]), torch.tensor([2 * step + 1])])
        watch.note("loss", step, torch.tensor(loss))
        assert watch.spoiled() == 0
        watch.note("norm", step, torch.tensor(norm))
    assert watch.spoiled() == 1
    watch.start_step(2, [torch.tensor([4])])
    watch.note("loss", 2, torch.tensor(float("nan")))
    bad = watch.look()
    assert bad == ("norm", 1, float("inf"))
    assert watch.samples_of(bad.step) == [2, 3]


def test_a_look_at_good_values_forgets_their_samples():
    watch = FiniteWatch(("loss",), torch.device("cpu"))
    watch.start_step(0, [torch.tensor([0])])
    watch.note("loss", 0, torch.tensor(1.0))
    assert watch.look() is None
    with pytest.raises(KeyError):
        watch.samples_of(0)


def test_nothing_changes_between_a_bad_step_and_the_look_at_it(
    make_recipe, tmp_path, monkeypatch
):
    """Steps 0 to 2 count, step 3 is bad, 4 to 6 change nothing, and 7 would log."""

    class Poisoned(CrossDNAForMaskedLM):
        calls = 0

        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            if self.training:
                self.calls += 1
                if self.calls == 4:
                    output.logits = output.logits * float("nan")
            return output

    rare = {"log_every": 7, "evaluate_every": 99, "save_every": 99}
    train = rare | {"steps": 20, "lr": 1e-2, "warmup": 0.0, "min_lr_share": 1.0}
    with monkeypatch.context() as patch:
        patch.setattr(module, "new_language_model", Poisoned)
        with pytest.raises(NonFiniteLossError, match="step 3: the loss is nan"):
            pretrain(make_recipe(train=train), tmp_path / "bad")
    pretrain(make_recipe(train=train | {"steps": 3}), tmp_path / "good")
    place = tmp_path / "bad" / "checkpoints" / "non-finite-3-process-0"
    states = [torch.load(place / "optimizer.pt", weights_only=True)]
    checkpoint = tmp_path / "good" / "checkpoints" / "checkpoint-3"
    states.append(torch.load(checkpoint / "optimizer.pt", weights_only=True))
    for one, other in zip(*(state["state"].values() for state in states), strict=True):
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
