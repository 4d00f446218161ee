"""What an objective says of itself so that it can be checked. Only the checker asks (`python -m objectives.check`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from objectives.rows import Documents, Row

Batch = Mapping[str, jax.Array]
DeviceCounts = dict[str, tuple[jax.Array, jax.Array]]
HostCounts = dict[str, tuple[np.ndarray, np.ndarray]]
"""Claim -> (observed counts, expected counts), for a chi-square test."""


class Claims:
    """Base of objectives that claim something; what is not defined is not claimed."""

    def initial_loss(self, config: Any) -> dict[str, float]:
        """Closed form of each term (loss_sum / weight_sum) for a network whose logits are all equal."""
        return {}

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
