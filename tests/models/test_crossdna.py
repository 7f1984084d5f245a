"""CrossDNA: the function it computes and the invariances it promises."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from crossdna import (
    CrossDNAConfig,
    CrossDNAForMaskedLM,
    CrossDNAForSequenceClassification,
    CrossDNAForTokenClassification,
    CrossDNAModel,
    alphabet,
)
from crossdna.analysis.inference import (
    base_log_probabilities,
    embeddings,
    sequence_logits,
    token_logits,
)
from crossdna.data.genome import Genome
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import StrandContext, streams
from crossdna.ops.delta_rule import delta_rule

from .conftest import GOLDEN, tiny_config, tiny_model

LENGTHS = (20, 32, 33, 96, 100)


@pytest.fixture(scope="module")
def golden():
    folder = GOLDEN / "crossdna_tiny"
    model = AutoModelForMaskedLM.from_pretrained(folder)
    return model, load_file(folder / "expected.safetensors")


@pytest.mark.parametrize("length", LENGTHS)
def test_golden_outputs(golden, length):
    model, expected = golden
    model.config.gate_frozen = False
    with torch.no_grad():
        output = model(
            expected[f"input_ids.{length}"],
            output_hidden_states=True,
            output_branches=True,
        )
    for name, found in (
        ("hidden", output.hidden_states[-1]),
        ("logits", output.logits),
        ("logits_branch_a", output.logits_branch_a),
        ("logits_branch_b", output.logits_branch_b),
    ):
        torch.testing.assert_close(
            found, expected[f"{name}.{length}"], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("length", LENGTHS)
def test_golden_frozen_gate_and_single_block(golden, length):
    model, expected = golden
    ids = expected[f"input_ids.{length}"]
    size = model.config.block_size
    try:
        with torch.no_grad():
            model.config.gate_frozen = True
            frozen = model(ids).logits
            model.config.gate_frozen = False
            model.config.block_size = None
            whole = model.model(ids).last_hidden_state
    finally:
        model.config.block_size = size
    torch.testing.assert_close(
        frozen, expected[f"logits_frozen_gate.{length}"], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        whole, expected[f"hidden_whole.{length}"], atol=1e-4, rtol=0
    )


def test_paper_size():
    config = CrossDNAConfig(
        strand_alignment="sequence",
        block_context="independent",
        residual=False,
        mask_channel=False,
    )
    with torch.device("meta"):
        model = CrossDNAForMaskedLM(config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 8_129_413


def random_ids(rng, *shape):
    return torch.from_numpy(rng.integers(0, 4, shape))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(behaviour, residual, side, rng):
    model = tiny_model(residual=residual, **behaviour)
    lengths = (1, 15, 16, 17, 33, 47, 50)
    sequences = [random_ids(rng, 1, n) for n in lengths]
    ids = torch.full((len(lengths), max(lengths)), alphabet.PAD)
    mask = torch.zeros_like(ids)
    places = []
    for row, sequence in enumerate(sequences):
        n = sequence.shape[1]
        place = slice(max(lengths) - n, None) if side == "left" else slice(0, n)
        ids[row, place], mask[row, place] = sequence[0], 1
        places.append(place)
    with torch.no_grad():
        batch = model(ids, mask, output_hidden_states=True, output_branches=True)
        for row, (sequence, place) in enumerate(zip(sequences, places, strict=True)):
            alone = model(sequence, output_hidden_states=True, output_branches=True)
            for name in ("logits", "logits_branch_a", "logits_branch_b"):
                torch.testing.assert_close(
                    batch[name][row, place], alone[name][0], atol=2e-5, rtol=1e-4
                )
            for ours, theirs in zip(
                batch.hidden_states, alone.hidden_states, strict=True
            ):
                torch.testing.assert_close(
                    ours[row, place], theirs[0], atol=2e-5, rtol=1e-4
                )


def test_what_stands_in_padding_is_not_read(behaviour, rng):
    model = tiny_model(**behaviour)
    ids = random_ids(rng, 3, 40)
    mask = torch.ones_like(ids)
    mask[0, 21:], mask[1, :13] = 0, 0
    other = torch.where(mask == 0, random_ids(rng, 3, 40), ids)
    with torch.no_grad():
        first, second = model(ids, mask).logits, model(other, mask).logits
    assert not torch.equal(ids, other)
    # The padded stem still sees the letters next to a sequence, so pads must be zeroed
    # there too: equality has to hold at the sequences' edges.
    torch.testing.assert_close(first[mask == 1], second[mask == 1], atol=1e-6, rtol=0)


def test_branches_that_keep_their_strand_read_blocks_as_one(rng):
    """Without the bridge, which works block by block, blocks are then no difference."""
    ids = random_ids(rng, 2, 70)
    networks = [
        tiny_model(block_size=size, swap_strands=swap, use_bridge=False)
        for size, swap in ((16, False), (None, False), (16, True))
    ]
    with torch.no_grad():
        kept, whole, swapped = (model(ids).logits for model in networks)
    torch.testing.assert_close(kept, whole, atol=1e-5, rtol=1e-5)
    assert (swapped - whole)[:, 16:].abs().max() > 1e-3


def test_batch_size_changes_nothing(behaviour, rng):
    model = tiny_model(**behaviour)
    ids = random_ids(rng, 5, 37)
    with torch.no_grad():
        together = model(ids).logits
        alone = torch.cat([model(row[None]).logits for row in ids])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_long_rows_of_large_batches_give_what_they_give_alone(behaviour, rng):
    """Tiles and groups of rows, with states that pass between the tiles."""
    model = tiny_model(**{**behaviour, "block_size": 700})
    ids = random_ids(rng, 6, 700)
    mask = torch.ones_like(ids)
    mask[2, 650:] = 0
    with torch.no_grad():
        branch = model.model.branch_a
        x = model.model.features_forward(ids)
        together, states = branch(x, mask != 0)
        for row in range(6):
            alone, state = branch(x[row : row + 1], mask[row : row + 1] != 0)
            torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=0)
            for layer, same in zip(states, state, strict=True):
                close = torch.testing.assert_close
                close(layer.delta[row], same.delta[0], atol=1e-5, rtol=0)
                assert torch.equal(layer.window.mask[row], same.window.mask[0])


def test_context_crosses_blocks_only_when_recurrent(rng):
    ids = random_ids(rng, 1, 64)
    changed = ids.clone()
    changed[0, 2] = 3 - changed[0, 2]
    reach = {}
    for context in ("recurrent", "independent"):
        model = tiny_model(block_context=context)
        with torch.no_grad():
            difference = (model(ids).logits - model(changed).logits).abs().amax((0, 2))
        reach[context] = difference[48:].max()
    assert reach["recurrent"] > 1e-6
    assert reach["independent"] == 0


def test_reverse_stream_reads_the_same_locus(rng):
    """A change far from block edges stays in its block, unless strands are shifted."""
    ids = random_ids(rng, 1, 64)
    changed = ids.clone()
    changed[0, 24] = 3 - changed[0, 24]
    touched = {}
    for alignment in ("locus", "sequence"):
        model = tiny_model(strand_alignment=alignment, block_context="independent")
        with torch.no_grad():
            difference = (model(ids).logits - model(changed).logits).abs().amax((0, 2))
        touched[alignment] = {int(i) // 16 for i in difference.nonzero()}
    assert touched["locus"] == {1}
    # Published: block 1 of the reverse complement is the locus of block 2.
    assert touched["sequence"] == {1, 2}


@pytest.mark.parametrize("piece", [16, 32, 48])
@pytest.mark.parametrize(
    "changes",
    [{"swap_strands": False}, {"swap_strands": True}, {"block_context": "independent"}],
)
def test_pieces_with_carried_state_equal_the_whole(piece, changes, rng):
    model = tiny_model(CrossDNAModel, **changes)
    ids = random_ids(rng, 2, 90)
    with torch.no_grad():
        whole = model(ids).last_hidden_state
        starts = range(0, 90, piece)

        def read(start, context):
            context = context._replace(
                left=ids[:, max(0, start - 4) : start],
                right=ids[:, start + piece : start + piece + 4],
                first_block=start // 16,
            )
            return model(ids[:, start : start + piece], context=context)

        reverse, state = {}, None
        for start in reversed(starts):
            reverse[start] = state
            output = read(start, StrandContext(reverse=state))
            state = output.context.reverse
        forward, parts = None, []
        for start in starts:
            output = read(start, StrandContext(forward, reverse[start]))
            forward = output.context.forward
            parts.append(output.last_hidden_state)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


def test_one_block_is_not_read_in_pieces_unless_nothing_spans_it(rng):
    ids = random_ids(rng, 1, 40)
    with pytest.raises(CrossDNAError, match="block_size"):
        tiny_model(CrossDNAModel, block_size=None)(ids, context=StrandContext())
    model = tiny_model(CrossDNAModel, block_size=None, use_bridge=False)
    with torch.no_grad():
        whole = model(ids).last_hidden_state
        right = StrandContext(left=ids[:, 13:17])
        reverse = model(ids[:, 17:], context=right).context.reverse
        left = StrandContext(reverse=reverse, right=ids[:, 17:21])
        ahead = model(ids[:, :17], context=left)
        right = right._replace(forward=ahead.context.forward)
        behind = model(ids[:, 17:], context=right)
    parts = [ahead.last_hidden_state, behind.last_hidden_state]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)


def test_strand_average_is_exactly_symmetric(behaviour, rng):
    ids = random_ids(rng, 2, 45)
    ids[0, 7], ids[1, 30] = alphabet.N, alphabet.MASK
    other = alphabet.complement_ids(ids).flip(1)

    model = tiny_model(**behaviour)
    ahead = base_log_probabilities(model, ids, strand="both")
    back = base_log_probabilities(model, other, strand="both")
    torch.testing.assert_close(ahead, back.flip(1, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(ahead.exp().sum(-1), torch.ones(2, 45))
    plain = base_log_probabilities(model, ids)
    assert (plain - base_log_probabilities(model, other).flip(1, 2)).abs().max() > 1e-3

    ahead = embeddings(model, ids, strand="both", layer=1)
    back = embeddings(model, other, strand="both", layer=1)
    torch.testing.assert_close(ahead, back.flip(1), atol=1e-5, rtol=0)

    for kind, ask, flip in (
        (CrossDNAForSequenceClassification, sequence_logits, lambda x: x),
        (CrossDNAForTokenClassification, token_logits, lambda x: x.flip(1)),
    ):
        model = tiny_model(kind, num_labels=3, **behaviour)
        ahead, back = (ask(model, x, strand="both") for x in (ids, other))
        torch.testing.assert_close(ahead, flip(back), atol=1e-5, rtol=0)


def test_the_reverse_strand_is_what_the_reverse_complement_gives(behaviour, rng):
    ids = random_ids(rng, 2, 45)
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    ids[1, 25:] = alphabet.PAD
    other = (alphabet.complement_ids(ids).flip(1), mask.flip(1))
    asked = (
        (CrossDNAForMaskedLM, base_log_probabilities, lambda x: x.flip(1, 2)),
        (CrossDNAForMaskedLM, embeddings, lambda x: x.flip(1)),
        (CrossDNAForSequenceClassification, sequence_logits, lambda x: x),
        (CrossDNAForTokenClassification, token_logits, lambda x: x.flip(1)),
    )
    for kind, ask, mirror in asked:
        model = tiny_model(kind, **behaviour)
        back = ask(model, ids, mask, strand="-")
        torch.testing.assert_close(back, mirror(ask(model, *other)))
        ahead = ask(model, ids, mask)
        assert (ahead - back)[:, :25].abs().max() > 1e-3
        both = ask(model, ids, mask, strand="both")
        if ask is base_log_probabilities:
            ahead, back, both = ahead.exp(), back.exp(), both.exp()
        torch.testing.assert_close(both, (ahead + back) / 2)


def test_strand_average_with_padding(rng):
    model = tiny_model()
    ids = random_ids(rng, 2, 40)
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    batch = base_log_probabilities(model, ids, mask, strand="both")
    alone = base_log_probabilities(model, ids[1:, :25], strand="both")
    torch.testing.assert_close(batch[1, :25], alone[0], atol=1e-5, rtol=1e-4)


def test_inference_gives_the_model_back_as_it_was(rng):
    model = tiny_model().train()
    base_log_probabilities(model, random_ids(rng, 1, 20))
    assert model.training


def test_mask_is_its_own_input_or_n(rng):
    ids = random_ids(rng, 1, 30)
    masked, unknown = ids.clone(), ids.clone()
    masked[0, 10], unknown[0, 10] = alphabet.MASK, alphabet.N
    with torch.no_grad():
        ours = tiny_model(mask_channel=True)
        assert not torch.equal(ours(masked).logits, ours(unknown).logits)
        published = tiny_model(mask_channel=False)
        assert torch.equal(published(masked).logits, published(unknown).logits)


def test_gradients_reach_every_parameter(behaviour, rng):
    model = tiny_model(**behaviour).train()
    ids = random_ids(rng, 2, 40)
    model(ids, labels=ids).loss.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_bf16_autocast_stays_close(device, rng):
    model = tiny_model().to(device)
    ids = random_ids(rng, 2, 50).to(device)
    with torch.no_grad():
        exact = model(ids).logits
        with torch.autocast(device.type, torch.bfloat16):
            rough = model(ids).logits
    assert (rough.float() - exact).norm() / exact.norm() < 0.1


def test_training_under_bf16_autocast(rng):
    model = tiny_model().train()
    ids = random_ids(rng, 2, 40)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(ids, labels=ids).loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def logits_and_gradients(model, ids, mask, precision):
    """Logits and all gradients of a masked model, on the CPU in float32."""
    model.zero_grad()
    with torch.autocast(ids.device.type, precision, enabled=precision != torch.float32):
        output = model(ids, mask, labels=ids)
    output.loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    return output.logits.detach().float().cpu(), gradients.float().cpu()


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)]
)
def test_devices_and_precisions_agree(device, precision, tolerance, behaviour, rng):
    """Random windows of real yeast sequence, against the CPU in float32."""
    if device.type == "cpu" and precision == torch.float32:
        pytest.skip("this is what the others are compared with")
    # Keys of 8 channels can be so short that their normalisation magnifies rounding.
    model = tiny_model(head_dim=32, **behaviour)
    genome = Genome.open(Path(__file__).parents[2] / "data/sacCer3/sacCer3.fa.gz")
    windows = [genome.fetch("chrIV", s, s + 70) for s in rng.integers(1e6, size=4)]
    ids = torch.from_numpy(np.stack(windows)).long()
    mask = torch.ones_like(ids)
    mask[0, :20], mask[1, 50:] = 0, 0
    expected = logits_and_gradients(model, ids, mask, torch.float32)
    found = logits_and_gradients(
        model.to(device), ids.to(device), mask.to(device), precision
    )
    keep = mask.bool()
    for one, other in ((found[0][keep], expected[0][keep]), (found[1], expected[1])):
        assert (one - other).norm() / other.norm() < tolerance


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_no_host_synchronisation(rng):
    model = tiny_model().cuda()
    ids = random_ids(rng, 2, 50).cuda()
    mask = torch.ones_like(ids)
    with torch.no_grad():
        model(ids, mask)  # kernels compile
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(ids, mask)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1, 0, 1, 1]], "has gaps"),
        ([[0, 0, 0, 0, 0]], "marks no base"),
        ([[1, 1, 1, 1]], "does not fit"),
    ],
)
def test_bad_masks(mask, message):
    ids = torch.zeros(1, 5, dtype=torch.long)
    with pytest.raises(CrossDNAError, match=message):
        tiny_model()(ids, torch.tensor(mask))


def test_no_bases():
    with pytest.raises(CrossDNAError, match="with bases"):
        tiny_model()(torch.zeros(1, 0, dtype=torch.long))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"d_model": -1}, "d_model must be positive"),
        ({"block_size": 0}, "block_size must be positive"),
        ({"d_model": 36}, "multiple of twice"),
        ({"dropout": 1.5}, "dropout must lie"),
        ({"strand_alignment": "both"}, "not one of locus, sequence"),
        ({"block_context": "none"}, "not one of recurrent, independent"),
    ],
)
def test_bad_configurations(setting, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**setting)


@pytest.mark.parametrize(
    ("problem", "labels", "settings"),
    [
        ("single_label_classification", torch.tensor([0, 2]), {}),
        ("multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 1, 1]]), {}),
        ("regression", torch.ones(2, 3), {"problem_type": "regression"}),
    ],
)
def test_sequence_heads(problem, labels, settings, rng):
    model = tiny_model(CrossDNAForSequenceClassification, num_labels=3, **settings)
    output = model(random_ids(rng, 2, 20), labels=labels)
    assert output.logits.shape == (2, 3)
    assert model.config.problem_type == problem
    assert output.loss > 0


def test_a_float64_network_computes_its_decays_in_float64(rng, monkeypatch):
    given = []

    def recorded(*operands, **options):
        given.append(operands[3:])
        return delta_rule(*operands, **options)

    monkeypatch.setattr("crossdna.models.crossdna.layers.delta_rule", recorded)
    tiny_model().double()(random_ids(rng, 1, 20))
    log_decay, beta, feedback, _correction = given[0]
    for x in (log_decay, beta, feedback):
        assert x.dtype == torch.float64
        # Numbers of float32 would come back from it unchanged.
        assert not torch.equal(x.float().double(), x)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [96, 100, 31])
def test_blocks_read_in_one_go_give_the_same(rng, monkeypatch, length, padded):
    """A GPU reads a strand whole; only the bridge works block by block."""
    model = tiny_model(block_size=32).double()
    ids = random_ids(rng, 3, length)
    mask = None
    if padded:
        mask = torch.ones_like(ids)
        mask[1, length // 3 :] = 0
        mask[2, : length // 2] = 0
    results = []
    for joined in (False, True):
        monkeypatch.setattr(streams, "joins_blocks", lambda device, use=joined: use)
        model.zero_grad()
        output = model(ids, mask, output_hidden_states=True, output_branches=True)
        output.logits.square().sum().backward()
        results.append((output, [p.grad.clone() for p in model.parameters()]))
    (one, slow), (other, fast) = results
    real = torch.ones_like(ids).bool() if mask is None else mask.bool()
    for name in ("logits", "branch_a", "branch_b", "fusion_logits"):
        torch.testing.assert_close(getattr(one, name)[real], getattr(other, name)[real])
    for layer, same in zip(one.hidden_states, other.hidden_states, strict=True):
        torch.testing.assert_close(layer[real], same[real])
    if not padded:
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_a_strand_that_is_none_is_refused(rng):
    ids = random_ids(rng, 1, 20)
    for ask in (base_log_probabilities, embeddings):
        with pytest.raises(CrossDNAError, match=r"\+, - or both, got 'reverse'"):
            ask(tiny_model(), ids, strand="reverse")


@pytest.mark.parametrize("swap", [False, True])
def test_pieces_end_where_blocks_do(swap, rng):
    model = tiny_model(CrossDNAModel, block_size=16, swap_strands=swap)
    ids = random_ids(rng, 1, 60)
    context = StrandContext(right=ids[:, 20:24])
    with pytest.raises(CrossDNAError, match="a block of 16 bases does, but this one"):
        model(ids[:, :20], context=context)
    model(ids[:, :32], context=context._replace(right=ids[:, 32:36]))
    model(ids[:, 32:], context=StrandContext(left=ids[:, 28:32], first_block=2))
