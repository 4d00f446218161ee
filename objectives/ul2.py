"""UL2's mixture of denoisers for encoder-decoders. Knows no tokenizer, loop or mesh."""

import dataclasses

from objectives.span_corruption import SpanCorruption
from objectives.spans import Noise

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
    is not used.

    Terms, metrics and the loss are those of span corruption.

    Example:
      Rows of 512 tokens hold stretches of these lengths, one for each way:

      >>> objective = UL2(first_sentinel_id=32099, eos_id=6, inputs_length=512, mode_ids=(31999, 31998, 31997))
      >>> [noise.fit(511, 512, objective.sentinels) for _, noise in objective.denoisers()]
      [567, 587, 679, 602, 907, 599, 1004]

    Reference:
      Tay et al., UL2, arXiv 2205.05131, section 3.1 and table 1.
    """

    mode_ids: tuple[int, int, int]
    """Ids of the tokens for R, S and X; in no text."""
    targets_row: int = 512
    """Tokens of the targets' row (L)."""

    def __post_init__(self) -> None:
        """Refuse rows that cannot hold a text in one of the seven ways, and ids that mean two things."""
        for mode, noise in self.denoisers():
            if noise.fit(self.inputs_length - len(mode), self.targets_row, self.sentinels) < 2:
                raise ValueError(
                    f"inputs_length {self.inputs_length} and targets_row {self.targets_row} cannot hold a text under "
                    f"{noise}"
                )
        taken = [self.eos_id, self.pad_id, *self.sentinel_ids(), *self.mode_ids]
        if len(set(taken)) < len(taken):
            raise ValueError(
                f"mode_ids {self.mode_ids} must differ from each other and from the sentinels "
                f"{self.first_sentinel_id - self.sentinels + 1} to {self.first_sentinel_id}"
            )

    @property
    def targets_length(self) -> int:
        """As given: the strengths need different lengths."""
        return self.targets_row

    def reserved_ids(self) -> range:
        """The sentinels, and from there to the furthest mode token."""
        own = super().reserved_ids()
        return range(min(own.start, *self.mode_ids), max(own.stop, *(i + 1 for i in self.mode_ids)))

    def denoisers(self) -> tuple[tuple[tuple[int, ...], Noise], ...]:
        """Seven, named by three tokens."""
        kinds = zip(self.mode_ids, (REGULAR, SEQUENTIAL, EXTREME), strict=True)
        return tuple(((mode,), noise) for mode, noises in kinds for noise in noises)


def example() -> UL2:
    """For the property suite: the top ids of 64 are four sentinels and three modes."""
    return UL2(
        first_sentinel_id=63,
        sentinels=5,
        eos_id=6,
        inputs_length=40,
        targets_row=24,
        mode_ids=(58, 57, 56),
    )
