"""Which platform is compiled for: what is fast there decides between forms of the same computation."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

import jax

_target: ContextVar[str | None] = ContextVar("target", default=None)


@contextlib.contextmanager
def compiling_for(platform: Literal["cpu", "gpu", "tpu"]) -> Iterator[None]:
    """Choose kernels for a platform that is not this machine's, as an ahead-of-time compilation must."""
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


def platform() -> str:
    """What is compiled for: this process's backend unless `compiling_for` says otherwise."""
    return _target.get() or jax.default_backend()
