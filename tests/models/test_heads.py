"""Heads: padding changes nothing, positions count where they should, errors."""

from types import SimpleNamespace

import pytest
import torch

from crossdna import alphabet
from crossdna.errors import CrossDNAError
from crossdna.models.heads import (
    POOLINGS,
    MotifDetectors,
    SequenceHead,
    StrandMotifs,
)


def config_of(pooling, length=20, motifs=0):
    return SimpleNamespace(
        hidden_size=16,
        num_labels=3,
        head_pooling=pooling,
        head_length=length if pooling == "position" else None,
        head_dropout=0.0,
        head_motifs=motifs,
        head_width=motifs,
    )


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("motifs", [0, 6])
def test_a_padded_sequence_gets_what_it_gets_alone(pooling, side, motifs):
    torch.manual_seed(0)
    head = SequenceHead(config_of(pooling, motifs=motifs)).eval()
    lengths = [20, 13, 1]
    hidden, ids = torch.randn(3, 20, 16), torch.randint(0, 4, (3, 20))
    mask = torch.zeros(3, 20, dtype=torch.bool)
    padded = torch.randn(3, 20, 16) * 100
    # Whatever stands where there is no base must not be read.
    batch = torch.randint(0, 4, (3, 20))
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(20 - length, 20)
        mask[row, place] = True
        padded[row, place] = hidden[row, :length]
        batch[row, place] = ids[row, :length]
    together = head(padded, mask, batch)
    for row, length in enumerate(lengths):
        part = slice(row, row + 1)
        alone = head(hidden[part, :length], None, ids[part, :length])
        torch.testing.assert_close(together[row : row + 1], alone)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("motifs", [0, 6])
def test_gradients_reach_every_parameter(pooling, motifs):
    torch.manual_seed(0)
    head = SequenceHead(config_of(pooling, motifs=motifs))
    ids = torch.randint(0, 4, (4, 20))
    head(torch.randn(4, 20, 16), None, ids).square().sum().backward()
    for name, parameter in head.named_parameters():
        if name == "pooling.score.bias":
            continue  # A constant added to all scores changes no softmax.
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_motif_is_found_wherever_it_stands_and_n_is_none():
    detectors = MotifDetectors(2)
    wanted = torch.tensor([0, 2, 3])
    with torch.no_grad():
        detectors.motifs.weight.zero_()
        detectors.motifs.bias.fill_(-2.5)
        middle = torch.arange(5, 8)
        detectors.motifs.weight[0, wanted, middle] = 1.0
    ids = torch.full((1, 12), alphabet.N)
    ids[0, 4:7] = wanted
    found = detectors(ids, None)[0, :, 0]
    # The filter's middle tap, 6 of 13, stands on the motif's second base.
    assert found.nonzero().tolist() == [[5]]


def test_motifs_count_alike_on_either_strand():
    torch.manual_seed(0)
    summary = StrandMotifs(6)
    ids = torch.randint(0, 5, (3, 20))
    turned = alphabet.complement_ids(ids).flip(1)
    torch.testing.assert_close(summary(ids, None), summary(turned, None))
    assert not torch.allclose(summary(ids, None), summary(ids.flip(1), None))


def test_only_the_position_head_sees_the_order():
    hidden = torch.randn(2, 20, 16)
    turned = hidden.flip(1)
    for pooling in POOLINGS:
        head = SequenceHead(config_of(pooling)).eval()
        same = torch.allclose(head(hidden, None), head(turned, None), atol=1e-5)
        assert same == (pooling != "position")


def test_errors():
    with pytest.raises(CrossDNAError, match=r"'median' is not one of mean, max_mean"):
        SequenceHead(config_of("median"))
    with pytest.raises(CrossDNAError, match="needs head_length"):
        SequenceHead(config_of("position", length=None))
    head = SequenceHead(config_of("position", length=8))
    with pytest.raises(CrossDNAError, match=r"a sequence of 9 bases, but .* for 8"):
        head(torch.randn(1, 9, 16), None)
    mask = torch.ones(1, 9)
    mask[0, 8] = 0
    assert head(torch.randn(1, 9, 16), mask).shape == (1, 3)
