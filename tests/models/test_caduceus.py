"""Caduceus against the recorded outputs of the published code, and its own promises."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from crossdna.errors import CrossDNAError
from crossdna.models.caduceus import (
    CaduceusConfig,
    CaduceusForMaskedLM,
    CaduceusForSequenceClassification,
    CaduceusModel,
)

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = ("caduceus_ph", "caduceus_ps")
EMBEDDING = "caduceus.backbone.embeddings.word_embeddings"


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture
def expected(variant):
    return load_file(GOLDEN / variant / "expected.safetensors")


@pytest.fixture
def published(tmp_path, variant):
    """A copy of a published directory that a test may spoil."""
    folder = tmp_path / "published"
    shutil.copytree(GOLDEN / variant, folder)
    return folder


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def tiny(kind=CaduceusForMaskedLM, **change):
    torch.manual_seed(0)
    sizes = {"d_model": 12, "n_layer": 3, "ssm_cfg": {"d_state": 4}, "rcps": True}
    model = kind(CaduceusConfig(**(sizes | change))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def draw(*shape):
    return torch.randint(7, 12, shape, generator=torch.Generator().manual_seed(1))


def close(got, expected, tolerance=2e-5):
    torch.testing.assert_close(got.detach(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("length", [32, 100])
@pytest.mark.parametrize("strand", ["", "rc_"])
def test_published_outputs(variant, expected, length, strand):
    model = CaduceusForMaskedLM.from_pretrained(GOLDEN / variant)
    ids = expected[f"{strand}input_ids_{length}"]
    output = model(ids, output_hidden_states=True)
    close(output.logits, expected[f"{strand}logits_{length}"])
    close(output.hidden_states[-1], expected[f"{strand}last_hidden_state_{length}"])
    assert len(output.hidden_states) == model.config.n_layer + 2
    if not strand:
        close(output.hidden_states[0], expected[f"embeddings_{length}"])


def test_published_layers(variant, expected):
    model = CaduceusModel.from_pretrained(GOLDEN / variant)
    result = model.backbone(expected["input_ids_32"], None, every_layer=True)
    for i, (before, added) in enumerate(
        zip(result.sums[:-1], result.added, strict=True)
    ):
        close(added, expected[f"layers.{i}.mixer_out_32"])
        # Recorded inside the layer, where the halves have already changed places.
        if model.config.rcps:
            before = before.roll(model.config.d_model, -1)
        close(before, expected[f"layers.{i}.residual_32"])


@pytest.mark.parametrize("length", [32, 100])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_published_classifier(published, expected, length, pooling):
    rewrite(published, lambda w: w.update({"score.weight": expected["score_weight"]}))
    model = AutoModelForSequenceClassification.from_pretrained(
        published, num_labels=3, pooling_strategy=pooling
    )
    got = model(expected[f"input_ids_{length}"]).logits
    close(got, expected[f"cls_logits_{pooling}_{length}"])


def test_published_classifier_of_the_other_strand():
    expected = load_file(GOLDEN / "caduceus_ps" / "expected.safetensors")
    model = CaduceusForSequenceClassification.from_pretrained(
        GOLDEN / "caduceus_ps", num_labels=3
    )
    model.score.weight.data.copy_(expected["score_weight"])
    got = model(expected["rc_input_ids_100"]).logits
    close(got, expected["rc_cls_logits_mean_100"])


def test_saved_and_loaded_is_the_same(variant, expected, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(GOLDEN / variant)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == set(load_file(GOLDEN / variant / "model.safetensors"))
    again = CaduceusForMaskedLM.from_pretrained(tmp_path)
    ids = expected["input_ids_100"]
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    base = CaduceusModel.from_pretrained(tmp_path)
    base.save_pretrained(tmp_path / "base")
    masked = CaduceusForMaskedLM.from_pretrained(tmp_path / "base")
    close(masked(ids).logits, expected["logits_100"])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_equivariance_to_the_reverse_complement(fused, layers):
    model = tiny(fused_add_norm=fused, n_layer=layers)
    complement = torch.tensor(model.config.complement_ids)
    ids = draw(2, 33)
    other = complement[ids].flip(1)
    output, mirrored = (
        model(i, output_hidden_states=True).to_tuple() for i in (ids, other)
    )
    close(mirrored[0].flip(1)[..., complement], output[0].detach(), 1e-5)
    for state, back in zip(output[1], mirrored[1], strict=True):
        close(back.flip(1, 2), state.detach(), 1e-5)


def plain_strand_pair(model, ids):
    """Run a PS model the published way, on both halves at once."""
    config, backbone = model.config, model.caduceus.backbone
    other = torch.tensor(config.complement_ids)[ids].flip(1)
    p, q = backbone.embedding(ids), backbone.embedding(other).flip(1, 2)
    for layer in backbone.layers:
        norm = layer.norm if config.fused_add_norm else layer.norm["submodule"]
        mixer = layer.mixer["submodule"]
        if config.fused_add_norm:
            p, q = q, p
        p = p + mixer(norm(p), None)
        q = q + mixer(norm(q.flip(1, 2)), None).flip(1, 2)
    norm = backbone.norm_f if config.fused_add_norm else backbone.norm_f["submodule"]
    return torch.cat([norm(p), norm(q.flip(1, 2)).flip(1, 2)], -1)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_streams_equal_the_published_halves(fused, layers):
    model = tiny(fused_add_norm=fused, n_layer=layers)
    ids = draw(2, 21)
    hidden = model.caduceus(ids).last_hidden_state
    close(hidden, plain_strand_pair(model, ids).detach(), 1e-5)


def test_the_two_values_of_fused_add_norm_differ():
    fused, unfused = tiny(fused_add_norm=True), tiny(fused_add_norm=False)
    unfused.load_state_dict(
        dict(zip(unfused.state_dict(), fused.state_dict().values(), strict=True))
    )
    ids = draw(1, 20)
    assert (fused(ids).logits - unfused(ids).logits).abs().max() > 0.1


VARIATIONS = [
    {"rcps": False},
    {"rcps": True},
    {"rcps": True, "fused_add_norm": False},
    {"rms_norm": False},
    {"bidirectional": False, "rcps": False},
    {"bidirectional_strategy": "ew_multiply"},
    {"bidirectional_weight_tie": False},
    {"ssm_cfg": {"d_state": 4, "bias": True, "conv_bias": False, "dt_rank": 2}},
    {"residual_in_fp32": True},
]


@pytest.mark.parametrize("change", VARIATIONS, ids=str)
def test_every_variant_saves_loads_and_learns(change, tmp_path):
    model = tiny(**change)
    ids = draw(2, 17)
    loss = model(ids, labels=ids).loss
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    model.save_pretrained(tmp_path)
    again = CaduceusForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(model(ids).logits, again(ids).logits)


@pytest.mark.parametrize("change", VARIATIONS[:3], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_behind_a_mask(change, side):
    model = tiny(**change)
    ids = draw(2, 30)
    mask = torch.ones_like(ids)
    short = slice(9, None) if side == "left" else slice(None, 21)
    pads = slice(None, 9) if side == "left" else slice(21, None)
    alone = model(ids[1:, short]).logits[0].detach()
    whole = model(ids[:1]).logits[0].detach()
    ids[1, pads], mask[1, pads] = 4, 0
    got = model(ids, mask).logits
    close(got[1, short], alone, 1e-5)
    close(got[0], whole, 1e-5)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("rcps", [True, False])
def test_classifier_behind_a_mask(pooling, rcps):
    model = tiny(CaduceusForSequenceClassification, rcps=rcps, pooling_strategy=pooling)
    ids = draw(1, 20)
    padded = torch.nn.functional.pad(ids, (5, 0), value=4)
    got = model(padded, padded != 4).logits
    close(got, model(ids).logits.detach(), 1e-5)


def test_both_strands_of_a_ph_model_are_averaged():
    model = tiny(CaduceusForSequenceClassification, rcps=False)
    ids = draw(3, 20)
    other = torch.tensor(model.config.complement_ids)[ids].flip(1)
    both = model(torch.stack([ids, other], -1)).logits
    apart = (model(ids).logits + model(other).logits) / 2
    close(both, apart.detach(), 1e-5)
    swapped = model(torch.stack([other, ids], -1)).logits
    close(swapped, both.detach(), 1e-6)
    with pytest.raises(CrossDNAError, match="2-D ids"):
        tiny(CaduceusForSequenceClassification)(torch.stack([ids, other], -1))


def test_tied_aliases_are_taken_when_they_agree(published, variant, expected):
    ps = variant == "caduceus_ps"
    words = f"{EMBEDDING}.embedding.weight" if ps else f"{EMBEDDING}.weight"
    head = "lm_head.lm_head.weight" if ps else "lm_head.weight"
    mixer = "caduceus.backbone.layers.0.mixer" + (".submodule" if ps else "")
    ahead, back = (
        f"{mixer}.{name}.in_proj.weight" for name in ("mamba_fwd", "mamba_rev")
    )

    rewrite(published, lambda w: w.update({head: w[words].clone()}))
    rewrite(published, lambda w: w.update({back: w[ahead].clone()}))
    model = CaduceusForMaskedLM.from_pretrained(published)
    close(model(expected["input_ids_32"]).logits, expected["logits_32"])

    rewrite(published, lambda w: w.update({back: w[ahead] + 1}))
    with pytest.raises(CrossDNAError, match=r"mamba_rev\.in_proj.* differs from"):
        CaduceusForMaskedLM.from_pretrained(published)


@pytest.mark.parametrize(
    ("key", "spoil", "message"),
    [
        ("caduceus.backbone.norm_f.weight", None, "missing key '{}'"),
        ("caduceus.backbone.norm_f.weight", torch.ones(3), "'{}' has shape \\(3,\\)"),
        ("caduceus.backbone.norm_g.weight", torch.ones(3), "unknown key '{}'"),
    ],
    ids=["missing", "misshaped", "extra"],
)
def test_bad_checkpoints_are_refused_by_key(published, key, spoil, message):
    def change(weights):
        if spoil is None:
            weights.pop(key)
        else:
            weights[key] = spoil

    rewrite(published, change)
    with pytest.raises(CrossDNAError, match=message.format(key)):
        CaduceusForMaskedLM.from_pretrained(published)


@pytest.mark.parametrize("variant", ["caduceus_ps"], indirect=True)
def test_a_fused_checkpoint_is_not_read_as_unfused(published):
    path = published / "config.json"
    text = path.read_text().replace('"fused_add_norm": true', '"fused_add_norm": false')
    path.write_text(text)
    with pytest.raises(CrossDNAError, match=r"missing key .*submodule\.weight"):
        CaduceusForMaskedLM.from_pretrained(published)


@pytest.mark.parametrize("variant", ["caduceus_ps"], indirect=True)
def test_another_complement_is_refused(published):
    key = f"{EMBEDDING}.complement_map"
    rewrite(published, lambda w: w.update({key: torch.arange(16)}))
    with pytest.raises(CrossDNAError, match=r"complement_map' disagrees"):
        CaduceusForMaskedLM.from_pretrained(published)


def test_config_keys_of_the_complement_come_in_any_order():
    config = CaduceusConfig(complement_map={"1": 1, "10": 7, "7": 10, "8": 9, "9": 8})
    assert config.complement_ids[7:11] == [10, 9, 8, 7]
    assert config.complement_ids == CaduceusConfig().complement_ids


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({"d_model": 118, "n_layer": 4}, 470_702),
        ({"d_model": 256, "n_layer": 4}, 1_934_592),
        ({"d_model": 256, "n_layer": 16}, 7_725_312),
    ],
)
@pytest.mark.parametrize("rcps", [True, False])
def test_released_sizes(sizes, parameters, rcps):
    with torch.device("meta"):
        model = CaduceusForMaskedLM(CaduceusConfig(rcps=rcps, **sizes))
    assert model.num_parameters() == parameters


def test_fresh_weights_follow_the_published_rule():
    torch.manual_seed(0)
    model = CaduceusForMaskedLM(CaduceusConfig(d_model=64, n_layer=4))
    mamba = model.caduceus.backbone.layers[0].mixer.mamba_fwd
    torch.testing.assert_close(mamba.A_log[5].exp(), torch.arange(1.0, 17.0))
    dt = torch.nn.functional.softplus(mamba.dt_proj.bias)
    assert 0.00099 < dt.min() < 0.003
    assert 0.04 < dt.max() < 0.1001
    assert mamba.dt_proj.weight.abs().max() <= 0.5
    assert 0.9 < mamba.out_proj.weight.abs().max() * (128**0.5) * 2 <= 1
    assert abs(model.get_input_embeddings().weight.std() - 0.02) < 2e-3


def test_bfloat16_keeps_decays_and_step_biases_in_float32(variant, expected):
    model = CaduceusForMaskedLM.from_pretrained(GOLDEN / variant, dtype=torch.bfloat16)
    kinds = {name.split(".")[-1]: p.dtype for name, p in model.named_parameters()}
    assert kinds["A_log"] is kinds["D"] is torch.float32
    got = model(expected["input_ids_32"]).logits.float()
    error = (got - expected["logits_32"]).abs().max()
    assert error < 0.1 * expected["logits_32"].abs().max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 0}, "n_layer must be positive"),
        ({"bidirectional_strategy": "max"}, "add, ew_multiply"),
        ({"ssm_cfg": {"states": 3}}, "ssm_cfg: unknown entry 'states'"),
        ({"complement_map": {"7": 8}}, "does not lead back"),
        ({"pooling_strategy": "last"}, "mean, max"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(CrossDNAError, match=message):
        CaduceusConfig(**change)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (5,)])
def test_no_bases(shape):
    with pytest.raises(CrossDNAError, match=r"\(batch, length\) with bases, got"):
        tiny()(torch.zeros(shape, dtype=torch.long))
