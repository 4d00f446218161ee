"""Every number of an experiment has a range, checked before anything is built; a newcomer's too."""

import dataclasses
from typing import Annotated

import pytest

from model.electra import ElectraConfig
from model.mistral import MistralConfig
from model.ranges import COUNT, Range, check_ranges
from objectives.masking import Masking
from train.launch import Mesh
from train.optimizer import Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    shares: Annotated[tuple[float, ...], Range(above=0, most=1)] = (0.5,)
    any: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    parts: tuple[tuple[str, Inner], ...] = (("a", Inner()),)
    count: Annotated[int | None, COUNT] = 3
    on: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherDefault(Outer):
    count: int | None = 4


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Outer(count=0), "x.count must be at least 1, got 0"),
        (OtherDefault(count=-3), "x.count must be at least 1, got -3"),
        (
            Outer(parts=(("a", Inner()), ("b", Inner(shares=(0.5, 0.0))))),
            "x.parts.1.1.shares.1 must be above 0 and at most 1, got 0.0",
        ),
        (
            Outer(parts=(("a", Inner(any=float("inf"))),)),
            "x.parts.0.1.any must be finite, got inf",
        ),
        (Outer(parts=(("a", Inner(any=1e39)),)), "x.parts.0.1.any must be finite, got 1e"),
        (Outer(count=10**5000), "x.count must be at least 1 and below 2**63, got a number of 16610 bits"),
        (Optimizer(), None),
        (Mesh(data=-1), None),
        (Mesh(data=0), "x.data must be at least 1 or -1, got 0"),
        (Outer(count=None, on=False), None),
    ],
)
def test_a_number_out_of_its_range_is_named(value, message):
    if message is None:
        check_ranges(value, "x.")
        return
    with pytest.raises(ValueError) as caught:
        check_ranges(value, "x.")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
def test_every_number_of_an_optimizer_has_a_range(number):
    for field in dataclasses.fields(Optimizer):
        if isinstance(field.default, float):
            with pytest.raises(ValueError, match=f"optimizer.{field.name} must be"):
                Optimizer(**{field.name: number})


def test_a_class_checks_its_own_numbers_before_it_computes_with_them():
    shape = dict(layers=1, width=8, mlp_width=8)
    for kind, wrong in ((ElectraConfig, "heads"), (ElectraConfig, "embed_width"), (MistralConfig, "window")):
        with pytest.raises(ValueError, match=f"{wrong} must be at least 1, got 0"):
            kind(**{"heads": 1, **shape, wrong: 0})
    with pytest.raises(ValueError, match="final_rate must be above 0 and at most 1 and finite, got nan"):
        Masking(final_rate=float("nan"), rate_examples=1)
