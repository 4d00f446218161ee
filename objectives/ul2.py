"""UL2's mixture of denoisers for encoder-decoders."""

import dataclasses
from typing import Annotated

from model.ranges import COUNT
from objectives.span_corruption import SpanCorruption
from objectives.spans import Noise, sentinel_ids

MODES = 3
REGULAR = (Noise(density=0.15, mean_span=3.0), Noise(density=0.15, mean_span=8.0))
SEQUENTIAL = (Noise(density=0.25, mean_span=1e9),)
"""One span, which `Noise` puts at the end: a prefix language model."""
EXTREME = (
    Noise(density=0.5, mean_span=3.0),
    Noise(density=0.5, mean_span=8.0),
    Noise(density=0.15, mean_span=64.0),
    Noise(density=0.5, mean_span=64.0),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UL2(SpanCorruption):
    r"""Span corruption in seven strengths, each row opening with a token that names its kind.

    R: 15% in spans of 3 or 8; S: the last quarter; X: half in spans of 3, 8 or 64, or 15% in spans of 64. A row is
    corrupted in one of the seven ways, all equally likely, and its inputs open with the token of R, S or X. A stretch is
    cut so that its inputs and targets fit and it has no more spans than there are sentinels. `noise` of span corruption
    is not used. The three tokens are the ids below the sentinels.

    Terms, metrics and the loss are those of span corruption.

    Example:
      Rows of 512 tokens hold stretches of these lengths, one for each way:

      >>> from objectives.rows import RowShape
      >>> objective = UL2().for_rows(RowShape(length=512, eos_id=6, own_start=31997, own_stop=32100))
      >>> [noise.fit(511, 512, objective.sentinels) for _, noise in objective.denoisers()]
      [567, 587, 679, 602, 907, 599, 1004]

    Reference:
      Tay et al., UL2, arXiv 2205.05131, section 3.1 and table 1.
    """

    targets_row: Annotated[int, COUNT] = 512
    """Tokens of the targets' row (L)."""

    @property
    def targets_length(self) -> int:
        """As given: the strengths need different lengths."""
        return self.targets_row

    def own_ids(self) -> int:
        """The sentinels, and a token each for R, S and X."""
        return self.sentinels + MODES

    def check_texts(self) -> None:
        for mode, noise in self.denoisers():
            if noise.fit(self.rows.length - len(mode), self.targets_row, self.sentinels) < 2:
                raise ValueError(
                    f"data.length {self.rows.length} and targets_row {self.targets_row} cannot hold a text under {noise}"
                )

    def denoisers(self) -> tuple[tuple[tuple[int, ...], Noise], ...]:
        """Seven, named by three tokens."""
        modes = sentinel_ids(self.rows, self.own_ids())[self.sentinels :]
        kinds = zip(modes, (REGULAR, SEQUENTIAL, EXTREME), strict=True)
        return tuple(((mode,), noise) for mode, noises in kinds for noise in noises)


def example() -> UL2:
    """For the property suite: five sentinels."""
    return UL2(sentinels=5, targets_row=24)
