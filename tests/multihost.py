"""One process of a multi-host run, for tests: `python -m tests.multihost WORKDIR LAUNCHER PROCESS PROCESSES PORT`."""

import os
import sys
from pathlib import Path


def main(workdir, launcher, process, processes, port):
    os.environ["JAX_PLATFORMS"] = "cpu"
    if int(processes) > 1:
        os.environ |= {
            "HANDOFF_COORDINATOR": f"localhost:{port}",
            "HANDOFF_PROCESSES": processes,
            "HANDOFF_PROCESS": process,
        }
    # Not above: pytest looks into this file, and the number of devices is set before jax starts.
    import jax

    jax.config.update("jax_num_cpu_devices", 8 // int(processes))
    from tests.tiny import parts, settings
    from train.cli import multi_host
    from train.launch import Mesh, Pmap
    from train.loop import run

    multi_host()
    assert jax.device_count() == 8 and jax.process_count() == int(processes)
    launchers = {"pmap": Pmap(), "fsdp": Mesh(data=2, fsdp=4)}
    config = settings(steps=6, launcher=launchers[launcher], best="eval/nll", best_mode="min")
    result = run(config, parts(), Path(workdir))
    print("done", result.step, result.best_value)


if __name__ == "__main__":
    main(*sys.argv[1:])
