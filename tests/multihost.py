"""One process of a multi-host run, for tests: `python -m tests.multihost WORKDIR LAUNCHER PROCESS PROCESSES PORT`."""

import os
import sys
from pathlib import Path

PROCESS, PROCESSES, PORT = (int(x) for x in sys.argv[3:6])
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8 // PROCESSES)
if PROCESSES > 1:
    os.environ |= {
        "HANDOFF_COORDINATOR": f"localhost:{PORT}",
        "HANDOFF_PROCESSES": str(PROCESSES),
        "HANDOFF_PROCESS": str(PROCESS),
    }

from tests.tiny import parts, settings  # noqa: E402
from train.cli import multi_host  # noqa: E402
from train.launch import Mesh, Pmap  # noqa: E402
from train.loop import run  # noqa: E402

LAUNCHERS = {"pmap": Pmap(), "fsdp": Mesh(data=2, fsdp=4)}

if __name__ == "__main__":
    multi_host()
    assert jax.device_count() == 8 and jax.process_count() == PROCESSES
    steps = 6
    config = settings(steps=steps, launcher=LAUNCHERS[sys.argv[2]], best="eval/nll", best_mode="min")
    result = run(config, parts(), Path(sys.argv[1]))
    print("done", result.step, result.best_value)
