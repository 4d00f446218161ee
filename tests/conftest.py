"""What every test stands on: eight simulated CPU devices, and no silent rank promotion."""

import os

# Before jax is imported anywhere: the devices are made when the backend starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Threads for simulated devices: where eight wait in one collective, none is left for another and all wait for ever.
os.environ.setdefault("NPROC", "32")
# The networks are tiny and the programs many, so compiling is nearly all of the time. In one piece and with the older
# emitters it takes a third of what it would.
QUICK_COMPILER = "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILER}"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", True)

# Fixtures that several files share.
from tests.tuned import pretrained, sentiment, tables  # noqa: E402, F401


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Nothing is prepared in the user's cache, but in one place for all test files that ask for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDOFF_CACHE", str(tmp_path_factory.getbasetemp() / "handoff_cache"))
        yield


@pytest.fixture
def optimized():
    """The compiler as users have it, for tests of what it makes of a program: optimisations on, and options for jit."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield {"xla_cpu_use_fusion_emitters": True}
    jax.config.update("jax_disable_most_optimizations", True)
