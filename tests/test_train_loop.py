"""The loop: resume is exact, damage is named, NaN stops, early stopping keeps the best, SIGTERM saves."""

import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives.base import LossOut
from objectives.masked_lm import MaskedLM
from tests.tiny import ROWS, RaggedStream, encoder, parts, settings
from train import checkpoint
from train.checkpoint import load_params, saved_steps
from train.launch import Mesh, Pmap
from train.loop import _Loop, evaluate, run
from train.metrics import read_rows
from train.optimizer import Optimizer
from train.read_ahead import ReadAhead


def leaves(workdir, step, folder="checkpoints"):
    return jax.tree.leaves(load_params(workdir / folder, step))


def assert_bitwise(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype and np.array_equal(x, y)


def test_the_loss_falls_and_rows_are_written(tmp_path):
    result = run(settings(steps=6), parts(), tmp_path)
    rows = read_rows(tmp_path / "metrics.jsonl")
    losses = [r["train/loss"] for r in rows if "train/loss" in r]
    assert result.step == 6 and len(losses) == 6 and losses[-1] < losses[0]
    assert [r["step"] for r in rows if "eval/nll" in r] == [3, 6]
    assert rows[-3]["train/tokens_per_second"] > 0
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("launcher", [Mesh(), Pmap()])
def test_a_resumed_run_ends_bitwise_equal(tmp_path, launcher):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = settings(launcher=launcher)
    run(config, parts(config=None), whole)
    with pytest.raises(ConnectionError):
        run(config, parts(stream=RaggedStream(fail_at=5)), broken)
    assert max(saved_steps(broken / "checkpoints")) == 4
    run(config, parts(), broken)
    assert_bitwise(leaves(whole, 6), leaves(broken, 6))
    same = [
        [(r["step"], r.get("train/loss"), r.get("eval/nll")) for r in read_rows(w / "metrics.jsonl")]
        for w in (whole, broken)
    ]
    assert same[0] == same[1]


def test_repeating_a_run_is_bitwise(tmp_path):
    for name in ("a", "b"):
        run(settings(steps=3), parts(), tmp_path / name)
    assert_bitwise(leaves(tmp_path / "a", 3), leaves(tmp_path / "b", 3))


def test_another_seed_is_another_run(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        run(settings(steps=1, seed=seed), parts(), tmp_path / name)
    a, b = leaves(tmp_path / "a", 1), leaves(tmp_path / "b", 1)
    assert not all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def readers():
    """Threads that still read batches."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("read_ahead")]


class Watched(RaggedStream):
    """Takes its time, and notes which steps have been read and by whom."""

    def __init__(self, **changes):
        super().__init__(**changes)
        object.__setattr__(self, "calls", [])

    def batch(self, step, rows=None):
        self.calls.append((step, threading.current_thread()))
        time.sleep(0.4)  # far more than a step takes, on a busy machine too
        return super().batch(step, rows)


def test_batches_are_read_in_another_thread_and_waiting_is_logged(tmp_path):
    stream = Watched()
    run(settings(eval_every=6, save_every=6), parts(stream=stream), tmp_path)
    assert [step for step, _ in stream.calls] == list(range(6))
    assert all(thread is not threading.main_thread() for _, thread in stream.calls)
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if "train/loss" in row]
    waits = [row["train/input_wait"] for row in rows if "train/input_wait" in row]
    # Nothing is timed while the first step compiles; a step takes far less than its batch.
    assert len(waits) == 5 and all(0 <= wait <= 1 for wait in waits) and max(waits) > 0.3
    assert not readers()


def test_no_thread_is_left_when_a_run_fails(tmp_path):
    stream = Watched(fail_at=4)
    with pytest.raises(ConnectionError, match="the data went away"):
        run(settings(), parts(stream=stream), tmp_path / "data")
    with pytest.raises(FloatingPointError):
        run(settings(steps=40), parts(NanAt().for_rows(ROWS)), tmp_path / "nan")
    assert not readers()


def test_what_is_read_ahead_is_bounded_and_fails_in_its_place():
    taken = []

    def numbers():
        for i in range(10):
            taken.append(i)
            if i == 5:
                raise OSError("a disk went away")
            yield i

    with ReadAhead(numbers()) as ahead:
        assert next(ahead) == 0
        time.sleep(0.1)
        assert taken == [0, 1, 2]
        assert [next(ahead) for _ in range(4)] == [1, 2, 3, 4]
        with pytest.raises(OSError, match="a disk went away"):
            next(ahead)
    assert not readers()
    with ReadAhead(iter("ab")) as ahead:
        assert list(ahead) == ["a", "b"] and list(ahead) == []


def test_an_evaluation_dispatches_a_batch_before_it_fetches_the_sums_of_the_last():
    events = []

    class Recorder(Mesh):
        def put(self, batch):
            return int(batch["example_ids"][0])

        def fetch(self, sums):
            events.append(("fetch", sums))
            return {"nll": (float(sums), 1.0)}

    def step(state, batch, rng):
        events.append(("dispatch", batch))
        return batch

    batches = [{"example_ids": np.full(8, i)} for i in range(3)]
    assert evaluate(step, Recorder(), None, batches, None) == {"nll": (3.0, 3.0)}
    expected = [("dispatch", 0), ("dispatch", 1), ("fetch", 0), ("dispatch", 2), ("fetch", 1), ("fetch", 2)]
    assert events == expected


def damage(workdir, step):
    file = max(
        (p for p in (workdir / "checkpoints" / str(step) / "params").rglob("*") if p.is_file()),
        key=os.path.getsize,
    )
    with file.open("r+b") as f:
        f.truncate(file.stat().st_size // 2)
    return file


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capfd):
    run(settings(), parts(), tmp_path)
    expected = leaves(tmp_path, 6)
    file = damage(tmp_path, 6)
    capfd.readouterr()
    result = run(settings(), parts(), tmp_path)
    said = capfd.readouterr().err
    assert str(file) in said and "resuming from step 4" in said
    assert result.step == 6
    assert_bitwise(expected, leaves(tmp_path, 6))
    assert (tmp_path / "set_aside" / "checkpoints-6-0").is_dir()


def test_no_whole_checkpoint_is_an_error_not_a_fresh_start(tmp_path):
    run(settings(), parts(), tmp_path)
    for step in saved_steps(tmp_path / "checkpoints"):
        damage(tmp_path, step)
    with pytest.raises(ValueError, match="no checkpoint in .* is whole"):
        run(settings(), parts(), tmp_path)


def test_a_save_that_never_finished_is_passed_over(tmp_path, capfd):
    run(settings(), parts(), tmp_path)
    (tmp_path / "checkpoints" / "6" / "hashes.json").unlink()
    run(settings(), parts(), tmp_path)
    said = capfd.readouterr().err
    assert "never completed" in said and "resuming from step 4" in said


class Clash(MaskedLM):
    def __call__(self, network, batch, rng):
        out = super().__call__(network, batch, rng)
        return LossOut(out.terms, {"grad_norm": out.terms["nll"]})


def test_one_name_for_two_numbers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'grad_norm'.* name two numbers"):
        run(settings(), parts(objective=Clash().for_rows(ROWS)), tmp_path)


class NanAt(MaskedLM):
    """A masked LM whose loss is not a number from a certain example on."""

    def __call__(self, network, batch, rng):
        out = super().__call__(network, batch, rng)
        bad = jnp.any(batch["example_ids"] == 3 * 16 + 5)
        poisoned = {k: (jnp.where(bad, jnp.nan, s), w) for k, (s, w) in out.terms.items()}
        return LossOut(poisoned, out.metrics)


def test_nan_stops_names_the_step_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(FloatingPointError, match="step 3: loss nan.*optimizer.learning_rate"):
        run(settings(), parts(objective=NanAt().for_rows(ROWS)), tmp_path / "bad")
    assert max(saved_steps(tmp_path / "bad" / "checkpoints")) == 3
    # Same schedule, stopped by other means after the same three steps.
    with pytest.raises(ConnectionError):
        run(settings(save_every=3), parts(stream=RaggedStream(fail_at=4)), tmp_path / "good")
    assert_bitwise(leaves(tmp_path / "bad", 3), leaves(tmp_path / "good", 3))


def early_stopping():
    """Steps far too large: the first evaluation stays the best for a while, so the run must end after 1 + 3 of them."""
    watched = {"best": "eval/nll", "best_mode": "min", "patience": 3}
    return settings(steps=40, eval_every=1, save_every=1, optimizer=Optimizer(learning_rate=0.1), **watched)


def test_early_stopping_keeps_the_best_checkpoint_and_survives_a_resume(tmp_path):
    config = early_stopping()
    result = run(config, parts(), tmp_path / "a")
    assert (result.best_step, result.step) == (1, 4)
    assert saved_steps(tmp_path / "a" / "best") == [1]
    with pytest.raises(ConnectionError):
        run(config, parts(stream=RaggedStream(fail_at=3)), tmp_path / "b")
    again = run(config, parts(), tmp_path / "b")
    assert (again.best_step, again.step) == (1, 4)


def test_a_run_that_stopped_early_is_finished(tmp_path):
    config = early_stopping()
    run(config, parts(), tmp_path)
    before = leaves(tmp_path, 1, "best")
    again = run(config, parts(stream=RaggedStream(fail_at=4)), tmp_path)  # reading a batch would fail
    assert (again.best_step, again.step) == (1, 4) and saved_steps(tmp_path / "best") == [1]
    assert_bitwise(before, leaves(tmp_path, 1, "best"))


def test_the_best_checkpoint_is_whole_before_one_names_it(tmp_path, monkeypatch):
    """A kill right after a checkpoint is committed must find the best step that it names."""
    missing = []
    real = checkpoint.write_hashes

    def slow_for_best(folder):
        if folder.parent.name == "best":
            time.sleep(0.3)
        elif not (tmp_path / "best" / "1" / checkpoint.HASHES).exists():
            missing.append(folder)
        real(folder)

    monkeypatch.setattr(checkpoint, "write_hashes", slow_for_best)
    run(settings(steps=2, eval_every=1, save_every=1, best="eval/nll", best_mode="max"), parts(), tmp_path)
    assert not missing


def test_an_old_checkpoint_stays_until_the_new_one_is_committed(tmp_path, monkeypatch):
    whole = []
    real = checkpoint.write_hashes

    def watch(folder):
        whole.append(
            [s for s in saved_steps(folder.parent) if (folder.parent / str(s) / checkpoint.HASHES).exists()]
        )
        real(folder)

    monkeypatch.setattr(checkpoint, "write_hashes", watch)
    run(settings(keep=1), parts(), tmp_path)
    assert whole == [[], [2], [4]]
    assert saved_steps(tmp_path / "checkpoints") == [6]


def test_flops_do_not_count_what_remat_repeats(tmp_path):
    rates = []
    for name, remat in (("a", "none"), ("b", "full")):
        config = encoder(remat=remat)
        loop = _Loop(settings(), parts(config=config), tmp_path / name, "x")
        state, _ = loop._begin()
        loop._count_flops(state, RaggedStream().batch(0))
        rates.append(loop.flops)
        loop.checkpoints.close()
    assert rates[0] == rates[1] > 0


def test_a_metric_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="best='eval/f1' is not among .*eval/nll"):
        run(settings(best="eval/f1"), parts(), tmp_path)


class TermAt(RaggedStream):
    """Sends the process SIGTERM while step 3 is read: ahead of its turn, so that the run ends before that step."""

    def batch(self, step, rows=None):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(step, rows)


def test_sigterm_saves_and_the_resumed_run_ends_bitwise_equal(tmp_path):
    run(settings(), parts(), tmp_path / "whole")
    result = run(settings(save_every=100), parts(stream=TermAt()), tmp_path / "cut")
    assert result.preempted and 1 <= result.step <= 4
    assert saved_steps(tmp_path / "cut" / "checkpoints") == [result.step] and not readers()
    result = run(settings(save_every=100), parts(), tmp_path / "cut")
    assert not result.preempted
    assert_bitwise(leaves(tmp_path / "whole", 6), leaves(tmp_path / "cut", 6))


def test_a_checkpoint_restores_on_another_mesh(tmp_path):
    with pytest.raises(ConnectionError):
        run(settings(launcher=Mesh(fsdp=8)), parts(stream=RaggedStream(fail_at=5)), tmp_path / "moved")
    run(settings(launcher=Pmap()), parts(), tmp_path / "moved")
    run(settings(launcher=Pmap()), parts(), tmp_path / "whole")
    for a, b in zip(leaves(tmp_path / "moved", 6), leaves(tmp_path / "whole", 6), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)  # six Adam steps at 1e-2: rounding, not a lost state


def test_initial_parameters_are_used(tmp_path):
    made = parts()
    params = jax.device_get(made.network.init(jax.random.key(5)))
    run(settings(steps=1), parts(initial=params), tmp_path / "given")
    run(settings(steps=1), parts(), tmp_path / "fresh")
    first = [read_rows(tmp_path / w / "metrics.jsonl")[0]["train/loss"] for w in ("given", "fresh")]
    assert first[0] != first[1]
