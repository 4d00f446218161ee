"""A small training run as a process of its own, for tests that kill it: `python -m tests.killable WORKDIR`."""

import sys
import time
from pathlib import Path

from tests.tiny import RaggedStream, parts, settings
from train.loop import run


class Slow(RaggedStream):
    """Gives a killer time to strike."""

    def batch(self, step, rows=None):
        time.sleep(0.05)
        return super().batch(step, rows)


if __name__ == "__main__":
    result = run(settings(steps=40, save_every=3, eval_every=10), parts(stream=Slow()), Path(sys.argv[1]))
    sys.exit(3 if result.step < 40 and not result.preempted else 0)
