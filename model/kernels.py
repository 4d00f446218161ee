"""The attention kernels (which one a config gets is said by model/config.py): functions of q, k, v and segments.

Every kernel takes q of shape [B, L, H, K] and k, v of [B, S, G, K], of which each head serves H / G query heads
(arXiv 2305.13245), and lets a token attend to its own segment (if causal, up to itself and to the prefix); padding
(segment 0) attends to padding, so that no softmax is ever empty.

Shape suffixes: B batch, L query length, S key length, H query heads, G key and value heads, K head size.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax.linen.spmd import logical_to_mesh_axes
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import AxisType, PartitionSpec

from model.config import SPLASH_BLOCK

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite, so that max - max is never inf - inf


def allowed(segment_ids_BL: jax.Array, causal: bool, prefix_BL: jax.Array | None = None) -> jax.Array:
    """Who may attend to whom: [B, 1, L, S], true within a segment; the prefix is seen by all of its segment."""
    allowed_BLS = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
    if causal:
        index_L = jnp.arange(segment_ids_BL.shape[1])
        seen_BLS = (index_L[:, None] >= index_L[None, :])[None]
        if prefix_BL is not None:
            seen_BLS = seen_BLS | prefix_BL[:, None, :]
        allowed_BLS &= seen_BLS
    return allowed_BLS[:, None]


def plain_attention(
    q_BLHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    bias_BHLS: jax.Array,
    dropout: Callable[[jax.Array], jax.Array],
    scaled: bool = True,
) -> jax.Array:
    """Any backend, size and bias, with dropout; softmax in float32, all probabilities held in memory."""
    if scaled:
        q_BLHK = q_BLHK * q_BLHK.shape[-1] ** -0.5
    k_BSHK, v_BSHK = (_one_per_query_head(x, q_BLHK.shape[2]) for x in (k_BSGK, v_BSGK))
    scores_BHLS = jnp.einsum("BLHK,BSHK->BHLS", q_BLHK, k_BSHK, preferred_element_type=jnp.float32)
    probs_BHLS = jax.nn.softmax(scores_BHLS + bias_BHLS, axis=-1).astype(v_BSHK.dtype)
    return jnp.einsum("BHLS,BSHK->BLHK", dropout(probs_BHLS), v_BSHK)


def _one_per_query_head(x_BSGK: jax.Array, heads: int) -> jax.Array:
    """Each key or value head as often as query heads read it, in their order."""
    groups = x_BSGK.shape[2]
    return x_BSGK if groups == heads else jnp.repeat(x_BSGK, heads // groups, axis=2)


def library_attention(
    q_BLHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    allowed_B1LS: jax.Array,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """jax.nn's attention; "cudnn" is the flash kernel of NVIDIA GPUs, "xla" lets a test run it anywhere."""
    return jax.nn.dot_product_attention(
        q_BLHK, k_BSGK, v_BSGK, mask=allowed_B1LS, implementation=implementation
    )


def splash_attention(
    q_BLHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    segment_ids_BL: jax.Array,
    causal: bool,
    interpret: bool = False,
) -> jax.Array:
    """The flash kernel of TPUs, skipping what causality rules out; interpret lets a test run it anywhere."""

    def local(
        q_BLHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, segment_ids_BL: jax.Array
    ) -> jax.Array:
        length, heads = q_BLHK.shape[1:3]
        mask_LS = (splash.CausalMask if causal else splash.FullMask)((length, length))
        kernel = splash.make_splash_mha(
            splash.MultiHeadMask([mask_LS] * heads),
            block_sizes=_splash_blocks(length),
            head_shards=1,
            q_seq_shards=1,
            interpret=interpret,
        )
        q_BHLK, k_BGSK, v_BGSK = (
            x.swapaxes(1, 2) for x in (q_BLHK * q_BLHK.shape[-1] ** -0.5, k_BSGK, v_BSGK)
        )
        segments = splash.SegmentIds(segment_ids_BL, segment_ids_BL)
        return jax.vmap(kernel)(q_BHLK, k_BGSK, v_BGSK, segments).swapaxes(1, 2)

    # The axis that splits key heads splits query heads too: G divides H.
    return _per_device(local, k_BSGK.shape)(q_BLHK, k_BSGK, v_BSGK, segment_ids_BL)


def _splash_blocks(length: int) -> splash.BlockSizes:
    """The largest tile up to 512 that divides a row: fewer, larger steps (guess)."""
    block = next(size for size in (512, 384, 256, SPLASH_BLOCK) if length % size == 0)
    return splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )


def _per_device(local: Callable[..., jax.Array], shape: tuple[int, ...]) -> Callable[..., jax.Array]:
    """Run a kernel that the partitioner cannot split on each device's own rows and heads.

    Which mesh axes split them is said by the launcher: a mesh in context (jax.sharding.use_abstract_mesh)
    and flax's logical_axis_rules for "batch" and "heads". Without a mesh, or in pmap, arrays are local.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = {n for n, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto}
    if not free:
        return local
    batch, heads = logical_to_mesh_axes(("batch", "heads")) or (None, None)

    def fitting(axes: str | tuple[str, ...] | None, size: int) -> tuple[str, ...] | None:
        names = tuple(n for n in ((axes,) if isinstance(axes, str) else axes or ()) if n in free)
        shards = 1
        for name in names:
            shards *= mesh.shape[name]
        return names if names and size % shards == 0 else None

    rows = fitting(batch, shape[0])
    spec = PartitionSpec(rows, None, fitting(heads, shape[2]), None)
    # check_vma off: a Pallas call does not say over which axes its outputs vary.
    return jax.shard_map(
        local, in_specs=(spec, spec, spec, PartitionSpec(rows, None)), out_specs=spec, check_vma=False
    )
