"""Mamba and Mamba-2 on our operators against transformers' own code."""

import copy

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from crossdna.models.building import new_language_model
from crossdna.models.opening import Opened
from crossdna.models.tokenized.mamba import OperatorMamba2Mixer, OperatorMambaMixer
from crossdna.models.tokenized.operators import use_operators
from crossdna.ops.native import build
from tests.family_checkpoints import save

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
HEADS = {**SMALL, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 16}
NETWORKS = {
    "mamba": ("mamba", SMALL),
    "mamba wide": ("mamba", {**SMALL, "hidden_size": 40, "state_size": 16}),
    "mamba biases": (
        "mamba",
        {**SMALL, "hidden_size": 20, "use_bias": True, "use_conv_bias": False},
    ),
    "mamba2": ("mamba2", HEADS),
    "mamba2 wide": (
        "mamba2",
        {**HEADS, "hidden_size": 60, "head_dim": 30, "chunk_size": 256},
    ),
    "mamba2 groups": (
        "mamba2",
        {**HEADS, "n_groups": 2, "use_bias": True, "time_step_limit": (0.01, 0.1)},
    ),
}
LENGTHS = (1, 3, 64, 101)
WORDS = 11


def config_of(name):
    family, sizes = NETWORKS[name]
    return CONFIG_MAPPING[family](vocab_size=WORDS, **sizes)


def both(name, dtype=torch.float32):
    """A network as transformers makes it, and its copy on our operators."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config_of(name)).to(dtype).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            # Freshly drawn, a network hardly looks at what it reads.
            if parameter.ndim > 1:
                parameter.mul_(2)
    ours = copy.deepcopy(theirs)
    use_operators(ours)
    return ours, theirs


def draw(length, rows=3):
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, WORDS, (rows, length), generator=generator)


def logits(net, ids, mask=None):
    return net(input_ids=ids, attention_mask=mask, use_cache=False).logits


def gradients(net, ids, mask=None):
    answer = logits(net, ids, mask)
    if mask is not None:
        answer = answer[mask]
    weights = torch.linspace(-1, 1, answer.numel(), dtype=answer.dtype)
    (answer * weights.view_as(answer)).sum().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def error(got, expected):
    """Largest difference, relative to the largest value."""
    return float((got.double() - expected.double()).abs().max() / expected.abs().max())


def padding(length):
    """The first row whole, the second padded on the right, the third on the left."""
    mask = torch.ones(3, length, dtype=torch.bool)
    mask[1, length - length // 3 :] = False
    mask[2, : length // 3] = False
    return mask


@pytest.fixture(params=["native", "torch"])
def backend(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(build, "unavailable", lambda: "not in this test")
    elif build.unavailable() is not None:
        pytest.skip(build.unavailable())


@pytest.fixture
def float64_throughout(monkeypatch):
    """Keep transformers from rounding what is float64 to float32 on the way."""

    def float_(x):
        return x.to(torch.promote_types(x.dtype, torch.float32))

    monkeypatch.setattr(torch.Tensor, "float", float_)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_transformers(name, length, backend):
    ours, theirs = both(name)
    with torch.no_grad():
        expected = logits(theirs, draw(length))
        assert error(logits(ours, draw(length)), expected) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_padding_is_read_as_transformers_reads_it(name, backend):
    ours, theirs = both(name)
    ids, mask = draw(50), padding(50)
    with torch.no_grad():
        for kind in torch.bool, torch.long:
            expected = logits(theirs, ids, mask.to(kind))[mask]
            assert error(logits(ours, ids, mask.to(kind))[mask], expected) < 1e-5


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [1, 37])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_in_float64(name, length, padded, float64_throughout):
    mask = padding(length) if padded else None
    ours, theirs = both(name, torch.float64)
    got, expected = (gradients(net, draw(length), mask) for net in (ours, theirs))
    assert got.keys() == expected.keys()
    largest = max(float(x.abs().max()) for x in expected.values())
    for key, gradient in expected.items():
        assert gradient.dtype is torch.float64
        # What cancels out is small in both, and different.
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((got[key] - gradient).abs().max()) < 1e-8 * scale, key


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_in_float32(name, backend):
    """Not further from the float64 network than transformers' are."""
    found = [gradients(net, draw(37)) for net in both(name)]
    exact = gradients(both(name, torch.float64)[0], draw(37))
    largest = max(float(x.abs().max()) for x in exact.values())
    for key, gradient in exact.items():
        scale = max(float(gradient.abs().max()), 1e-2 * largest)
        mine, other = (float((x[key] - gradient).abs().max()) for x in found)
        assert mine < max(2 * other, 2e-5 * scale), key


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_is_no_further_off_than_transformers(name, backend):
    ours, theirs = both(name)
    ids = draw(60)
    with torch.no_grad():
        exact = logits(theirs, ids)
        with torch.autocast("cpu", torch.bfloat16):
            mine, other = (error(logits(net, ids), exact) for net in (ours, theirs))
    assert mine < max(1.5 * other, 0.02)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(x.isfinite().all() for x in gradients(ours, ids).values())


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_a_cache_is_transformers_own_and_agrees(name):
    ours, _ = both(name)
    ids = draw(20)
    with torch.no_grad():
        whole = logits(ours, ids)
        start = ours(input_ids=ids[:, :15], use_cache=True)
        # The name since transformers 5.24, and before.
        name = "cache" if hasattr(start, "cache") else "cache_params"
        kept, steps = {name: start[name]}, [start.logits]
        for at in range(15, 20):
            step = ours(input_ids=ids[:, at : at + 1], **kept)
            steps.append(step.logits)
    assert error(torch.cat(steps, 1), whole) < 1e-5
    made = ours.generate(ids[:, :15], max_new_tokens=5, do_sample=False)
    assert made.shape == (3, 20)


# transformers 5.17 does not know the new name yet.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_gradient_checkpointing_changes_nothing(name):
    plain, kept = both(name)[0].train(), both(name)[0].train()
    kept.gradient_checkpointing_enable()
    expected = gradients(plain, draw(33))
    for key, gradient in gradients(kept, draw(33)).items():
        torch.testing.assert_close(gradient, expected[key])


@pytest.mark.parametrize(
    ("name", "own", "other"),
    [
        ("mamba", OperatorMambaMixer, MambaMixer),
        ("mamba2", OperatorMamba2Mixer, Mamba2Mixer),
    ],
)
def test_only_networks_of_this_package_are_changed(name, own, other, tmp_path):
    def kinds(net):
        return {type(x) for x in net.modules() if isinstance(x, other)}

    made = new_language_model(config_of(name))
    assert kinds(made) == {own}
    assert kinds(copy.deepcopy(made)) == {own}
    made.save_pretrained(tmp_path / "made")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert kinds(plain) == {other}
    for key, value in plain.state_dict().items():
        assert torch.equal(value, made.state_dict()[key])

    opened = Opened(save(name, tmp_path)).model("classification", new_head=True)
    assert kinds(opened) == {own}
    opened.save_pretrained(tmp_path / "fine-tuned")
    again = Opened(tmp_path / "fine-tuned").model("classification")
    assert kinds(again) == {own}
    ids = draw(30) % 4
    with torch.no_grad():
        torch.testing.assert_close(opened.eval()(ids).logits, again.eval()(ids).logits)
