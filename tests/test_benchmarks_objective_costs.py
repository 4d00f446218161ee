"""The table of what objectives cost: its counts are those of a hand calculation, its rows those of the docs."""

from pathlib import Path

import pytest

from benchmarks.objective_costs import LENGTH, ROWS, cost, objectives

DOCS = (Path(__file__).parent.parent / "docs" / "objectives.md").read_text().partition("## What they cost")[2]


@pytest.mark.parametrize("name", ["causal_lm", "masked_lm"])
def test_counts_are_those_worked_by_hand(name):
    found = cost(dict(objectives())[name])
    layers = 4 * (4 * 256**2 + 3 * 256 * 768 + 2 * LENGTH * 256)
    scored = {"causal_lm": LENGTH - 1, "masked_lm": 19}[name]
    # All positions pass the projection of a causal model; a masked one gathers its 19, which pass the head too.
    head = LENGTH * 256 * 8192 if name == "causal_lm" else 19 * (256 * 8192 + 256**2)
    assert (found.read, found.scored) == (ROWS * LENGTH, ROWS * scored)
    # Forwards once and backwards twice, two FLOPs to a multiply-add.
    assert found.flops == pytest.approx(6 * ROWS * (LENGTH * layers + head), rel=0.005)
    (line,) = (line for line in DOCS.splitlines() if line.startswith(f"| `{name}` |"))
    cells = [float(cell.replace(",", "")) for cell in line.split("|")[3:6]]
    assert cells == pytest.approx(
        [found.scored / found.read, found.flops / found.read / 1e6, found.flops / found.scored / 1e6],
        abs=0.05,
    )


def test_every_row_of_the_docs_is_counted():
    rows = [line.split("`")[1] for line in DOCS.splitlines() if line.startswith("| `")]
    assert rows == [name for name, _ in objectives()]
