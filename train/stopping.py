"""SIGTERM and SIGINT (Ctrl-C) while a run trains: the first asks it to save and stop, the second ends the process at once.

A process that was asked to stop ends in any case. Python runs a signal's handler between two of its own instructions, which
never come while native code compiles or waits; so a thread of its own hears the signal, and ends the process when
nothing has moved for some seconds.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 10.0
"""Seconds without progress after which a process that was asked to stop is ended."""
AGAIN = 0.3
"""Seconds in which a signal is still the same one: `timeout` and some shells send it to a process and then to its group."""
_DONE = b"\0"


class Stopping:
    """While its block runs, signals are requests. Outside of the main thread, which alone may hear them, it does nothing.

    `requested` says which one came. `progress` or `step` is to be called whenever something was done.
    """

    def __init__(self, moving: Callable[[], object] = lambda: None, patience: float = PATIENCE):
        """`moving`: gives another value while work goes on that does not call `progress`, such as the bytes on a disk."""
        self.requested: signal.Signals | None = None
        self._moving = moving
        self._patience = patience
        self._last = time.monotonic()
        self._longest = 0.0

    @property
    def name(self) -> str:
        """Of the signal that came, or empty."""
        return "" if self.requested is None else self.requested.name

    def progress(self, expected: float = 0.0) -> None:
        """Something was done; what comes next may take so many seconds beside our patience."""
        self._last = time.monotonic() + expected

    def step(self) -> None:
        """A step was done; the process may take as long for the next one."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def __enter__(self) -> "Stopping":
        self._heard = threading.current_thread() is threading.main_thread()
        if self._heard:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._previous: dict[signal.Signals, Any] = {
                number: signal.signal(number, _nothing) for number in SIGNALS
            }
            self._previous_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._listen, name="stopping", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._heard:
            signal.set_wakeup_fd(self._previous_fd)
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            os.write(self._writer, _DONE)
            self._thread.join()
            os.close(self._writer)
            os.close(self._reader)

    def _listen(self) -> None:
        first = 0.0
        while (byte := os.read(self._reader, 1)) != _DONE:
            if byte[0] not in SIGNALS:
                continue
            number, now = signal.Signals(byte[0]), time.monotonic()
            if self.requested is None:
                first, self._last, self.requested = now, now, number
                _say(f"{number.name}: saving and stopping; once more ends at once")
                threading.Thread(target=self._watch, args=(number,), daemon=True).start()
            elif now - first > AGAIN:
                _end(number, "once more: ended at once")

    def _watch(self, number: signal.Signals) -> None:
        """Ends the process when nothing has moved for too long."""
        # A step may take longer than our patience: as long as the longest one, and again.
        patience = max(self._patience, min(2 * self._longest, 60.0))
        seen = self._moving()
        while self._thread.is_alive():
            time.sleep(min(0.5, patience / 4))
            now = self._moving()
            if now != seen:
                seen, self._last = now, time.monotonic()
            if time.monotonic() - self._last > patience:
                _end(number, f"came, and then nothing moved for {patience:.0f} s: ended without saving")


def _nothing(number: int, frame: FrameType | None) -> None:
    """A signal needs a handler of Python's to be heard at all."""


def _say(line: str) -> None:
    # Not through sys.stderr: whoever hangs may hold its lock.
    os.write(2, f"\n{line}\n".encode())


def _end(number: signal.Signals, why: str) -> None:
    """At once: threads that hang, and what waits for them at Python's own exit, are left behind."""
    _say(f"{number.name} {why}")
    os._exit(128 + number)
