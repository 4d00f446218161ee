"""FLOPs of any function, counted from its jaxpr, and the peak rates that turn them into MFU.

XLA's cost analysis counts a scanned layer stack once; here a scan's body counts as often as it runs. Only matrix products
and convolutions are counted (2 x multiply-adds), as is usual for MFU. Recomputation is counted where it stands: count the
step without remat for model FLOPs.
"""

import math
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

PEAK_BF16: dict[str, float] = {
    # FLOP/s per chip, from the vendors' data sheets.
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
}


def count_flops(function: Any, *args: Any) -> int:
    """FLOPs of the matrix products in one call of `function(*args)`; `args` may be shapes.

    >>> import jax.numpy as jnp
    >>> a, b = jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((3, 5), jnp.float32)
    >>> count_flops(jnp.matmul, a, b)  # 2 * 2 * 3 * 5
    60
    >>> count_flops(lambda a, b: jax.lax.scan(lambda c, _: (c, a @ b), 0, None, length=7), a, b)
    420
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    # What no output needs is not run: the step's weights-only call of the model, for one.
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(live)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_count_equation(e) for e in jaxpr.eqns)


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _count_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        lhs = _shape(equation.invars[0])
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(lhs[i] for i in contract)
    if name == "conv_general_dilated":
        kernel, out_dim = _shape(equation.invars[1]), params["dimension_numbers"].rhs_spec[0]
        return 2 * math.prod(_shape(equation.outvars[0])) * math.prod(kernel) // kernel[out_dim]
    times = params["length"] if name == "scan" else 1
    if name == "cond":
        return max(_count(b.jaxpr) for b in params["branches"])
    return times * sum(_count(j) for j in _inner(params))


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
    """Jaxprs among an equation's parameters (jit, scan, remat, custom rules); forward rules are not run, so not counted."""
    found = []
    for value in params.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found


def peak_flops() -> float | None:
    """Peak bf16 FLOP/s of all devices together, or None where the chip's peak is not known."""
    kind = jax.devices()[0].device_kind
    return PEAK_BF16[kind] * jax.device_count() if kind in PEAK_BF16 else None
