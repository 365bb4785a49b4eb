"""A policy's export: the checkpoint's policy again, and nothing that is not it."""

import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.base import get_config
from moto_jax.agents import AGENTS
from moto_jax.running import exports
from moto_jax.running.exports import (
    ExportError,
    TrainedPolicy,
    export_bytes,
    read_export,
)
from moto_jax.running.restoring import build_agent
from tests.programs import ROOT

# The smallest image has the fewest layers.
IMAGE_SIZE, ROWS = 16, 12
ENCODER_LAYERS = ("HalvingConv_0", "HalvingConv_1")


def drawn(leaf, generator):
    """Weights of about the size that training leaves, without compiling `init`."""
    fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 16
    return generator.normal(0, fan_in**-0.5, leaf.shape).astype(leaf.dtype)


def trained(name="moto", size="tiny", image_size=IMAGE_SIZE, **world_model):
    config = get_config(size)
    config.agent = name
    config.seeds = (3, 5)
    config.env.image_size = image_size
    config.world_model.update(world_model)
    agent = build_agent(config)
    abstract = jax.eval_shape(
        lambda key: agent.acting_params(agent.init(key)), jax.random.key(0)
    )
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: drawn(leaf, generator), abstract)
    return TrainedPolicy(agent, params, config, seed=5, updates=7)


def recorded_images():
    """An episode's images: few of them are alike."""
    generator = np.random.default_rng(1)
    shape = (ROWS, 1, IMAGE_SIZE, IMAGE_SIZE, 3)
    return generator.integers(0, 256, shape).astype(np.uint8)


def actions(agent, params, policy="mean"):
    """What a policy does in an episode whose images are given, [ROWS, A]."""
    act = jax.jit(agent.policies[policy].act)
    carry = agent.policies[policy].initial(1)
    done = []
    for row, image in enumerate(recorded_images()):
        key = jax.random.fold_in(jax.random.key(2), row)
        action, carry = act(params, carry, image, np.array([row == 0]), key)
        done.append(np.asarray(action[0]))
    return np.stack(done)


def rounded(params):
    return jax.tree.map(lambda leaf: leaf.astype(np.float16).astype(np.float32), params)


@pytest.mark.parametrize("name", AGENTS)
def test_the_export_acts_as_the_checkpoint_on_a_recorded_episode(name, tmp_path):
    policy = trained(name)
    path = tmp_path / "policy.npz"
    path.write_bytes(export_bytes(policy))
    read = read_export(path)
    assert (read.seed, read.updates) == (5, 7)
    assert read.config.to_dict() == {**policy.config.to_dict(), "seeds": [5]}
    for which in ("mean", "sampled"):
        exported = actions(read.agent, read.params, which)
        # Parameters that the file lacks have no part in it: here they are the run's.
        exact = actions(policy.agent, rounded(policy.params), which)
        np.testing.assert_array_equal(exported, exact)
    # Half precision keeps 11 bits: a weight moves by up to 2**-12 of itself. Summed up
    # over some layers and rows that is a thousandth of an action's range of 2. A class
    # of the latent state is drawn from probabilities that move as little: with these
    # keys each draw comes out the same.
    np.testing.assert_allclose(
        actions(read.agent, read.params),
        actions(policy.agent, policy.params),
        atol=2e-3,
    )


def test_what_no_policy_acts_with_is_left_out():
    policy = trained("moto")
    needed = exports.acting_leaves(policy.agent, policy.params, IMAGE_SIZE)
    parts = {"/".join(name.split("/")[:3]) for name in needed}
    assert {part for part in parts if not part.startswith("actor/")} == {
        f"model/{part}"
        for part in (
            *(f"encoder/{layer}" for layer in ENCODER_LAYERS),
            "rssm/cell",
            "rssm/embedding_input",
            "rssm/posterior_head",
            "rssm/transition_input",
        )
    }
    # Each of those that are left decides: without it the actions are others.
    names = {id(leaf): name for name, leaf in needed.items()}
    everything = actions(policy.agent, policy.params, "sampled")
    for name in needed:
        params = jax.tree.map(
            lambda leaf, name=name: leaf * 0 if names.get(id(leaf)) == name else leaf,
            policy.params,
        )
        assert (actions(policy.agent, params, "sampled") != everything).any(), name


def test_a_dead_computation_needs_nothing():
    def function(leaves):
        used, unused, dead, returned = leaves
        jnp.sin(dead)
        return jnp.cos(jnp.sin(used)), returned

    jaxpr = jax.make_jaxpr(function)([1.0, 2.0, 3.0, 4.0]).jaxpr
    assert exports._needed(jaxpr) == {0, 3}


def test_equal_policies_give_equal_files():
    assert export_bytes(trained("bc")) == export_bytes(trained("bc"))


@pytest.mark.parametrize("size", ["cpu", "full"])
@pytest.mark.parametrize("name", ["moto", "bc"])
def test_it_is_small_enough_for_a_repository(name, size):
    assert len(export_bytes(trained(name, size, 64))) < 10e6


def test_the_repositorys_policies_are_readable_and_have_cards():
    paths = list((ROOT / "experiments" / "policies").glob("*.npz"))
    assert paths
    for path in paths:
        assert path.stat().st_size < 10e6
        assert path.with_suffix(".md").is_file()
        read_export(path)


@pytest.mark.parametrize("value", [7e4, -7e4, np.nan, np.inf])
def test_a_parameter_that_half_precision_cannot_hold_is_refused(value):
    policy = trained("bc")
    policy.params["actor"]["Dense_0"]["bias"][0] = value
    with pytest.raises(ExportError, match="actor/Dense_0/bias"):
        export_bytes(policy)


@pytest.fixture(scope="module")
def exported():
    return export_bytes(trained("bc"))


def changed(contents, change):
    """The archive after a change of its fields and its description."""
    fields = dict(np.load(io.BytesIO(contents), allow_pickle=False))
    description = json.loads(fields.pop("description").tobytes())
    change(description, fields)
    text = np.frombuffer(json.dumps(description).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, description=text, **fields)
    return buffer.getvalue()


BIAS = "actor/Dense_0/bias"


def newer(description, fields):
    description["format"] = 2


def without_leaf(description, fields):
    del fields[BIAS], description["leaves"][BIAS]


def with_leaf(description, fields):
    fields["critic/bias"] = np.zeros(3, np.float16)
    description["leaves"]["critic/bias"] = [3]


def other_width(description, fields):
    fields[BIAS] = np.zeros(3, np.float16)
    description["leaves"][BIAS] = [3]


def other_width_unsaid(description, fields):
    fields[BIAS] = np.zeros(3, np.float16)


def other_dtype(description, fields):
    fields[BIAS] = fields[BIAS].astype(np.float64)


def other_agent(description, fields):
    description["config"]["agent"] = "moto_9"


def without_key(description, fields):
    del description["config"]["model_free"]["depth"]


def without_section(description, fields):
    del description["config"]["env"]


def without_updates(description, fields):
    del description["updates"]


def no_object(description, fields):
    description["leaves"] = [1]


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        (newer, "format is 2 and not 1"),
        (without_leaf, f"lacks the parameter {BIAS}"),
        (with_leaf, "has a parameter critic/bias"),
        (other_width, rf"{BIAS} is \[3\] and not \[4\]"),
        (other_width_unsaid, BIAS),
        (other_dtype, f"{BIAS}.*float64"),
        (other_agent, "moto_9"),
        (without_key, "config.model_free.depth is missing"),
        (without_section, "env"),
        (without_updates, "'updates'"),
        (no_object, "'leaves'"),
    ],
)
def test_what_does_not_fit_is_named(exported, tmp_path, change, culprit):
    path = tmp_path / "policy.npz"
    path.write_bytes(changed(exported, change))
    with pytest.raises(ExportError, match=culprit) as error:
        read_export(path)
    assert str(path) in str(error.value) and "experiments.export" in str(error.value)


def test_a_damaged_file_is_refused(exported, tmp_path):
    path = tmp_path / "policy.npz"
    with zipfile.ZipFile(io.BytesIO(exported)) as archive:
        info = archive.getinfo(f"{BIAS}.npy")
    flipped = bytearray(exported)
    flipped[info.header_offset + len(f"{BIAS}.npy") + 40] ^= 255
    for contents in (b"", b"PK", exported[: len(exported) // 2], bytes(flipped)):
        path.write_bytes(contents)
        with pytest.raises(ExportError, match="policy.npz cannot be used"):
            read_export(path)
    buffer = io.BytesIO()
    np.savez(buffer, description=np.array([{}], object))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ExportError, match="description"):
        read_export(path)
