"""Optimizers from optax, with schedule, clipping, weight-decay rules and layer-wise rates.

Every parameter must be covered by a rule: a leaf that no rule names is an error, not a default. Rules go
by the paths and shapes of parameters.
"""

import dataclasses
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from train.tree import is_embedding, path_names

Params = Any

DECAY_RULES: tuple[tuple[str, bool], ...] = (
    (r"(^|/)(bias|scale)(_[A-Z]+)?$|/(bias|scale)/|norm", False),
    (r"(^|/)(positions|types)$", False),
    (r"lora_[ab]$", False),
    (r"(tokens|kernel|query|key|value|out|qkv|wi|wo|gate|up|down|table|weight)(_[A-Z]+)?$", True),
)
"""Path pattern -> is weight decay applied. The first match wins; biases, norms and position tables are not decayed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What turns gradients into updates."""

    name: Literal["adamw", "lamb", "lion", "adafactor", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    """After warm-up: linear or cosine to `final_fraction`; wsd holds, then falls linearly over the last `decay` part."""
    warmup: float = 0.06
    """Share of all steps spent warming up from 0."""
    decay: float = 0.2
    """Share of all steps in which a wsd schedule falls."""
    final_fraction: float = 0.0
    """Last learning rate as a share of the peak."""
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    layer_decay: float = 1.0
    """Learning rate of depth d is multiplied by layer_decay ** (depth of the head - d) (Clark et al. 2020, ELECTRA)."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"optimizer.learning_rate must be positive, got {self.learning_rate}")
        together = self.warmup + (self.decay if self.schedule == "wsd" else 0)
        if not 0 <= self.warmup <= 1 or not 0 <= self.decay <= 1 or together > 1:
            raise ValueError(
                f"optimizer.warmup {self.warmup} and optimizer.decay {self.decay} are shares of all steps: each in "
                "[0, 1], for schedule wsd together at most 1"
            )
        if self.clip_norm < 0 or self.weight_decay < 0:
            raise ValueError(
                f"optimizer.clip_norm {self.clip_norm} and optimizer.weight_decay {self.weight_decay} must not be negative"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay must be in (0, 1], got {self.layer_decay}")

    def rate(self, steps: int) -> optax.Schedule:
        """The learning rate as a function of the step, for a run of `steps` steps."""
        warm = max(1, round(self.warmup * steps)) if self.warmup > 0 else 0
        end, peak = self.learning_rate * self.final_fraction, self.learning_rate
        rest = max(1, steps - warm)
        if self.schedule == "constant":
            after: optax.Schedule = optax.constant_schedule(peak)
        elif self.schedule == "linear":
            after = optax.linear_schedule(peak, end, rest)
        elif self.schedule == "cosine":
            after = optax.cosine_decay_schedule(peak, rest, self.final_fraction)
        else:
            fall = max(1, round(self.decay * steps))
            after = optax.linear_schedule(peak, end, fall, transition_begin=max(0, rest - fall))
        # Step 0 already moves: a first update of exactly zero would be a wasted batch.
        up = optax.linear_schedule(peak / max(1, warm), peak, max(1, warm - 1))
        return optax.join_schedules([up, after], [warm]) if warm else after

    def build(self, steps: int) -> optax.GradientTransformation:
        """The optax transformation for a run of `steps` steps."""
        chain: list[optax.GradientTransformation] = []
        if self.clip_norm > 0:
            chain.append(optax.clip_by_global_norm(self.clip_norm))
        chain.append(self._precondition())
        if self.weight_decay > 0:
            chain.append(optax.add_decayed_weights(self.weight_decay, mask=decay_mask))
        if self.name == "lamb":
            chain.append(_scale_by_layer_trust())
        if self.layer_decay < 1:
            chain.append(_scale_by_depth(self.layer_decay))
        chain.append(optax.scale_by_learning_rate(self.rate(steps)))
        return optax.chain(*chain)

    def _precondition(self) -> optax.GradientTransformation:
        if self.name == "lion":
            return optax.scale_by_lion(b1=self.b1, b2=self.b2)
        if self.name == "adafactor":
            return optax.scale_by_factored_rms()
        if self.name == "sgd":
            return optax.trace(decay=self.b1) if self.b1 > 0 else optax.identity()
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)


def decay_mask(params: Params) -> Params:
    """True where weight decay applies; raises for a leaf that no rule of `DECAY_RULES` names."""

    def decide(path: Any, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, decays in DECAY_RULES:
            if re.search(pattern, name):
                return decays
        raise ValueError(
            f"no weight-decay rule covers the parameter {name} {leaf.shape}: add one to DECAY_RULES"
        )

    return jax.tree_util.tree_map_with_path(decide, params)


def depth_multipliers(params: Params, layer_decay: float) -> Params:
    """What each leaf's rate is multiplied by; scanned layers get one number per layer, along axis 0."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    stacked = {x.shape[0] for p, x in leaves if "layers" in path_names(p)}
    if len(stacked) > 1:
        raise ValueError(f"stacked layers of different counts {sorted(stacked)}: layer_decay needs one stack")
    layers = stacked.pop() if stacked else 0

    def scale(path: Any, leaf: Any) -> jax.Array:
        names = path_names(path)
        if "layers" in names:
            powers = layer_decay ** jnp.arange(layers, 0, -1, dtype=jnp.float32)
            return powers.reshape(layers, *[1] * (leaf.ndim - 1))
        depth = 0 if is_embedding(names) else layers + 1
        return jnp.asarray(layer_decay ** (layers + 1 - depth), jnp.float32).reshape([1] * leaf.ndim)

    return jax.tree_util.tree_map_with_path(scale, params)


def _scale_by_layer_trust() -> optax.GradientTransformation:
    """LAMB's |parameter| / |update| (You et al., arXiv 1904.00962, algorithm 2), for each layer of a scanned stack."""

    def scale(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
        axes = tuple(range(1 if "layers" in path_names(path) else 0, update.ndim))
        norms = [jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True)) for x in (param, update)]
        usable = (norms[0] > 0) & (norms[1] > 0)
        return update * jnp.where(usable, norms[0] / jnp.where(usable, norms[1], 1.0), 1.0)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates, params))


def _scale_by_depth(layer_decay: float) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, params: jax.tree.map(jnp.multiply, updates, depth_multipliers(updates, layer_decay))
    )
