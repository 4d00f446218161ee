"""`python -m objectives.check` answers mistakes in an author's file in one line with its place."""

import sys

import pytest

import data
from objectives import properties
from objectives.check import main

OBJECTIVE = """
from __future__ import annotations

import dataclasses
import jax.numpy as jnp
from objectives.base import LossOut, Objective

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Objective):
    scale: float = 1.0

    def coefficients(self):
        return {"x": 1.0}

    def score(self, network, hidden_BLD, batch, corrupted):
        weights_BL = (batch["segment_ids"] > 0).astype(jnp.float32)
        LINE

def example():
    return Mine()
"""
GOOD = "return LossOut({'x': (jnp.sum(jnp.mean(hidden_BLD**2, -1) * weights_BL), jnp.sum(weights_BL))}, {})"


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(line, name="mine.py", properties_to_run=properties.PROPERTIES[:2]):
        monkeypatch.setattr(properties, "PROPERTIES", properties_to_run)
        file = tmp_path / name
        file.write_text(OBJECTIVE.replace("LINE", line))
        code = main([str(file)])
        lines = [" ".join(x.replace("│", " ").split()) for x in capsys.readouterr().out.splitlines()]
        return code, lines

    return run


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            GOOD.replace("{'x'", "{'y'"),
            "declares its terms fails .*LossOut has the terms ['y'], coefficients() ['x']",
        ),
        ("return LossOut({'x': batch['nothing']}, {})", "KeyError: 'nothing' (mine.py:17)"),
        ("return undefined", "NameError: name 'undefined' is not defined (mine.py:17)"),
    ],
)
def test_a_mistake_is_one_line(check, line, said):
    code, lines = check(line)
    assert code == 1
    first, _, last = said.partition(" .*")
    assert any(first in found and last in found for found in lines), lines
    assert not any("Traceback" in found for found in lines)


def test_a_file_may_have_the_name_of_a_package_and_late_annotations(check):
    before = sys.modules["data"]
    _, lines = check(GOOD, name="data.py", properties_to_run=properties.PROPERTIES[:1])
    assert any(line.startswith("declares its terms holds") for line in lines), lines
    assert sys.modules["data"] is before is data


def test_a_failure_names_the_method_to_look_at(check):
    mixed = "return LossOut({'x': (jnp.sum(hidden_BLD) ** 2, jnp.sum(weights_BL))}, {})"
    _, lines = check(mixed)
    assert any("adds over any split fails" in line and "see score, mine.py:15" in line for line in lines), (
        lines
    )


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import nowhere_at_all\n")
    with pytest.raises(SystemExit, match=r"cannot be imported: .*broken.py, line 1: ModuleNotFoundError"):
        main([str(file)])
