"""What an answer must not depend on: batch, padding, pieces, strand, precision."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch.nn import functional as F

from crossdna import alphabet
from crossdna.analysis.doctor.check import Check, within
from crossdna.analysis.inference import asking, base_log_probabilities
from crossdna.analysis.tracks.stream import Sequence, Streamer, can_stream
from crossdna.models.record import answer, hides, is_language_model, question

if TYPE_CHECKING:
    from torch import Tensor

    from crossdna.alphabet import Strand
    from crossdna.models.record import Record

# Float32 through a deep network, relative to the size of the answer.
_ROUNDING: Final = 1e-4
_STATES: Final = ("cache", "past_key_values", "cache_params")
"""What transformers calls a kept state: since 5.24, and before of attention, Mamba."""
# A record was written on another machine, perhaps with another torch.
_RECORD: Final = 1e-3
# bfloat16 has 8 bits: predicted probabilities may move by two in a hundred on average.
_BF16: Final = 0.02
_BF16_RELATIVE: Final = 0.1


def check_record(model: Any, record: Record) -> Check:
    """Ask again what was asked when the checkpoint was written."""
    said = answer(model, question(model, record.sequence))[0].cpu()
    then = torch.tensor(record.answer).reshape_as(said)
    return within("answers as recorded", _apart(said, then), _RECORD, "same question")


def check_batch(model: Any, sequences: list[str]) -> Check:
    """Each sequence alone, and all of them together."""
    asked = torch.cat([question(model, text) for text in sequences])
    together = answer(model, asked)
    alone = torch.cat([answer(model, row[None]) for row in asked])
    detail = f"{len(asked)} sequences together and alone"
    return within("batch", _apart(together, alone), _ROUNDING, detail)


def check_padding(model: Any, sequences: list[str], *, side: str) -> Check:
    """A short sequence beside a long one, padded on a side behind its mask."""
    long, short = (question(model, text) for text in sequences[:2])
    size = long.shape[1] // 3
    short = short[:, : long.shape[1] - size]
    pads = (0, size) if side == "right" else (size, 0)
    ids = torch.cat([long, F.pad(short, pads, value=alphabet.PAD)])
    said = answer(model, ids, (ids != alphabet.PAD).long())[1]
    alone = answer(model, short)[0]
    if said.dim() == 2:
        first = pads[0]
        said = said[first : first + short.shape[1]]
    detail = f"{size} pads on the {side}"
    return within(f"padding {side}", _apart(said, alone), _ROUNDING, detail)


def check_pieces(model: Any, sequence: str) -> Check:
    """A sequence read in pieces that hand on their state, and read whole."""
    ids = question(model, sequence)
    if can_stream(model):
        return _crossdna_pieces(model, ids)
    net = getattr(getattr(model, "network", None), "net", None)
    if not type(model).__name__.endswith("ForCausalLM") or net is None:
        return Check("pieces", "skip", "this family hands nothing on between pieces")
    tokens = model.network.tokens(ids).input_ids
    with asking(net):
        whole = net(input_ids=tokens).logits[:, -1]
        first = net(input_ids=tokens[:, :-1], use_cache=True)
        name = next(name for name in _STATES if hasattr(first, name))
        kept = {name: getattr(first, name), "use_cache": True}
        last = net(input_ids=tokens[:, -1:], **kept).logits[:, -1]
    detail = "the last token after a kept state"
    return within("pieces", _apart(last, whole), _ROUNDING, detail)


def _crossdna_pieces(model: Any, ids: Tensor) -> Check:
    network = model.base_model
    block = network.config.block_size
    # Three blocks and a bit, so that state crosses from both sides.
    row = ids[0].repeat(1 + 3 * block // ids.shape[1])[: 3 * block + 5]
    bases = row.cpu().numpy().astype(np.uint8)
    sequence = Sequence(len(bases), lambda start, end: bases[start:end])
    with tempfile.TemporaryDirectory(prefix="crossdna-doctor-") as folder:
        pieces = Streamer(network, block, Path(folder)).read(sequence, "sequence")
        parts = []
        for _, hidden, keep in pieces:
            parts.append(hidden)
            keep()
    with asking(network):
        whole = network(row[None]).last_hidden_state
    detail = f"{len(parts)} pieces of {block} bases and the whole"
    return within("pieces", _apart(torch.cat(parts, 1), whole), _ROUNDING, detail)


def check_strands(model: Any, sequence: str) -> list[Check]:
    """How far the strands differ, and whether averaging makes them the same."""
    if not is_language_model(model) or not getattr(
        model, "gives_base_probabilities", True
    ):
        return [Check("strands", "skip", "no probabilities of bases to compare")]
    if not hides(model):
        return [Check("strands", "skip", "a causal model reads one direction only")]
    ids = question(model, sequence)
    other = alphabet.complement_ids(ids).flip(1)
    checks = []
    read: tuple[Strand, ...] = ("+", "both")
    for strand in read:
        ahead = base_log_probabilities(model, ids, strand=strand).exp()
        back = base_log_probabilities(model, other, strand=strand).exp()
        apart = float((ahead - back.flip(1, 2)).abs().max())
        if strand == "both":
            detail = "largest difference in probability, averaged over strands"
            checks.append(within("strand error", apart, _ROUNDING, detail))
        else:
            detail = "largest difference in probability, forward only"
            checks.append(Check("strands, one pass", "note", detail, apart))
    return checks


def check_bf16(model: Any, sequence: str) -> Check:
    """The same question under bfloat16 autocast."""
    ids = question(model, sequence)
    exact = answer(model, ids)
    with torch.autocast(ids.device.type, torch.bfloat16):
        rough = answer(model, ids)
    return _reduced("bfloat16", model, rough, exact)


def check_gpu(model: Any, sequence: str) -> list[Check]:
    """The same question on the CPU and on the GPU, there in bfloat16 too."""
    if not torch.cuda.is_available():
        return [Check("CPU = GPU", "skip", "no CUDA device here")]
    here = copy.deepcopy(model).cpu()
    exact = answer(here, question(here, sequence))
    there = copy.deepcopy(model).cuda()
    ids = question(there, sequence)
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    allowed = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        found = answer(there, ids).cpu()
    finally:
        for switch, before in zip(switches, allowed, strict=True):
            switch.allow_tf32 = before
    with torch.autocast("cuda", torch.bfloat16):
        rough = answer(there, ids).cpu()
    return [
        within("CPU = GPU", _apart(found, exact), _RECORD, "float32"),
        _reduced("GPU bfloat16", model, rough, exact),
    ]


def _reduced(name: str, model: Any, rough: Tensor, exact: Tensor) -> Check:
    if is_language_model(model) and exact.shape[-1] == alphabet.NUM_BASES:
        moved = (rough.exp() - exact.exp()).abs().sum(-1).mean() / 2
        detail = "mean shift of predicted probability"
        return within(name, float(moved), _BF16, detail)
    moved = (rough - exact).norm() / exact.norm()
    return within(name, float(moved), _BF16_RELATIVE, "relative change of the answer")


def _apart(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the larger of 1 and the answer's size."""
    one, other = one.float().cpu(), other.float().cpu()
    return float((one - other).abs().max() / other.abs().max().clamp(min=1))
