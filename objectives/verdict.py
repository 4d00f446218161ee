"""What a property of an objective found."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from model.config import TextConfig
from objectives.base import Objective
from objectives.measuring import HostBatch


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What one property found."""

    name: str
    verdict: Literal["holds", "fails", "does not apply"]
    figure: float = 0.0
    """What was measured."""
    limit: float = 0.0
    """What it may be at most."""
    detail: str = ""

    def __bool__(self) -> bool:
        return self.verdict != "fails"

    def with_detail(self, more: str) -> "Verdict":
        """The same with something to add."""
        return dataclasses.replace(self, detail="; ".join(filter(None, (self.detail, more))))


def verdict(name: str, figure: float, limit: float, detail: str = "") -> Verdict:
    """Whether a figure is within its limit."""
    # A NaN must fail, so the comparison is written this way round.
    return Verdict(name, "holds" if figure <= limit else "fails", float(figure), limit, detail)


Property = Callable[[Objective, TextConfig, HostBatch], Verdict]
