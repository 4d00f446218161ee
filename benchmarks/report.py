"""A study's results as a table for the terminal and one self-contained HTML page with its plots. Runs nothing."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from train.metrics import read_rows

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

COLOURS = {"pretrained": "#1b6ca8", "scratch": "#c8553d", "linear": "#6b705c"}
Row = dict[str, Any]


def groups(rows: Sequence[Row]) -> dict[tuple[str, int, str], list[Row]]:
    """Rows by (task, labels, init), in the order they stand."""
    grouped: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((row["task"], row["labels"], row["init"]), []).append(row)
    return grouped


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds.

    >>> spread([0.5, 0.7])
    '0.600 ±.141'
    """
    return f"{mean(values):.3f}" + (f" ±{stdev(values):.3f}".replace("±0.", "±.") if len(values) > 1 else "")


def reached(rows: Sequence[Row], key: str, form: str) -> str:
    """Mean over seeds of when scratch's best was reached; says in how many seeds if not in all."""
    values = [row[key] for row in rows if row[key] is not None]
    if not values:
        return "never"
    return form.format(mean(values)) + (f" ({len(values)}/{len(rows)})" if len(values) < len(rows) else "")


def results_table(rows: Sequence[Row]) -> Table:
    """One line per task, number of labels and initialisation."""
    table = Table(
        title="Test score, mean ± deviation over seeds. gain: points over scratch. gap: points from train to "
        "eval score. steps, seconds: until scratch's best eval score is reached. linear: TF-IDF and a linear model.",
        title_justify="left",
        title_style="",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name in ("task", "labels", "init"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "gain", "gap", "steps", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    grouped, last = groups(rows), None
    for (task, labels, init), some in grouped.items():
        if last is not None and (task, labels) != last:
            table.add_section()
        last = (task, labels)
        scratch = mean(r["score"] for r in grouped[task, labels, "scratch"])
        gain = "" if init == "scratch" else f"{100 * (mean(r['score'] for r in some) - scratch):+.1f}"
        linear = "curve" not in some[0]
        table.add_row(
            task,
            str(labels) if labels else "all",
            init,
            spread([r["score"] for r in some]),
            gain,
            "" if linear else f"{100 * mean(r['train_score'] - r['eval_score'] for r in some):.1f}",
            "" if linear else reached(some, "steps", "{:.0f}"),
            "" if linear else reached(some, "seconds", "{:.1f}"),
        )
    return table


def write_report(rows: Sequence[Row], workdir: Path) -> None:
    """`report.html` in the study's folder; every picture is inside the file."""
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(results_table(rows))
    table = console.export_html(inline_styles=True, code_format="<pre style='font-size:13px'>{code}</pre>")
    figures = [("Pretraining", _pretraining(workdir / "pretrain"))]
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        figures.append((f"{task}: score by number of labels", _label_efficiency(mine)))
        figures.append((f"{task}: learning curves on the eval split", _learning_curves(mine)))
    body = "".join(f"<h2>{html.escape(title)}</h2>{_inline(figure)}" for title, figure in figures)
    page = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>What the hand-off gains</title><style>"
        "body{font-family:system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}"
        "img{max-width:100%}pre{overflow-x:auto}</style></head><body><h1>What the hand-off gains</h1>"
        "<p>One pretraining run without labels; each task fine-tuned from its checkpoint and from scratch with the same "
        "architecture, tokenizer, labels and steps. Optimizers were chosen on the eval split; scores are on the test "
        f"split.</p>{table}{body}</body></html>"
    )
    (workdir / "report.html").write_text(page, encoding="utf-8")


def _inline(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _pretraining(run: Path) -> Figure:
    rows = read_rows(run / "metrics.jsonl")
    # One held-out set is called eval; a mixture of corpora has eval_0, eval_1 and so on.
    names = sorted({k for r in rows for k in r if k.startswith("eval") and k.endswith("nll")})
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 3.4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        split, term = name.split("/", 1)
        for key, label in ((f"train/{term}", "train"), (name, split)):
            points = [(r["step"], r[key]) for r in rows if key in r]
            axis.plot(
                *zip(*points, strict=True), label=label, marker="o" if len(points) < 30 else "", markersize=3
            )
        axis.set(xlabel="step", ylabel="nats", title=term)
        axis.legend()
    return figure


def _label_efficiency(rows: Sequence[Row]) -> Figure:
    figure, axis = plt.subplots(figsize=(6.5, 3.8))
    grouped = groups(rows)
    for init in dict.fromkeys(row["init"] for row in rows):
        counts = [labels for _, labels, i in grouped if i == init]
        places = range(len(counts))
        scores = [[r["score"] for r in some] for (_, _, i), some in grouped.items() if i == init]
        errors = [stdev(s) if len(s) > 1 else 0.0 for s in scores]
        axis.errorbar(
            places, [mean(s) for s in scores], errors, label=init, color=COLOURS[init], marker="o", capsize=3
        )
        axis.set_xticks(list(places), [f"{c:,}" if c else "all" for c in counts])
    axis.set(xlabel="training labels", ylabel=f"test {rows[0]['metric']}")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def _learning_curves(rows: Sequence[Row]) -> Figure:
    counts = list(dict.fromkeys(row["labels"] for row in rows))
    figure, axes = plt.subplots(1, len(counts), figsize=(5 * len(counts), 3.4), squeeze=False, sharey=True)
    for axis, labels in zip(axes[0], counts, strict=True):
        for row in rows:
            if row["labels"] == labels and "curve" in row:
                steps, _, values = zip(*row["curve"], strict=True)
                label = row["init"] if row["seed"] == rows[0]["seed"] else None
                axis.plot(steps, values, color=COLOURS[row["init"]], alpha=0.8, linewidth=1.2, label=label)
        axis.set(xlabel="step", title=f"{labels:,} labels" if labels else "all labels")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(f"eval {rows[0]['metric']}")
    axes[0][0].legend()
    return figure
