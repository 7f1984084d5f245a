"""Put what speed.py measured into docs/speed.md: its tables and its figure.

    python benchmarks/speed_report.py

Tables stand between the marks ``<!-- speed-DEVICE -->`` and ``<!-- end -->``; the
figure is docs/speed.svg. Numbers come from benchmarks/results/speed-DEVICE.json alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib
from machine import RESULTS

from crossdna.files import atomic_open

DOCS = RESULTS.parents[1] / "docs"
DEVICES = ("cpu-zen5", "cpu-zen4", "cpu-zen3", "cuda")
HEAD = (
    "| model | mode | precision | bases | bases/s | of matmul | of bandwidth | memory |"
)
RULE = "|---|---|---|---|---|---|---|---|"


def load(device):
    path = RESULTS / f"speed-{device}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def markdown(results):
    """The machine in a line, and a table of all rows."""
    machine = results["machine"]
    device = machine["gpu"] or (
        f"{machine['threads']} threads of {machine['processor']} "
        f"({machine['cpu_capability']})"
    )
    lines = [
        f"{device}, torch {machine['torch']}, commit {machine['commit']}, "
        f"{machine['date'][:10]}.",
        "",
        HEAD,
        RULE,
    ]
    for row in results["rows"]:
        shares = (row.get(f"share_of_{name}") for name in ("matmul", "bandwidth"))
        cells = [
            row["model"],
            row["mode"],
            row["dtype"],
            f"{row['length']:,}",
            f"{row['bases_per_second']:,.0f}",
            *("" if share is None else f"{share:.0%}" for share in shares),
            f"{row['peak_memory_bytes'] / 1e9:.2f} GB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def insert(text, device, table):
    """Replace what stands between a device's marks."""
    pattern = rf"(<!-- speed-{device} -->\n).*?(\n<!-- end -->)"
    return re.sub(pattern, lambda m: m[1] + table + m[2], text, flags=re.DOTALL)


def draw(measured, path):
    """Time per base against length, one panel for each device."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "crossdna"
    columns = min(2, len(measured))
    down = -(-len(measured) // columns)
    size = (5 * columns, 3.4 * down + 1)
    figure, axes = pyplot.subplots(
        down, columns, figsize=size, squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(measured) :]:
        axis.set_axis_off()
    rows = [row for results in measured.values() for row in results["rows"]]
    models = sorted({row["model"] for row in rows if row["mode"] == "forward"})
    handles = {}
    for axis, (device, results) in zip(axes.flat, measured.items(), strict=False):
        lines = {}
        for row in results["rows"]:
            if row["mode"] == "forward":
                point = (row["length"], 1e6 / row["bases_per_second"])
                lines.setdefault((row["model"], row["dtype"]), []).append(point)
        for (model, dtype), points in lines.items():
            style = "-o" if dtype == "float32" else "--s"
            color = f"C{models.index(model)}"
            label = f"{model}, {dtype}"
            x, y = zip(*sorted(points), strict=True)
            (handles[label],) = axis.loglog(x, y, style, c=color, label=label)
        axis.set(xlabel="bases in a sequence", ylabel="microseconds a base")
        axis.set_title(
            results["machine"]["gpu"]
            or f"CPU ({device.removeprefix('cpu-')}), 2 threads"
        )
        axis.grid(alpha=0.3)
        label_plainly(axis)
    shown = dict(sorted(handles.items()))
    figure.legend(
        shown.values(), shown, loc="outside lower center", ncols=3, frameon=False
    )
    figure.savefig(path, metadata={"Date": None})


def label_plainly(axis):
    """Ticks in numbers as they are written: 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    written = FuncFormatter(lambda value, _: f"{value:,.10g}")
    axis.xaxis.set_major_formatter(written)
    axis.xaxis.set_minor_locator(NullLocator())
    low, high = axis.get_ylim()
    # Panels that span less than a power of ten have room for more.
    subs = (1, 2, 5) if high / low > 10 else (1, 2, 3, 4, 5, 6, 8)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(written)
    axis.yaxis.set_minor_formatter(NullFormatter())


def main():
    measured = {device: load(device) for device in DEVICES}
    measured = {device: results for device, results in measured.items() if results}
    path = DOCS / "speed.md"
    text = path.read_text()
    for device, results in measured.items():
        text = insert(text, device, markdown(results))
    with atomic_open(path) as handle:
        handle.write(text)
    draw(measured, Path(DOCS / "speed.svg"))
    print(path)


if __name__ == "__main__":
    main()
