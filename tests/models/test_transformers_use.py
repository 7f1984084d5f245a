"""Any model as users of transformers use it: pipelines, Trainer, save and load."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_submodules
from safetensors.torch import load_file, save_file
from torch.nn.utils import prune
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from crossdna import alphabet
from crossdna.analysis.inference import base_log_probabilities, sequence_logits
from crossdna.errors import CrossDNAError
from crossdna.models import caduceus, crossdna, hyenadna, tokenized
from crossdna.models.caduceus import CaduceusConfig
from crossdna.models.crossdna import CrossDNAConfig
from crossdna.models.fingerprint import fingerprint
from crossdna.models.hyenadna import HyenaDNAConfig
from crossdna.models.opening import Opened
from crossdna.tokenizers.character import CaduceusTokenizer, HyenaDNATokenizer
from crossdna.tokenizers.loading import NETWORK_TOKENIZER
from crossdna.tokenizers.nucleotide import CrossDNATokenizer
from tests.family_checkpoints import save

FAMILIES = {
    "crossdna": (
        crossdna,
        "CrossDNA",
        CrossDNATokenizer,
        CrossDNAConfig(
            d_model=16, depth=1, num_heads=2, head_dim=8, attention_heads=2,
            window_size=8, block_size=16,
        ),
    ),
    "hyenadna": (
        hyenadna,
        "HyenaDNA",
        HyenaDNATokenizer,
        HyenaDNAConfig(d_model=16, n_layer=1, max_seq_len=64),
    ),
    "caduceus_ph": (
        caduceus,
        "Caduceus",
        CaduceusTokenizer,
        CaduceusConfig(d_model=16, n_layer=1, ssm_cfg={"d_state": 4}),
    ),
    "caduceus_ps": (
        caduceus,
        "Caduceus",
        CaduceusTokenizer,
        CaduceusConfig(d_model=16, n_layer=1, rcps=True, ssm_cfg={"d_state": 4}),
    ),
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def made(family, task, folder, **options):
    """A tiny model with its tokenizer, saved and loaded again by a pipeline's own."""
    module, prefix, tokenizer, config = FAMILIES[family]
    torch.manual_seed(0)
    config = type(config)(**{**config.to_dict(), **options})
    model = getattr(module, f"{prefix}{task}")(config).eval()
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model, tokenizer()


def test_a_hidden_base_is_filled_in(family, tmp_path):
    if family == "hyenadna":
        pytest.skip("a causal model")
    model, tokenizer = made(family, "ForMaskedLM", tmp_path)
    text = f"ACGTTG{tokenizer.mask_token}CAACGT"
    found = pipeline("fill-mask", model=str(tmp_path))(text, top_k=2)
    ids = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**ids).logits[0, 6]
    best = logits.softmax(-1).topk(2)
    assert [one["token"] for one in found] == best.indices.tolist()
    assert [one["score"] for one in found] == pytest.approx(best.values.tolist())
    assert found[0]["sequence"].startswith("ACGTTG")
    assert found[0]["sequence"].endswith("CAACGT")


def test_text_goes_on(tmp_path):
    made("hyenadna", "ForCausalLM", tmp_path)
    write = pipeline("text-generation", model=str(tmp_path))
    torch.manual_seed(1)
    found = write("ACGTTG", max_new_tokens=5, do_sample=True)[0]["generated_text"]
    assert found.startswith("ACGTTG")
    assert " " not in found


def test_sequences_are_classified_in_batches(family, tmp_path):
    model, tokenizer = made(family, "ForSequenceClassification", tmp_path, num_labels=3)
    texts = ["ACGTTGCAACGT", "ACG", "TTTTTTTT"]
    classify = pipeline("text-classification", model=str(tmp_path))
    found = classify(texts, batch_size=3, top_k=None)
    for text, scores in zip(texts, found, strict=True):
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits
        got = sorted(scores, key=lambda one: one["label"])
        expected = logits.softmax(-1)[0].tolist()
        assert [one["score"] for one in got] == pytest.approx(expected, abs=1e-5)


def test_bases_are_classified(family, tmp_path):
    model, tokenizer = made(family, "ForTokenClassification", tmp_path, num_labels=2)
    found = pipeline("token-classification", model=str(tmp_path))("ACGTTGCA")
    assert "".join(one["word"] for one in found) == "ACGTTGCA"
    with torch.no_grad():
        logits = model(**tokenizer("ACGTTGCA", return_tensors="pt")).logits[0, :8]
    expected = logits.softmax(-1).amax(-1).tolist()
    assert [float(one["score"]) for one in found] == pytest.approx(expected)


def test_vectors_of_bases(family, tmp_path):
    model, tokenizer = made(family, "Model", tmp_path)
    found = pipeline("feature-extraction", model=str(tmp_path))("ACGTTGCA")
    with torch.no_grad():
        hidden = model(**tokenizer("ACGTTGCA", return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(torch.tensor(found), hidden)


class Rows(torch.utils.data.Dataset):
    """Four random sequences with a label each."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(7, 11, (20,), generator=generator)
        return {"input_ids": ids - self.first, "labels": index % 2}


@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
def test_trainer_accumulates_batches_into_the_mean(family, tmp_path):
    """Two batches of two, accumulated, are one batch of four; dropout is off."""
    rows = Rows()
    rows.first = 7 if family == "crossdna" else 0
    off = {"num_labels": 2, "head_dropout": 0.0, "dropout": 0.0}
    weights = []
    for size, steps in ((4, 1), (2, 2)):
        model, _ = made(family, "ForSequenceClassification", tmp_path / "start", **off)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=1, learning_rate=1.0,
            per_device_train_batch_size=size, gradient_accumulation_steps=steps,
            optim="sgd", max_grad_norm=0.0, save_strategy="no", report_to=[],
            lr_scheduler_type="constant", disable_tqdm=True, use_cpu=True, seed=0,
        )  # fmt: skip
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        Trainer(model=model, args=arguments, train_dataset=rows).train()
        step = {n: p.detach() - before[n] for n, p in model.named_parameters()}
        weights.append(step)
    assert any(change.abs().max() > 1e-4 for change in weights[0].values())
    for name, change in weights[0].items():
        torch.testing.assert_close(weights[1][name], change, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("module", [crossdna, hyenadna, caduceus, tokenized])
def test_heads_of_all_families_are_asked_alike(module):
    """The first arguments of every head's forward, which Trainer and peft rely on."""
    for name in module.__all__:
        if name.endswith(("ForSequenceClassification", "ForTokenClassification")):
            if name.startswith("OwnHead"):
                continue
            forward = inspect.signature(getattr(module, name).forward)
            assert list(forward.parameters)[1:6] == [
                "input_ids", "attention_mask", "labels", "output_hidden_states",
                "return_dict",
            ]  # fmt: skip


def test_offloaded_weights_are_brought_at_once_or_missed():
    config = FAMILIES["crossdna"][3]
    model = crossdna.CrossDNAForMaskedLM(config).eval()
    ids = torch.arange(40)[None] % 4
    with torch.inference_mode():
        expected = model(ids).logits
        cpu_offload(model, "cpu")
        with pytest.raises(CrossDNAError, match="preload_module_classes"):
            model(ids)
        remove_hook_from_submodules(model)
        cpu_offload(model, "cpu", preload_module_classes=["CrossDNAModel"])
        torch.testing.assert_close(model(ids).logits, expected)


def test_a_pruned_convolution_is_read_as_it_is():
    model = crossdna.CrossDNAForMaskedLM(FAMILIES["crossdna"][3]).eval()
    ids = torch.arange(40)[None] % 4
    conv = model.model.bridge.context_a.convs[0]
    with torch.inference_mode():
        before = model(ids).logits
    prune.l1_unstructured(conv, "weight", 0.5)
    with torch.inference_mode():
        assert not torch.equal(model(ids).logits, before)


def test_threads_that_ask_one_model_leave_its_mode_alone():
    config = crossdna.CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=8, attention_heads=2,
        window_size=8, block_size=16, dropout=0.5,
    )  # fmt: skip
    model = crossdna.CrossDNAForMaskedLM(config).train()
    short, long = torch.zeros(1, 40).long(), torch.zeros(1, 4000).long()
    expected = base_log_probabilities(model, long)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(base_log_probabilities, model, short) for _ in range(20)]
        asked = [pool.submit(base_log_probabilities, model, long) for _ in range(4)]
        jobs += [pool.submit(base_log_probabilities, model, short) for _ in range(20)]
        for job in asked:
            torch.testing.assert_close(job.result(), expected)
    assert model.training


@pytest.mark.parametrize("name", ["dnabert-files", "plant-esm", "grover", "gpt2"])
def test_a_wrapped_network_under_a_head_has_the_tokenizer_that_it_reads(name, tmp_path):
    source = save(name, tmp_path)
    torch.manual_seed(0)
    model = Opened(source).model("classification", new_head=True).eval()
    model.save_pretrained(tmp_path / "tuned")
    texts = ["ACGTTGCATGCATGCATG", "ttttttttttttcat", "ATTACCA"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tuned")
    assert tokenizer(texts)["input_ids"] == [alphabet.encode(t).tolist() for t in texts]
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    found = loaded.eval()(**batch).logits.detach()
    for row, text in zip(found, texts, strict=True):
        ids = torch.from_numpy(alphabet.encode(text).astype("int64"))[None]
        torch.testing.assert_close(
            row, sequence_logits(model, ids)[0], atol=1e-5, rtol=0
        )
    classify = pipeline("text-classification", model=str(tmp_path / "tuned"))
    said = [one["score"] for one in classify(texts)]
    assert said == pytest.approx(found.softmax(-1).amax(-1).tolist(), abs=1e-5)
    # The network's own tokenizer is part of what the model is, where it lies now.
    before = str(fingerprint(loaded, tmp_path / "tuned"))
    place = tmp_path / "tuned" / NETWORK_TOKENIZER / "tokenizer_config.json"
    place.write_text(place.read_text() + "\n")
    assert str(fingerprint(loaded, tmp_path / "tuned")) == before
    place.write_text("{}")
    assert str(fingerprint(loaded, tmp_path / "tuned")) != before


def test_networks_saved_with_their_tokenizer_beside_them_are_read(tmp_path):
    """As earlier versions did."""
    torch.manual_seed(0)
    model = Opened(save("plant-esm", tmp_path)).model("classification", new_head=True)
    folder = tmp_path / "tuned"
    model.save_pretrained(folder)
    for path in (folder / NETWORK_TOKENIZER).iterdir():
        path.replace(folder / path.name)
    (folder / NETWORK_TOKENIZER).rmdir()
    state = load_file(folder / "model.safetensors")
    state["network.net.contact_head.regression.weight"] = torch.zeros(1, 4)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    ids = torch.arange(12)[None] % 4
    torch.testing.assert_close(
        sequence_logits(loaded, ids), sequence_logits(model, ids)
    )


# peft asks transformers under a name that 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_low_rank_updates_and_a_head_are_saved_and_read(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = Opened(save("plant-esm", tmp_path)).model("classification", new_head=True)
    model.save_pretrained(tmp_path / "tuned")
    config = peft.LoraConfig(
        target_modules="all-linear", modules_to_save=["head"], task_type="SEQ_CLS"
    )
    kind = AutoModelForSequenceClassification
    tuned = peft.get_peft_model(kind.from_pretrained(tmp_path / "tuned"), config)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    tuned.save_pretrained(tmp_path / "updates")
    fresh = kind.from_pretrained(tmp_path / "tuned")
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "updates")
    ids = torch.arange(24)[None] % 4
    found = again.eval()(input_ids=ids).logits
    torch.testing.assert_close(found, tuned.eval()(input_ids=ids).logits)
    plain = kind.from_pretrained(tmp_path / "tuned").eval()(input_ids=ids).logits
    assert (found - plain).abs().max() > 1e-3


def test_smoothed_labels_of_a_causal_model_are_those_of_the_next_base(tmp_path):
    """With almost no smoothing Trainer's loss is the model's own."""
    model, _ = made("hyenadna", "ForCausalLM", tmp_path)
    ids = torch.randint(7, 11, (4, 24), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(tmp_path, use_cpu=True, label_smoothing_factor=1e-7)
    trainer = Trainer(model=model, args=arguments)
    found = trainer.compute_loss(model, {"input_ids": ids, "labels": ids.clone()})
    own = model(input_ids=ids, labels=ids).loss
    assert found.item() == pytest.approx(own.item(), abs=1e-4)
