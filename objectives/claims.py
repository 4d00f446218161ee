"""What an objective says of itself so that it can be checked. Only the checker asks (`python -m objectives.check`)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from objectives.rows import Documents, Row

Batch = Mapping[str, jax.Array]
DeviceCounts = dict[str, tuple[jax.Array, jax.Array]]
HostCounts = dict[str, tuple[np.ndarray, np.ndarray]]
"""Claim -> (observed counts, expected counts), for a chi-square test."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Premises:
    """What an objective means to do though most that do it are wrong; a property whose premise it breaks says so."""

    answers_shown: float = 0.1
    """Share of the scored tokens that stay in what the backbone reads (BERT keeps 10%); 1 reproduces what it reads."""
    answer_offset: int | None = None
    """Where an answer is predicted, relative to it; None: at the token itself, or, in a causal model, where the token
    before it has been read."""
    repeats_draws: bool = False
    """Whether steps may repeat what was drawn (masks fixed for all steps)."""
    stops_gradients: bool = False
    """Whether some of its gradient is stopped on purpose (a target network, a reward)."""
    probes: tuple[str, ...] = ()
    """Terms that train their heads alone and leave the backbone as it is."""
    bounded: tuple[str, ...] = ()
    """Terms that have an upper bound, however sure a wrong answer is."""
    negative: tuple[str, ...] = ()
    """Terms that may be below zero."""
    need_not_fall: tuple[str, ...] = ()
    """Terms that one batch does not teach to fall to half: they start near their least, or hold others back."""


class Claims:
    """Base of objectives that claim something; what is not defined is not claimed."""

    def initial_loss(self, config: Any) -> Mapping[str, float | tuple[float, float]]:
        """Of each term (loss_sum / weight_sum) the closed form for a network whose logits are all equal, or the least and
        the most that a fresh network gives.
        """
        return {}

    def premises(self) -> Premises:
        """What it means to do."""
        return Premises()

    def segments_per_unit(self) -> int:
        """How many consecutive segments of a row belong together; units never see each other."""
        return 1

    def corruption_claims(self, config: Any, batch: Batch, corrupted: Any) -> DeviceCounts:
        """Counts of what `corrupt` did to this batch."""
        return {}

    def example_claims(self, docs: Documents, rows: Sequence[Row]) -> HostCounts:
        """Counts of what is in rows that `make_example` made of these documents."""
        return {}


NOTHING = Claims()
"""Of an objective that claims nothing."""
