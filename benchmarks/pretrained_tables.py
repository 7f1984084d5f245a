"""What the cards of shipped weights say, from the files in benchmarks/results."""

from __future__ import annotations

import json

from machine import RESULTS


def read(name):
    """A result, or None where it has not been measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def shown(value):
    """An interval as estimate and half of its width."""
    return f"{value['estimate']:.3f} ± {(value['high'] - value['low']) / 2:.3f}"


def species_table(name):
    """Bits per base and accuracy for each species and class of bases."""
    result = read(f"pretrained-{name}")
    if result is None:
        return ""
    random, isolated = (c["description"] for c in result["rows"][0]["conditions"])
    lines = [
        "Hidden bases of held-out blocks, bits per base (2 is a blind guess); "
        f"{isolated}, so that the model sees as much context as the baselines, but for "
        f"the column with {random}. ± is half of the 95 % bootstrap interval over "
        "windows. Baselines were fitted on the training regions of the same section.",
        "",
        f"| species | bases | model | strands averaged | best Markov | two-sided k-mer "
        f"| accuracy: model | two-sided k-mer | model, {random} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        first, second = row["conditions"]
        hidden = {group["name"]: group["scores"] for group in first["groups"]}
        for group in second["groups"]:
            scores = group["scores"]
            names = list(scores)
            markov, sides = names[-2:]
            cells = [row["species"], f"{group['name']} ({group['positions']:,})"]
            cells += [shown(scores[n]["bits"]) for n in names[:2]]
            cells += [f"{shown(scores[markov]['bits'])} (order {markov.split('-')[1]})"]
            cells += [shown(scores[sides]["bits"])]
            cells += [shown(scores[n]["accuracy"]) for n in ("model", sides)]
            also = hidden.get(group["name"])
            cells += [shown(also["model"]["bits"]) if also else ""]
            lines.append("| " + " | ".join(cells) + " |")
    strands = [
        f"{row['species']} {row['strands']['single']['estimate']:.3f}"
        for row in result["rows"]
    ]
    lines += [
        "",
        "Mean difference between the probabilities from the two strands: "
        f"{', '.join(strands)}; none with strand averaging.",
        "",
    ]
    return "\n".join(lines)


def context_table(name):
    """Bits per base gained by longer context."""
    result = read(f"context-{name}")
    if result is None:
        return ""
    lengths = list(dict.fromkeys(row["length"] for row in result["rows"]))
    lines = [
        "Bits per base gained over a context of 256 bases, on the same hidden bases "
        "(95 % interval at the longest):",
        "",
        "| species | model | " + " | ".join(f"{n:,}" for n in lengths[1:]) + " | |",
        "|---|---|" + "---|" * len(lengths),
    ]
    kinds = dict.fromkeys((row["species"], row["model"]) for row in result["rows"])
    for species, model in kinds:
        rows = [
            row
            for row in result["rows"]
            if (row["species"], row["model"]) == (species, model)
        ]
        gains = [f"{row['gain']['estimate']:+.4f}" for row in rows[1:]]
        last = rows[-1]["gain"]
        ends = f"{last['low']:+.4f} to {last['high']:+.4f}"
        lines.append(f"| {species} | {model} | {' | '.join(gains)} | {ends} |")
    return "\n".join([*lines, ""])


def _read(rows):
    """Which layer probes read; rows from before they chose have read the last."""
    if rows[0]["kind"] != "probe":
        return ""
    if "layers" not in rows[0]:
        return " (the last layer of either network)"
    return " (of either network the layer that does best on the development set)"


def _spread(rows):
    """What intervals are over; results made before seeds were part of it do not say."""
    alone = "test rows alone"
    over = {row.get("resampled", alone) for row in rows if row["seeds"] > 1}
    if over == {"rows and seeds"}:
        single = any(row["seeds"] == 1 for row in rows)
        return "over test rows and seeds" + (f"; of one seed {alone}" if single else "")
    return f"over {alone}"


def _mean_gain(means):
    """The gain over all tasks."""
    return "".join(
        f" Mean gain over the {mean['tasks']} tasks: {mean['gain']['estimate']:+.3f} "
        f"({mean['gain']['low']:+.3f} to {mean['gain']['high']:+.3f})."
        for mean in means
    )


def downstream_table(name):
    """Tasks: pretrained against random start and baselines."""
    result = read(f"downstream-{name}")
    if result is None:
        return ""
    lines = []
    for kind, title in (
        ("probe", "A linear classifier on frozen embeddings"),
        ("finetune", "The whole network fine-tuned"),
    ):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        if not rows:
            continue
        if epochs := rows[0].get("epochs"):
            title += f" for {epochs} epochs"
        better = sum(row["gain"]["low"] > 0 for row in rows)
        above = sum(row["gain"]["estimate"] > 0 for row in rows)
        means = [row for row in result.get("means", []) if row["kind"] == kind]
        lines += [
            f"{title}{_read(rows)}: MCC on test rows, mean over seeds. Pretrained is "
            f"above the random start on {above} of {len(rows)} tasks, on {better} "
            f"with a 95 % interval above zero ({_spread(rows)}).{_mean_gain(means)}",
            "",
            "| task | train rows | seeds | pretrained | random start | gain (95 %) | "
            "k-mer baseline |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            gain = row["gain"]
            lines.append(
                f"| {row['task']} | {row['train_rows']:,} | {row['seeds']} | "
                f"{row['pretrained']:.3f} | "
                f"{row['random']:.3f} | {gain['estimate']:+.3f} ({gain['low']:+.3f} to "
                f"{gain['high']:+.3f}) | {row['kmer']:.3f} |"
            )
        lines.append("")
    return "\n".join(lines)
