"""Signals: the first asks, a second ends at once, what hangs ends all the same. What the system says is one line."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.files import writing
from tests.tiny import RaggedStream, parts, settings
from train import checkpoint
from train.checkpoint import SaveFailed, saved_steps
from train.cli import one_line_errors
from train.loop import run
from train.metrics import read_rows

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys, time
from train.stopping import Stopping
with Stopping(patience=float(sys.argv[1])) as stopping:
    print("ready", flush=True)
    while stopping.requested is None or sys.argv[2] == "hangs":
        {wait}
    print("saved", stopping.requested.name, flush=True)
"""
# A lock that is never released hears no signal in Python's own words: no bytecode runs in the main thread.
HANGS = "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()"


def started(patience, how, wait="time.sleep(0.01)"):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(wait=wait), str(patience), how],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(number):
    process = started(10, "listens")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and out == f"saved {number.name}\n"
    assert f"{number.name}: saving and stopping" in err


def test_the_second_ends_at_once_but_an_echo_of_the_first_does_not():
    process = started(60, "hangs")
    for _ in range(2):  # as `timeout` sends it: to the process and to its group
        process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 128 + signal.SIGINT
    assert "SIGINT once more: ended at once" in process.stderr.read()


def test_a_process_that_hangs_ends_all_the_same():
    process = started(0.2, "hangs", HANGS)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    assert "SIGTERM came, and then nothing moved" in process.stderr.read()


class Asked(RaggedStream):
    """Sends the process a signal while a step is read."""

    def batch(self, step, rows=None):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(step, rows)


def test_ctrl_c_saves_as_sigterm_does(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started the tests in the background
    result = run(settings(save_every=100), parts(stream=Asked()), tmp_path)
    assert result.preempted and result.stopped_by == "SIGINT"
    assert saved_steps(tmp_path / "checkpoints") == [result.step]
    assert signal.getsignal(signal.SIGINT) is before


class AskedWhileScored(list):
    """Evaluation batches of which reading the second one comes with a signal, once."""

    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            if number == 1 and not hasattr(self, "asked"):
                self.asked = True
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
            yield batch


def test_a_signal_puts_an_evaluation_off_and_it_is_made_when_the_run_goes_on(tmp_path):
    def scored(batches):
        made = parts()
        return type(made)(**{**vars(made), "eval_sets": {"eval": batches}})

    several = [RaggedStream().batch(10_000 + i) for i in range(8)]
    run(settings(), scored(several), tmp_path / "whole")
    cut = run(settings(), scored(AskedWhileScored(several)), tmp_path / "cut")
    assert cut.preempted and cut.step == 3 and saved_steps(tmp_path / "cut" / "checkpoints")[0] == 3
    assert not [row for row in read_rows(tmp_path / "cut" / "metrics.jsonl") if "eval/nll" in row]
    assert run(settings(), scored(several), tmp_path / "cut").step == 6
    found = [
        [(row["step"], row["eval/nll"]) for row in read_rows(folder / "metrics.jsonl") if "eval/nll" in row]
        for folder in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert found[0] == found[1] and [step for step, _ in found[0]] == [3, 6]


# -- a full disk


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_save_that_fails_says_where_how_much_and_what_there_is_instead(tmp_path, monkeypatch, capsys):
    real = checkpoint.write_hashes
    monkeypatch.setattr(checkpoint, "write_hashes", lambda f: real(f) if f.name == "2" else full())
    with pytest.raises(SaveFailed) as failed:
        run(settings(), parts(), tmp_path)
    line = str(failed.value)
    assert line.startswith(f"{tmp_path / 'checkpoints' / '4'} could not be saved: it takes 79,120 bytes, ")
    assert f"the last good one is {tmp_path / 'checkpoints' / '2'}" in line and "\n" not in line
    assert "No space left on device" in line


def test_a_full_disk_names_the_metrics_too(tmp_path, monkeypatch):
    monkeypatch.setattr("train.metrics.json.dumps", full)
    with pytest.raises(OSError, match="No space left") as failed:
        run(settings(), parts(), tmp_path)
    assert failed.value.filename == str(tmp_path / "metrics.jsonl")


LIMITED = """
import resource, sys
from pathlib import Path
from tests.tiny import parts, settings
from train.cli import run_program
from train.loop import run
def main(arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    run(settings(), parts(), Path(arguments[0]))
run_program(main)
"""


@pytest.mark.slow
def test_files_that_cannot_grow_end_a_process_with_one_line(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "run")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("error: ") == 1
    assert "could not be saved: it takes 79,120 bytes" in done.stderr.splitlines()[-1]


# -- what the system says


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "a/b"),
            "a/b: Permission denied: look at its owner",
        ),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), "a: Is a directory"),
        (OSError("our own words"), "our own words"),
        (TimeoutError(), "TimeoutError"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset by peer"),
    ],
)
def test_every_error_of_the_system_is_one_line(error, line, capsys):
    def main(arguments):
        raise error

    assert one_line_errors(main, []) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}") and said.count("\n") == 1


def test_an_interrupted_program_says_so(capsys):
    def main(arguments):
        raise KeyboardInterrupt

    assert one_line_errors(main, []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_what_is_written_is_named(tmp_path):
    with pytest.raises(OSError, match="No space left") as failed, writing(tmp_path / "x"):
        full()
    assert failed.value.filename == str(tmp_path / "x")
    with (
        pytest.raises(OSError, match="x cannot be written: 10 requested and 0 written"),
        writing(tmp_path / "x"),
    ):
        raise OSError("10 requested and 0 written")
