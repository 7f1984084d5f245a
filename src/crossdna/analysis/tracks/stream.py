"""A sequence of any length through CrossDNA in flat memory, with what it carries.

The reverse stream comes from the right and the forward stream from the left. So a
sequence is swept once from right to left for the reverse states at the ends of its
pieces, which go to the disk, and then read piece by piece from left to right. Both end
where they were when a run was killed. Whatever the size of the pieces, a base gets what
it gets when the whole sequence is read at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crossdna import alphabet
from crossdna.analysis.inference import asking
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open, atomic_path
from crossdna.models.crossdna import CrossDNAModel, StrandContext
from crossdna.models.crossdna.layers import LayerState
from crossdna.models.crossdna.modeling import STEM_REACH
from crossdna.models.crossdna.streams import reads_at_once
from crossdna.ops.window_attention import WindowCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from crossdna.models.crossdna.layers import BranchState

    # Ids of a stretch, from start to end, both within the sequence.
    Fetch = Callable[[int, int], NDArray[np.uint8]]


def can_stream(model: Any) -> bool:
    """Whether a model reads pieces of a sequence as it reads the whole."""
    network = model.base_model
    return (
        isinstance(network, CrossDNAModel)
        and network.config.block_size is not None
        and network.config.strand_alignment == "locus"
    )


@dataclass
class Sequence:
    """A sequence that is read in pieces.

    Attributes
    ----------
    length : int
    fetch : callable
        Gives the ids (as they shall be read) from a start to an end.
    """

    length: int
    fetch: Fetch

    def tensor(self, start: int, end: int, device: torch.device) -> Tensor:
        """Ids (1, length) from `start` to `end`, cut off where the sequence ends."""
        start, end = max(0, start), min(end, self.length)
        return torch.from_numpy(self.fetch(start, end).astype(np.int64))[None].to(
            device
        )


class Streamer:
    """Reads one sequence and keeps its place on the disk.

    Parameters
    ----------
    model
        A CrossDNA for which `can_stream` holds.
    piece
        Bases read at once, rounded up to whole blocks of the model.
    folder
        For states; nothing else may write there.

    Raises
    ------
    CrossDNAError
        A model that cannot be streamed.
    """

    def __init__(self, model: Any, piece: int, folder: Path) -> None:
        if not can_stream(model):
            raise CrossDNAError(
                "only a CrossDNA with blocks and strand_alignment 'locus' is streamed"
            )
        self.network: CrossDNAModel = model.base_model
        self.block: int = self.network.config.block_size
        self.piece = -(-max(1, piece) // self.block) * self.block
        self.folder = folder

    def read(
        self, sequence: Sequence, name: str
    ) -> Iterator[tuple[int, Tensor, Callable[[], None]]]:
        """Read what has not been read yet, from left to right.

        Parameters
        ----------
        name
            Of this sequence among those whose states are in the folder.

        Yields
        ------
        start : int
            Of the piece.
        hidden : (1, length, d_model)
        keep : callable
            To be called when everything that comes of the piece is on the disk: the
            next run starts behind it.
        """
        starts = range(0, sequence.length, self.piece)
        done = self._place(name)
        if done == len(starts):
            return
        self._sweep(sequence, name, len(starts), done)
        state = self._load(name, "forward", done) if done else None
        for number in range(done, len(starts)):
            start = starts[number]
            end = min(start + self.piece, sequence.length)
            with asking(self.network):
                output = self._read_piece(sequence, name, number, start, end, state)
            state = output.context.forward

            def keep(number: int = number, state: Any = state) -> None:
                self._save(name, "forward", number + 1, state)
                self._set_place(name, number + 1)
                for kind, old in (("forward", number), ("reverse", number)):
                    self._file(name, kind, old).unlink(missing_ok=True)

            yield start, output.last_hidden_state, keep

    def _read_piece(
        self,
        sequence: Sequence,
        name: str,
        number: int,
        start: int,
        end: int,
        state: BranchState | None,
    ) -> Any:
        device = self.network.device
        last = end == sequence.length
        context = StrandContext(
            forward=state,
            reverse=None if last else self._load(name, "reverse", number),
            left=sequence.tensor(start - STEM_REACH, start, device),
            right=sequence.tensor(end, end + STEM_REACH, device),
            first_block=start // self.block,
        )
        ids = sequence.tensor(start, end, device)
        return self.network(ids, context=context)

    def _sweep(self, sequence: Sequence, name: str, pieces: int, done: int) -> None:
        """Save the reverse state at the right end of every piece still to be read."""
        missing = [
            number
            for number in range(done, pieces - 1)
            if not self._file(name, "reverse", number).exists()
        ]
        if not missing:
            return
        # States are saved from right to left, so the leftmost one there is the last.
        number = missing[-1] + 1
        state = None
        if number < pieces - 1:
            state = self._load(name, "reverse", number)
        while number > missing[0]:
            start = number * self.piece
            end = min(start + self.piece, sequence.length)
            with asking(self.network):
                state = self._read_reverse(sequence, start, end, state)
            number -= 1
            self._save(name, "reverse", number, state)

    def _read_reverse(
        self, sequence: Sequence, start: int, end: int, state: BranchState | None
    ) -> BranchState | None:
        """Read a piece on the reverse strand only, for the state at its left end."""
        network, device = self.network, self.network.device
        whole = reads_at_once(network.config, device)
        size = end - start if whole else self.block
        for low in reversed(range(start, end, size)):
            high = min(low + size, end)
            features = network.features_reverse(
                sequence.tensor(low, high, device),
                sequence.tensor(low - STEM_REACH, low, device),
                sequence.tensor(high, high + STEM_REACH, device),
            )
            swapped = not network.config.a_reads_forward(low // self.block)
            branch = network.branch_a if swapped else network.branch_b
            _, state = branch(features.flip(1), None, state)
            if network.config.block_context != "recurrent":
                state = None
        return state

    def _place(self, name: str) -> int:
        """How many pieces are finished."""
        file = self.folder / f"{name}.place.json"
        return int(json.loads(file.read_text())) if file.exists() else 0

    def _set_place(self, name: str, number: int) -> None:
        with atomic_open(self.folder / f"{name}.place.json") as handle:
            json.dump(number, handle)

    def _file(self, name: str, kind: str, number: int) -> Path:
        return self.folder / f"{name}.{kind}-{number:06d}.pt"

    def _save(
        self, name: str, kind: str, number: int, state: BranchState | None
    ) -> None:
        tensors = [
            [layer.conv, layer.delta, layer.window.keys, layer.window.values]
            for layer in state or ()
        ]
        file = self._file(name, kind, number)
        with atomic_path(file) as temporary:
            try:
                torch.save(tensors, temporary)
            except RuntimeError as error:
                # So torch reports a failed write.
                raise CrossDNAError(
                    f"cannot write {file}: {str(error).splitlines()[0]}; when there is "
                    "space, give the same command again"
                ) from error

    def _load(self, name: str, kind: str, number: int) -> BranchState | None:
        layers = torch.load(
            self._file(name, kind, number),
            map_location=self.network.device,
            weights_only=True,
        )
        if not layers:
            return None
        return tuple(
            LayerState(conv, delta, WindowCache(keys, values, None))
            for conv, delta, keys, values in layers
        )


def masked_sequence(
    fetch: Fetch, length: int, *, spacing: int, rest: int
) -> tuple[Sequence, Callable[[int, int], NDArray[np.bool_]]]:
    """Hide every `spacing`-th base, those whose position leaves `rest`; N stays.

    Returns
    -------
    sequence : Sequence
        Shown to the model; with spacing 0 nothing is hidden.
    wanted : callable
        From a start and an end, which bases (length,) are predicted.
    """

    def wanted(start: int, end: int) -> NDArray[np.bool_]:
        bases = fetch(start, end) < alphabet.NUM_BASES
        if not spacing:
            return bases
        return bases & (np.arange(start, end) % spacing == rest)

    def masked(start: int, end: int) -> NDArray[np.uint8]:
        ids = fetch(start, end)
        if not spacing:
            return ids
        return np.where(wanted(start, end), np.uint8(alphabet.MASK), ids)

    return Sequence(length, masked), wanted
