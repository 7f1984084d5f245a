"""Families that load as published: from a hub's cache, and in transformers' Trainer."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

from crossdna.errors import CrossDNAError
from crossdna.models.caduceus import (
    CaduceusConfig,
    CaduceusForMaskedLM,
    CaduceusForSequenceClassification,
)
from crossdna.models.hyenadna import HyenaDNAConfig, HyenaDNAForCausalLM

GOLDEN = Path(__file__).parents[1] / "golden"


def hub_cache(folder, name, fixture):
    """Lay a fixture out as a hub's download would."""
    commit = "0" * 40
    repository = folder / f"models--{name.replace('/', '--')}"
    shutil.copytree(GOLDEN / fixture, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return {"cache_dir": str(folder), "local_files_only": True}


@pytest.mark.parametrize(
    ("fixture", "auto"),
    [("hyenadna", AutoModelForCausalLM), ("caduceus_ps", AutoModelForMaskedLM)],
)
def test_hub_ids_load_from_the_cache(fixture, auto, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub = hub_cache(tmp_path, "someone/model", fixture)
    model = auto.from_pretrained("someone/model", **hub)
    local = auto.from_pretrained(GOLDEN / fixture)
    ids = torch.randint(7, 12, (1, 20))
    assert torch.equal(model(ids).logits, local(ids).logits)
    assert model.config.name_or_path == "someone/model"
    tokenizer = AutoTokenizer.from_pretrained("someone/model", **hub)
    assert tokenizer("AC")["input_ids"] == [7, 8, 1]


def test_another_family_is_refused():
    with pytest.raises(CrossDNAError, match="model_type 'caduceus', not of 'hyenadna'"):
        HyenaDNAForCausalLM.from_pretrained(GOLDEN / "caduceus_ph")


@pytest.mark.parametrize(
    ("fixture", "kind"),
    [("hyenadna", HyenaDNAForCausalLM), ("caduceus_ps", CaduceusForMaskedLM)],
)
def test_shards_load_as_they_were_saved(fixture, kind, tmp_path):
    model = kind.from_pretrained(GOLDEN / fixture)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = torch.randint(7, 12, (1, 20))
    again = kind.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)


@pytest.mark.parametrize("fixture", ["hyenadna", "caduceus_ph"])
def test_a_head_of_another_size(fixture, tmp_path):
    auto = AutoModelForSequenceClassification
    auto.from_pretrained(GOLDEN / fixture, num_labels=2).save_pretrained(tmp_path)
    with pytest.raises(CrossDNAError, match=r"'score.weight' has shape \(2, \d+\)"):
        auto.from_pretrained(tmp_path, num_labels=3)
    model = auto.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert model.score.weight.shape[0] == 3
    assert model.score.weight.std() > 0


def test_loading_info_is_given_when_asked():
    model, info = AutoModelForSequenceClassification.from_pretrained(
        GOLDEN / "caduceus_ph", num_labels=2, output_loading_info=True
    )
    assert set(info["missing_keys"]) == {"score.weight"}
    assert model.score.weight.shape == (2, 40)
    assert model.score.weight.std() < 0.05


class Homopolymers(Dataset):
    """Rows of one base, labelled by it."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        base = index % 2
        return {"input_ids": torch.full((12,), 7 + base), "labels": base}


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
def test_trainer_learns_saves_and_loads(tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layer": 1, "ssm_cfg": {"d_state": 4}}
    model = CaduceusForSequenceClassification(CaduceusConfig(rcps=True, **sizes))
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        learning_rate=2e-2,
        per_device_train_batch_size=16,
        save_steps=30,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Homopolymers())
    trainer.train()
    again = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "checkpoint-30"
    )
    ids = torch.tensor([[7] * 12, [8] * 12])
    with torch.inference_mode():
        assert again(ids).logits.argmax(-1).tolist() == [0, 1]


@pytest.fixture(params=["hyenadna", "caduceus"])
def model(request):
    torch.manual_seed(0)
    if request.param == "hyenadna":
        config = HyenaDNAConfig(d_model=16, n_layer=1, max_seq_len=64)
        return HyenaDNAForCausalLM(config)
    return CaduceusForMaskedLM(CaduceusConfig(d_model=16, n_layer=1, rcps=True))


# peft asks transformers under a name that 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_adapters_reach_every_linear_layer(model):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules="all-linear"))
    ids = torch.randint(7, 12, (2, 24))
    adapted(input_ids=ids, labels=ids).loss.backward()
    learning = {n: p for n, p in adapted.named_parameters() if "lora_B" in n}
    assert len(learning) >= 5
    for name, parameter in learning.items():
        assert parameter.grad.abs().sum() > 0, name


def test_autocast_and_compilation(model):
    ids = torch.randint(7, 12, (2, 24))
    mask = torch.ones_like(ids)
    with torch.autocast("cpu", torch.bfloat16):
        model(ids, mask, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
    model.eval()
    whole = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        expected = model(ids, mask).logits
        torch.testing.assert_close(whole(ids, mask).logits, expected)
