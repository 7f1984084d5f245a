"""Peak memory of `crossdna track` on contigs of growing length.

    python benchmarks/track_memory.py --work runs/track-memory \
        --genome ../shared/data/genomes/ce10_chrIII_chrM.fa.gz --contig chrIII \
        --lengths 1000000 4000000 13783700 -- --zooms 0 --mask-spacing 0

Each length is the beginning of the contig, read by a process of its own whose peak
resident memory the kernel reports. A run that was killed goes on where it ended: its
tracks from their own place, its peak from what earlier parts of it reached. Options
behind `--` go to `crossdna track`.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="weights/crossdna-small")
    parser.add_argument("--genome", type=Path, required=True, help="FASTA, gzipped")
    parser.add_argument("--contig", required=True)
    parser.add_argument("--lengths", type=int, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True, help="tracks and progress")
    parser.add_argument("track", nargs="*", help="options of crossdna track")
    return parser.parse_args()


def beginning(path, contig, length):
    """The first bases of a contig."""
    found, parts, size = False, [], 0
    with gzip.open(path, "rt") as handle:
        for line in handle:
            if line.startswith(">"):
                found = line[1:].split()[0] == contig
            elif found:
                parts.append(line.strip())
                size += len(parts[-1])
            if size >= length:
                break
    letters = "".join(parts)[:length]
    if len(letters) < length:
        raise SystemExit(f"{path}: {contig} has {len(letters)} bases, not {length}")
    return letters


def measure(options, length):
    """Track one length to its end; gives its row, or the one that is kept."""
    folder = options.work / str(length)
    row_file, parts_file = folder / "row.json", folder / "parts.json"
    if row_file.exists():
        return json.loads(row_file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    fasta = folder / "contig.fa"
    if not fasta.exists():
        letters = beginning(options.genome, options.contig, length)
        fasta.write_text(f">{options.contig}\n{letters}\n")
    parts = json.loads(parts_file.read_text()) if parts_file.exists() else []
    command = [sys.executable, "-m", "crossdna", "track", *options.track]
    command += ["--model", options.model, "--genome", str(fasta)]
    command += ["--output", str(folder / "tracks"), "--device", "cpu"]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    # The kernel's own account of this one process. It begins with what is resident
    # here, so nothing large may be imported before.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    parts.append({"peak_mb": usage.ru_maxrss / 1024, "seconds": seconds})
    parts_file.write_text(json.dumps(parts))
    if status:
        raise SystemExit(f"ended with status {status}; run again to go on")
    row = {
        "bases": length,
        "peak_mb": round(max(part["peak_mb"] for part in parts)),
        "parts": len(parts),
        "seconds": round(sum(part["seconds"] for part in parts)),
    }
    row_file.write_text(json.dumps(row))
    return row


def main():
    options = parse()
    rows = []
    for length in options.lengths:
        rows.append(measure(options, length))
        print(json.dumps(rows[-1]), flush=True)
    from machine import save_results

    print(save_results("track-memory", rows, track_options=" ".join(options.track)))


if __name__ == "__main__":
    main()
