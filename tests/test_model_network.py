"""Backbone and heads as one network: what its parameters, names and tables are to others."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.heads import Classifier, MaskedLMHead, Pooler
from model.network import Network
from objectives.measuring import QUICK
from tests.test_model import (
    CONFIGS,
    assert_trees_close,
    each_model,
    restless,
)


@each_model
def test_logical_axes_mirror_the_parameters(config):
    heads = (
        ("masked_lm", MaskedLMHead(config)),
        ("pooler", Pooler(config)),
        ("classes", Classifier(config, 3)),
    )
    network = Network(config.build(), heads)
    params, axes = jax.eval_shape(network.init, jax.random.key(0)), network.logical_axes()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda x: isinstance(x, tuple))
    assert [path for path, _ in leaves] == [path for path, _ in named]
    sizes = {"vocab": 61, "embed": 32, "mlp": 48, "heads": 2, "head_dim": 16, "layers": 2, "classes": 3}
    for (path, leaf), (_, names) in zip(leaves, named, strict=True):
        assert isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == jnp.float32  # no box is left
        assert len(names) == leaf.ndim
        assert (names[0] == "layers") == ("layers" in jax.tree_util.keystr(path))
        named_once = [name for name in names if name is not None]
        assert len(set(named_once)) == len(named_once)
        for name, size in zip(names, leaf.shape, strict=True):
            assert name is None or size == sizes.get(name, size)
    kernel = axes["backbone"]["layers"]["attention"]["query"]["kernel"]
    assert kernel == ("layers", "embed", "heads", "head_dim")
    assert axes["backbone"]["layers"]["attention"]["out"]["kernel"] == (
        "layers",
        "heads",
        "head_dim",
        "embed",
    )


def test_network_is_a_static_argument():
    def build():
        return Network(CONFIGS["bert"].build(), (("pooler", Pooler(CONFIGS["bert"])),))

    assert build() == build() and hash(build()) == hash(build())
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def width(network, x):
        traces.append(1)
        return x * network.backbone.config.width

    assert width(build(), 1) == width(build(), 1) == 32
    assert len(traces) == 1


def test_heads_do_not_change_the_backbones_initial_values():
    config = dataclasses.replace(CONFIGS["encoder"], layers=1)
    networks = Network(config.build()), Network(config.build(), (("pooler", Pooler(config)),))
    alone, headed = (
        jax.jit(network.init, compiler_options=QUICK)(jax.random.key(0))["backbone"] for network in networks
    )
    assert_trees_close(alone, headed, rtol=0, atol=0)


def test_unknown_and_repeated_heads_are_refused():
    config = CONFIGS["bert"]
    network = Network(config.build(), (("pooler", Pooler(config)),))
    with pytest.raises(ValueError, match="'poler'.*'pooler'"):
        network.bind({}).head("poler", jnp.zeros((1, 32)))
    with pytest.raises(ValueError, match="differ.*'a', 'a'"):
        Network(config.build(), (("a", Pooler(config)), ("a", Pooler(config))))


def test_unembedding_is_tied():
    config = CONFIGS["gpt2"]
    network = Network(config.build()).bind(restless(config))
    hidden = jax.random.normal(jax.random.key(0), (2, 3, 32))
    logits = network.unembed(hidden)
    table = network.params["backbone"]["embed"]["tokens"]
    np.testing.assert_allclose(logits, np.asarray(hidden) @ np.asarray(table).T, rtol=1e-4, atol=1e-5)
    bias = jnp.arange(61.0)
    np.testing.assert_allclose(
        network.unembed(hidden, bias) - logits, np.broadcast_to(bias, (2, 3, 61)), atol=1e-4
    )
