"""A run's newest checkpoint as a few small files, and back again.

    python benchmarks/shards.py pack RUN FOLDER      # at most 7 files below 16 MB
    python benchmarks/shards.py unpack FOLDER RUN    # crossdna pretrain ... --resume

For machines that give little back. What the run goes on with after `unpack`:

- weights of the model and of its teachers: float32, exact;
- moments of Adam and sums of Muon: bfloat16, each within 1/256 of what it was. The
  next updates differ from the uninterrupted run's by as much, and the difference is
  forgotten as the moments forget (10 and 1,000 steps; Muon's 20);
- step, schedule, clock, log and random states: exact; the samples and their masks
  depend on the seed and the step alone: they are the uninterrupted run's;
- the best model so far is not kept: the next evaluation finds a new best one.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tarfile
from pathlib import Path

import torch

from crossdna.errors import CrossDNAError
from crossdna.files import atomic_directory, atomic_open
from crossdna.training.checkpoints import checkpoint_path, complete_checkpoints

LIMIT = 15_900_000
"""Bytes in a shard."""
SHARDS = 7
KEPT = ("recipe.toml", "training_log.jsonl")
MOMENTS = frozenset(("exp_avg", "exp_avg_sq", "sum"))
BEST = ("best_metric", "best_model_checkpoint", "best_global_step")


def with_moments(path, dtype):
    """The state in a checkpoint's optimizer.pt, its moments in `dtype`."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    for slot in state["state"].values():
        for name in MOMENTS & slot.keys():
            slot[name] = slot[name].to(dtype)
    return state


def rounded_moments(path):
    """A checkpoint's optimizer.pt with the moments in bfloat16."""
    buffer = io.BytesIO()
    torch.save(with_moments(path, torch.bfloat16), buffer)
    return buffer.getvalue()


def without_best(path):
    """trainer_state.json without the best model that is left behind."""
    state = json.loads(path.read_text()) | dict.fromkeys(BEST)
    return json.dumps(state, indent=1).encode()


CHANGED = {"optimizer.pt": rounded_moments, "trainer_state.json": without_best}


def pack(run, folder):
    """Write the newest checkpoint of `run` into shards; returns their paths."""
    checkpoints = complete_checkpoints(run / "checkpoints")
    if not checkpoints:
        raise CrossDNAError(f"{run} has no whole checkpoint")
    newest = checkpoints[-1]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        files = [run / name for name in KEPT if (run / name).is_file()]
        for path in [*files, *sorted(newest.rglob("*"))]:
            if path.is_file():
                change = CHANGED.get(path.name, Path.read_bytes)
                content = change(path)
                entry = tarfile.TarInfo(str(path.relative_to(run)))
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    data = buffer.getvalue()
    count = -(-len(data) // LIMIT)
    if count > SHARDS:
        raise CrossDNAError(f"{newest} needs {count} shards, {SHARDS} are allowed")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        paths.append(folder / f"run-{i + 1}-of-{count}.part")
        with atomic_open(paths[-1], "wb") as handle:
            handle.write(data[i * LIMIT : (i + 1) * LIMIT])
    return paths


def unpack(folder, run):
    """Make a run directory of shards; returns the checkpoint to resume from."""
    paths = sorted(folder.glob("run-*-of-*.part"))
    if not paths or not paths[0].stem.endswith(f"-of-{len(paths)}"):
        raise CrossDNAError(f"{folder} holds {len(paths)} shards, not all of a run's")
    data = io.BytesIO(b"".join(path.read_bytes() for path in paths))
    run.mkdir(parents=True, exist_ok=True)
    with atomic_directory(run / "unpacked") as partial:
        with tarfile.open(fileobj=data) as archive:
            archive.extractall(partial, filter="data")
        (newest,) = complete_checkpoints(partial / "checkpoints")
        moments = newest / "optimizer.pt"
        torch.save(with_moments(moments, torch.float32), moments)
    target = checkpoint_path(run / "checkpoints", int(newest.name.rpartition("-")[2]))
    target.parent.mkdir(exist_ok=True)
    (run / "unpacked" / "checkpoints" / newest.name).rename(target)
    for name in KEPT:
        if (run / "unpacked" / name).is_file():
            (run / "unpacked" / name).replace(run / name)
    shutil.rmtree(run / "unpacked")
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    packing = verbs.add_parser("pack", help=pack.__doc__)
    packing.add_argument("run", type=Path)
    packing.add_argument("folder", type=Path)
    packing.set_defaults(call=lambda given: pack(given.run, given.folder))
    unpacking = verbs.add_parser("unpack", help=unpack.__doc__)
    unpacking.add_argument("folder", type=Path)
    unpacking.add_argument("run", type=Path)
    unpacking.set_defaults(call=lambda given: unpack(given.folder, given.run))
    arguments = parser.parse_args()
    print(arguments.call(arguments))


if __name__ == "__main__":
    main()
