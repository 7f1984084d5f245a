"""The doctor passes sound models and finds every planted fault."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.family_checkpoints import save

from crossdna import CrossDNAConfig, CrossDNAForMaskedLM, alphabet
from crossdna.analysis.doctor.behaviour import check_record
from crossdna.analysis.doctor.examine import examine, load_for_examination
from crossdna.analysis.doctor.loss import real_sequences
from crossdna.cli import main
from crossdna.models.fingerprint import fingerprint
from crossdna.models.opening import Opened
from crossdna.models.record import RECORD_NAME, read_record, write_record
from crossdna.zoo.shipped import shipped


def train(folder, steps=30):
    """A few steps on real DNA, so that weights are not as they were drawn."""
    opened = Opened(folder)
    model = opened.model(opened.task).train()
    rows = [alphabet.encode(text) for text in real_sequences().values()]
    rows = np.concatenate(rows).astype(np.int64)
    rows = torch.from_numpy(rows[: len(rows) // 64 * 64]).view(-1, 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-2)
    draw = torch.Generator().manual_seed(0)
    causal = opened.task == "causal-lm"
    for _ in range(steps):
        ids = rows[torch.randint(len(rows), (8,), generator=draw)]
        hidden = torch.rand(ids.shape, generator=draw) < 0.3
        asked = ids.masked_fill(hidden, alphabet.MASK)
        if causal:
            loss = -model.log_likelihoods(ids).mean() / 63
        else:
            logs = model(input_ids=asked).logits[..., :4].log_softmax(-1)
            loss = -logs.gather(2, ids[..., None])[..., 0][hidden].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    getattr(getattr(model, "network", None), "net", model).save_pretrained(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trained checkpoints with records; name to directory."""
    folder = tmp_path_factory.mktemp("trained")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    made = {}

    def get(name):
        if name in made:
            return made[name]
        if name == "crossdna":
            path = folder / name
            torch.manual_seed(0)
            config = CrossDNAConfig(
                d_model=32, depth=1, num_heads=2, head_dim=16, attention_heads=4,
                window_size=8, block_size=64, strand_alignment="locus",
            )  # fmt: skip
            CrossDNAForMaskedLM(config).save_pretrained(path)
        else:
            path = save(name, folder, **sizes)
        train(path)
        write_record(path)
        made[name] = path
        return path

    return get


@pytest.fixture
def copied(trained, tmp_path):
    """A copy that may be damaged, with or without its record."""

    def get(name, *, record=True):
        path = tmp_path / name
        shutil.copytree(trained(name), path)
        if not record:
            (path / RECORD_NAME).unlink()
        return path

    return get


def failures(path, spoil=lambda model: None):
    """Names of the checks that fail, once the loaded model has been spoilt."""
    model, opened = load_for_examination(path, "cpu")
    spoil(model)
    found = examine(model, opened, lengths=(64,))
    assert found.passed == all(check.status != "fail" for check in found.checks)
    return {
        check.name: check.detail for check in found.checks if check.status == "fail"
    }


@pytest.mark.parametrize("name", ["crossdna", "modernbert", "mistral"])
@pytest.mark.parametrize("record", [True, False])
def test_sound_models_pass(copied, name, record):
    assert failures(copied(name, record=record)) == {}


LAYERS = {
    "crossdna": "model.branch_a.layers.0",
    "modernbert": "model.layers.1",
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_left_random_by_the_loader(copied, name):
    def spoil(model):
        net = getattr(getattr(model, "network", None), "net", model)
        layer = net.get_submodule(LAYERS[name])
        for module in layer.modules():
            if hasattr(module, "weight") and module.weight.ndim == 2:
                torch.nn.init.normal_(module.weight, std=0.02)

    found = failures(copied(name, record=False), spoil)
    assert LAYERS[name] in found["weights read"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("record", [True, False])
def test_a_layer_random_in_the_file(copied, name, record):
    """Saved so: the file is whole and read, and yet the layer was never trained."""
    path = copied(name, record=record)
    opened = Opened(path)
    torch.manual_seed(7)
    fresh = opened.model(opened.task, random=True).state_dict()
    weights = load_file(path / "model.safetensors")
    again = [key for key in weights if key.startswith(LAYERS[name])]
    prefix = "network.net." if opened.wrapped else ""
    for key in again:
        weights[key] = fresh[prefix + key].clone()
    assert again
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    found = failures(path)
    assert "weights read" not in found
    if record:
        assert "weights changed" in found["fingerprint"]
        assert "answers as recorded" in found
    else:
        assert LAYERS[name] in found["weights trained"]


def test_a_wrong_rotary_base_in_the_configuration(copied):
    path = copied("mistral")
    file = path / "config.json"
    config = json.loads(file.read_text())
    config["rope_parameters"]["rope_theta"] = 500.0
    file.write_text(json.dumps(config))
    found = failures(path)
    assert "config changed" in found["fingerprint"]
    assert "answers as recorded" in found


@pytest.mark.parametrize("record", [True, False])
def test_a_wrong_rotary_base_in_the_network(copied, record):
    def spoil(model):
        rotary = model.network.net.get_submodule("model.rotary_emb")
        places = torch.arange(0, 8, 2, dtype=torch.float32) / 8
        rotary.inv_freq.copy_(1 / 500.0**places)

    found = failures(copied("mistral", record=record), spoil)
    assert "rotary_emb.inv_freq" in found["constants"]
    assert ("answers as recorded" in found) == record


def drop_mask(module):
    """A network that sees its padding."""

    def forget(own, args, kwargs):
        return args[:1], {k: v for k, v in kwargs.items() if k != "attention_mask"}

    module.register_forward_pre_hook(forget, with_kwargs=True)


@pytest.mark.parametrize(
    ("name", "inner", "sides"),
    [
        ("crossdna", "model", {"right", "left"}),
        ("modernbert", "network.net", {"right"}),
    ],
)
def test_a_padding_leak(copied, name, inner, sides):
    path = copied(name)
    found = failures(path, lambda model: drop_mask(model.get_submodule(inner)))
    assert {f"padding {side}" for side in sides} <= set(found)
    assert set(found) <= {"padding right", "padding left"}


def test_neighbours_in_a_batch_that_are_seen(copied):
    def spoil(model):
        def mix(own, args, output):
            output.last_hidden_state += output.last_hidden_state.mean(0, keepdim=True)

        model.model.register_forward_hook(mix)

    assert "batch" in failures(copied("crossdna"), spoil)


def test_a_key_that_nobody_reads(copied):
    path = copied("crossdna")
    weights = load_file(path / "model.safetensors")
    model, opened = load_for_examination(path, "cpu")
    weights["model.extra.weight"] = torch.randn(3)
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    found = examine(model, opened, lengths=())
    (check,) = [check for check in found.checks if check.name == "weights read"]
    assert check.status == "fail"
    assert "model.extra.weight" in check.detail


def test_random_weights_are_told(tmp_path, tiny_checkpoint):
    found = failures(tiny_checkpoint(d_model=32, head_dim=16))
    assert "weights trained" in found
    assert "real DNA" in found


def test_command_line(copied, tmp_path, capsys):
    path, output = copied("crossdna", record=False), tmp_path / "found.json"
    words = ["doctor", str(path), "--device", "cpu", "--lengths", "64", "128", "256"]
    assert main([*words, "--output", str(output), "--record"]) == 0
    assert "all is well" in capsys.readouterr().out
    table = json.loads(output.read_text())
    assert table["passed"]
    assert [row["length"] for row in table["speed"]] == [64, 128, 256]
    assert {check["status"] for check in table["checks"]} <= {"pass", "note", "skip"}
    assert len(table["made_by"]["fingerprint"]) == 32
    assert (path / RECORD_NAME).is_file()

    weights = load_file(path / "model.safetensors")
    weights["head.weight"] *= 1.1
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    assert main([*words, "--output", str(output)]) == 1
    assert "something is wrong" in capsys.readouterr().out
    assert not json.loads(output.read_text())["passed"]
    assert main([*words, "--record"]) == 2
    assert "is not recorded" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path / "nowhere" / "x")]) == 2
    with pytest.raises(SystemExit, match="2"):
        main([*words[:-3], "0"])
    assert "--lengths: at least 1, not 0" in capsys.readouterr().err
    (path / RECORD_NAME).write_text("{}")
    assert main(words) == 2
    assert f"{RECORD_NAME}: cannot be read" in capsys.readouterr().err


def test_classifiers_are_examined(tiny_checkpoint, capsys):
    folder = tiny_checkpoint("CrossDNAForSequenceClassification", num_labels=3)
    model, opened = load_for_examination(folder, "cpu")
    found = examine(model, opened, lengths=())
    statuses = {check.name: check.status for check in found.checks}
    assert statuses["real DNA"] == statuses["strands"] == "skip"
    assert statuses["batch"] == statuses["padding left"] == "pass"


@pytest.mark.parametrize("name", shipped())
def test_shipped_weights_are_those_that_were_recorded(name):
    model, opened = load_for_examination(name, "cpu")
    record = read_record(opened.name)
    assert record.fingerprint == fingerprint(model, name)._asdict()
    assert check_record(model, record).status == "pass"
