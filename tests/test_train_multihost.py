"""Two real processes of four devices each give what one process of eight gives, and resume each other's checkpoints."""

import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest

from train.checkpoint import saved_steps
from train.metrics import read_rows


def start(workdir, launcher, process, processes, port):
    command = [sys.executable, "-m", "tests.multihost", workdir, launcher, process, processes, port]
    return subprocess.Popen(
        [str(x) for x in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_on(processes, workdir, launcher):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = [start(workdir, launcher, i, processes, port) for i in range(processes)]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(said)


def losses(workdir):
    return {r["step"]: r["train/loss"] for r in read_rows(workdir / "metrics.jsonl") if "train/loss" in r}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["pmap", "fsdp"])
def test_two_hosts_train_as_one(tmp_path, launcher):
    one, two = tmp_path / "one", tmp_path / "two"
    run_on(1, one, launcher)
    run_on(2, two, launcher)
    expected, found = losses(one), losses(two)
    assert sorted(found) == list(range(1, 7))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=1e-5)
    assert saved_steps(two / "checkpoints") == [6, 4]

    # What two hosts saved, one goes on from: drop the last checkpoint and train its steps again.
    shutil.rmtree(two / "checkpoints" / "6")
    run_on(1, two, launcher)
    np.testing.assert_allclose(losses(two)[6], expected[6], atol=1e-5)
