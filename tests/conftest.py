"""What every test stands on: eight simulated CPU devices, and no silent rank promotion."""

import os

# Before jax is imported anywhere: the devices are made when the backend starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
