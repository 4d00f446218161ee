"""Recovery, by killing real processes: five times with SIGKILL, in the middle of saving among them; once with SIGTERM."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from train.checkpoint import load_params, saved_steps

ROOT = Path(__file__).parent.parent


def start(workdir):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.killable", str(workdir)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(process, condition, seconds=240):
    """True once `condition` holds; False if the process ended first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    raise TimeoutError(process.args)


def rows(workdir):
    file = workdir / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def unfinished_save(workdir):
    """Orbax writes into a folder of another name and renames it; ours adds hashes after that."""
    folder = workdir / "checkpoints"
    return any(
        not p.name.isdigit() or not (p / "hashes.json").exists() for p in folder.glob("*") if p.is_dir()
    )


@pytest.mark.slow
def test_five_kills_end_bitwise_equal(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    assert process.wait(300) == 0, process.stderr.read()
    chance = random.Random(5)
    in_saves = 0
    for kill in range(5):
        before = rows(killed)
        process = start(killed)
        if kill % 2:
            struck = wait_until(
                process, lambda before=before: unfinished_save(killed) and rows(killed) != before
            )
        else:
            wanted = before + chance.randint(2, 6)
            struck = wait_until(process, lambda wanted=wanted: rows(killed) >= wanted)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert struck, process.stderr.read()
        in_saves += unfinished_save(killed)
    assert in_saves, "no kill struck while saving"
    process = start(killed)
    assert process.wait(300) == 0, process.stderr.read()
    assert max(saved_steps(killed / "checkpoints")) == 40
    for a, b in zip(
        *(jax.tree.leaves(load_params(w / "checkpoints", 40)) for w in (whole, killed)), strict=True
    ):
        assert np.array_equal(a, b)
    lines = [
        [
            line.split('"train/seconds"')[0]
            for line in (w / "metrics.jsonl").read_text().splitlines()
            if "train/loss" in line
        ]
        for w in (whole, killed)
    ]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_zero(tmp_path):
    process = start(tmp_path / "run")
    assert wait_until(process, lambda: rows(tmp_path / "run") >= 4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0, process.stderr.read()
    step = max(saved_steps(tmp_path / "run" / "checkpoints"))
    assert 4 <= step < 40
    assert (tmp_path / "run" / "checkpoints" / str(step) / "hashes.json").exists()
