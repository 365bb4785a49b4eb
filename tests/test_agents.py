"""The one table: every agent, in both phases and both dtypes, on the `tiny` sizes.

A new agent joins with an entry in EXPECTATIONS.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.base import get_config
from moto_jax.agents import (
    AGENTS,
    cal_ql,
    combo,
    cql,
    iql,
    lompo,
    make_agent,
    rlpd,
    sac,
)
from moto_jax.learning import actor_critic, conservatism, model_based, model_free
from moto_jax.learning.disagreement import log_density_deviation
from moto_jax.learning.imagination import open_loop
from moto_jax.learning.learners import Learnable, read_section
from moto_jax.running import checkpoints
from tests import fake_actor_critic, fakes

# The smallest image has the fewest layers to compile.
ACTION_SIZE, IMAGE_SIZE = 9, 16
UPDATES = 3


class Expectation(NamedTuple):
    """Fields of an agent's state after three updates, target networks not yet due.

    Those of `learners` count as the state's own. Under `overrides` of its configuration
    all that can learn does, from the start.
    """

    learn: tuple[str, ...]
    stay: tuple[str, ...]
    overrides: dict[str, Any]
    # Fields of which some parts change and some stay.
    partly: tuple[str, ...] = ()


# Free nats would keep the priors still.
NO_FREE_NATS = {
    f"{section}.free_nats": 0.0 for section in ("moto", "dreamer_v2", "latent")
}
ACTOR_CRITIC = Expectation(
    learn=("step", "actor", "critic", "target_critic", "temperature", "acting"),
    stay=("key", "skipped"),
    overrides={},
)
LATENT = Expectation(
    learn=("step", "agent", "written", "agent_steps"),
    partly=("acting", "recorded", "imagined"),
    stay=("key", "skipped", "model"),
    overrides=NO_FREE_NATS,
)
# (agent, phase), where a phase has its own, or agent.
EXPECTATIONS = {
    "moto": Expectation(
        learn=("step", "model", "actor", "critic", "acting", "return_range"),
        stay=("key", "target_critic", "skipped"),
        overrides=NO_FREE_NATS,
    ),
    "dreamer_v2": Expectation(
        learn=("step", "model", "actor", "critic", "acting"),
        stay=("key", "target_critic", "skipped"),
        overrides=NO_FREE_NATS,
    ),
    "sac": ACTOR_CRITIC,
    "cql": ACTOR_CRITIC,
    "rlpd": ACTOR_CRITIC,
    "cal_ql": ACTOR_CRITIC,
    "iql": Expectation(
        learn=("step", "actor", "critic", "target_critic", "value", "acting"),
        stay=("key", "skipped"),
        overrides={},
    ),
    "bc": Expectation(
        learn=("step", "policy", "acting"), stay=("key", "skipped"), overrides={}
    ),
    **{
        (name, phase): expectation
        for name in ("lompo", "combo")
        for phase, expectation in {
            "model": Expectation(
                learn=("step", "model"),
                partly=("acting",),
                stay=(*LATENT.learn[1:], "recorded", "imagined", "key", "skipped"),
                overrides=NO_FREE_NATS,
            ),
            "offline": LATENT,
            "online": Expectation(
                learn=(*LATENT.learn, "model", "acting"),
                partly=("recorded", "imagined"),
                stay=("key", "skipped"),
                overrides=NO_FREE_NATS,
            ),
        }.items()
    },
}
PHASES = {
    name: ("model", "offline", "online")
    if name in ("lompo", "combo")
    else ("offline", "online")
    for name in AGENTS
}
# A CPU takes minutes to compile a whole update in bfloat16; COMBO's other phases are
# LOMPO's, with one member.
SLOW = {("combo", "model"), ("combo", "online")}
CASES = [
    pytest.param(
        (name, dtype, phase),
        id=f"{name}-{dtype}-{phase}",
        marks=[pytest.mark.slow]
        if dtype == "bfloat16" or (name, phase) in SLOW
        else [],
    )
    for name in AGENTS
    for dtype in ("float32", "bfloat16")
    for phase in PHASES[name]
]


def expectation(name: str, phase: str) -> Expectation:
    return EXPECTATIONS.get((name, phase)) or EXPECTATIONS[name]


def fields(state: Any) -> dict[str, Any]:
    """A state's fields, with those of its learners instead of `learners`."""
    own = dict(vars(state))
    return own | vars(own.pop("learners"))


# Three updates are fast however they are compiled, and compiling them is not.
QUICK_COMPILATION = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def without_keys(tree: Any) -> Any:
    """The tree as NumPy arrays, typed keys by their numbers."""

    def convert(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.array(leaf)

    return jax.tree.map(convert, tree)


def make_batch(agent):
    length, size = agent.batch_shape
    batch = fakes.random_batch(
        length, size, action_size=ACTION_SIZE, image_size=IMAGE_SIZE
    )
    batch.is_first[0, 0] = True
    batch.prev_action[0, 0] = 0.0
    # Recorded actions reach the ends.
    batch.prev_action[1:, :, 0] = 1.0
    batch.prev_action[1:, :, 1] = -1.0
    batch.behaviour_action[:-1] = batch.prev_action[1:]
    return batch


@functools.cache
def build(name: str, dtype: str):
    """An agent with its jitted `init`."""
    config = get_config("tiny")
    config.agent, config.compute_dtype = name, dtype
    config.update_from_flattened_dict(expectation(name, "offline").overrides)
    agent = make_agent(config, action_size=ACTION_SIZE, image_size=IMAGE_SIZE)
    return agent, jax.jit(agent.init, compiler_options=QUICK_COMPILATION)


@functools.cache
def compile_update(update):
    """The jitted update with its state donated, and a list with an entry a trace.

    `chex.assert_max_traces` tells functions apart by their source, which all updates
    that one factory makes share.
    """
    traces = []

    def traced(state, batch):
        traces.append(None)
        return update(state, batch)

    jitted = jax.jit(traced, donate_argnums=0, compiler_options=QUICK_COMPILATION)
    return jitted, traces


def begin(init):
    """A state bound to its device, as a restored one is: one program for both."""
    return jax.device_put(init(jax.random.key(0)), jax.devices()[0])


class Run(NamedTuple):
    """States before and after every update, their metrics, and the donated state."""

    states: list[Any]
    metrics: list[dict[str, np.ndarray]]
    donated: Any
    traces: list[None]


def play(name: str, dtype: str, phase: str) -> Run:
    agent, init = build(name, dtype)
    update, traces = compile_update(agent.updates[phase])
    state = donated = begin(init)
    states, metrics = [without_keys(state)], []
    for _ in range(UPDATES):
        state, measured = update(state, make_batch(agent))
        states.append(without_keys(state))
        metrics.append(jax.device_get(measured))
    return Run(states, metrics, donated, traces)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def run(case) -> Run:
    return play(*case)


def test_the_table_is_complete():
    named = {key if isinstance(key, str) else key[0] for key in EXPECTATIONS}
    assert named == set(AGENTS)
    for name, phases in PHASES.items():
        agent, _ = build(name, "float32")
        assert set(agent.updates) == set(phases), name
        assert (agent.model_share > 0) == ("model" in phases), name


def test_numbers_stay_finite_and_losses_are_scalars(run):
    chex.assert_tree_all_finite(run.states)
    for metrics in run.metrics:
        assert metrics
        for name, value in metrics.items():
            assert value.shape == () and np.isfinite(value), name


def learnables(state):
    """The parts of a state that an optimiser moves."""

    def is_one(part):
        return isinstance(part, Learnable)

    return [part for part in jax.tree.leaves(state, is_leaf=is_one) if is_one(part)]


def test_every_gradient_has_its_norm_among_the_metrics(run):
    """By these an update that is not finite is known."""
    pairs = zip(*map(learnables, run.states[:2]), strict=True)
    moved = sum(
        not all(map(np.array_equal, *map(jax.tree.leaves, (old.params, new.params))))
        for old, new in pairs
    )
    norms = [
        value
        for name, value in run.metrics[0].items()
        if name.endswith("gradient_norm")
    ]
    assert len(norms) == moved > 0
    assert np.all(np.array(norms) > 0)


def test_what_learns_changes_and_nothing_else(case, run):
    name, _, phase = case
    learn, stay, _, partly = expectation(name, phase)
    before, after = fields(run.states[0]), fields(run.states[-1])
    assert {*learn, *stay, *partly} == set(after)
    for field in (*learn, *partly):
        changed = [
            bool(np.any(old != new))
            for old, new in zip(
                jax.tree.leaves(before[field]),
                jax.tree.leaves(after[field]),
                strict=True,
            )
        ]
        assert any(changed) if field in partly else all(changed), field
    for field in stay:
        chex.assert_trees_all_equal(after[field], before[field])
    assert after["step"] == UPDATES


def test_state_keeps_its_shapes_and_dtypes_and_learns_in_float32(run):
    chex.assert_trees_all_equal_shapes_and_dtypes(*run.states)
    for leaf in jax.tree.leaves(run.states[-1]):
        # Bytes and flags are of stored rows.
        assert leaf.dtype in (np.float32, np.int32, np.uint32, np.uint8, np.bool_)


def test_the_update_is_traced_once(run):
    assert len(run.traces) == 1


def test_the_donated_state_is_gone(run):
    leaves = jax.tree.leaves(run.donated)
    assert all(leaf.is_deleted() for leaf in leaves)


def test_the_same_key_gives_the_same_numbers(case, run):
    again = play(*case)
    chex.assert_trees_all_equal(again.states, run.states)
    chex.assert_trees_all_equal(again.metrics, run.metrics)


def test_saved_and_restored_on_the_way_it_ends_the_same(case, run, tmp_path):
    name, dtype, phase = case
    agent, init = build(name, dtype)
    update, _ = compile_update(agent.updates[phase])
    state = begin(init)
    for _ in range(UPDATES - 1):
        state, _ = update(state, make_batch(agent))
    checkpoints.save(tmp_path, UPDATES - 1, state, {})
    abstract = jax.eval_shape(agent.init, jax.random.key(1))
    restored, _ = checkpoints.restore(tmp_path, abstract)
    ended, _ = update(restored, make_batch(agent))
    chex.assert_trees_all_equal(without_keys(ended), run.states[-1])


@pytest.mark.parametrize("name", AGENTS)
def test_policies_act_in_bounds_and_forget_where_an_episode_begins(name):
    agent, init = build(name, "float32")
    params = agent.acting_params(init(jax.random.key(0)))
    image = make_batch(agent).image[0]
    count = len(image)
    first, later = np.ones(count, np.bool_), np.zeros(count, np.bool_)
    later[1] = True
    for choose in ("mean", "sampled"):
        policy = agent.policies[choose]
        act = jax.jit(policy.act, compiler_options=QUICK_COMPILATION)
        key = jax.random.key(1)
        action, carry = act(params, policy.initial(count), image, first, key)
        assert action.shape == (count, ACTION_SIZE)
        assert action.dtype == jnp.float32
        assert np.all(np.abs(action) <= 1.0)
        # Row 1 begins again: what it saw and did before makes no difference.
        other = image.copy()
        other[0] = 255 - image[0]
        again, _ = act(params, carry, other, later, key)
        np.testing.assert_allclose(again[1], action[1], rtol=1e-5)
        # Row 0 goes on: there it does.
        fresh, _ = act(params, policy.initial(count), other, first, key)
        assert np.all(again[0] != fresh[0])


@pytest.mark.parametrize(
    ("name", "members"), [("moto", 3), ("lompo", 3), ("combo", 1), ("dreamer_v2", 1)]
)
def test_an_ensemble_is_of_those_agents_that_use_one(name, members):
    config = get_config("tiny")
    config.agent, config.world_model.members = name, 3
    agent = make_agent(config, action_size=ACTION_SIZE, image_size=IMAGE_SIZE)
    params = jax.eval_shape(
        lambda key: agent.acting_params(agent.init(key)), jax.random.key(0)
    )
    heads = jax.tree.leaves(params["model"]["rssm"]["prior_heads"])
    assert {leaf.shape[0] for leaf in heads} == {members}


def test_lompo_and_combo_differ_in_what_they_hand_over(monkeypatch):
    config = get_config("tiny")
    config.lompo.update(penalty_scale=3.0, entropy_scale=0.5)
    config.combo.update(
        weight=2.0, policy_actions=5, uniform_actions=6, backup_entropy=False
    )
    for module in (lompo, combo):
        monkeypatch.setattr(
            module, "make_latent_actor_critic", lambda config, **handed: handed
        )
    monkeypatch.setattr(combo, "make_conservative", lambda *numbers: numbers)
    sizes = {"action_size": ACTION_SIZE, "image_size": IMAGE_SIZE}
    ours, constants = (
        lompo.make_lompo(config, **sizes)[name] for name in ("pessimism", "constants")
    )
    assert ours == (log_density_deviation, 3.0, actor_critic.no_regulariser)
    assert (constants.entropy_scale, constants.backup_entropy) == (0.5, True)
    theirs, constants = (
        combo.make_combo(config, **sizes)[name] for name in ("pessimism", "constants")
    )
    assert theirs.penalty_scale == 0.0
    assert theirs.regulariser == ((2.0, 5, 6, False), conservatism.where_imagined)
    assert (constants.entropy_scale, constants.backup_entropy) == (1.0, False)
    logits, stoch = jnp.ones((1, 7, 2, 3)), jnp.ones((7, 2, 3))
    np.testing.assert_array_equal(theirs.uncertainty(logits, stoch), np.zeros(7))


@pytest.mark.parametrize("make", [lompo.make_lompo, combo.make_combo])
def test_actor_critics_on_latents_learn_at_rates_of_their_own(monkeypatch, make):
    config = get_config("tiny")
    config.optimizer.learning_rates.update(model=0.1, actor=0.2, critic=0.3)
    config.latent.learning_rates.update(actor=0.4, critic=0.5, temperature=0.6)
    rates, make_optimizer = [], model_based.make_optimizer

    def record(rate, **shared):
        rates.append(rate)
        return make_optimizer(rate, **shared)

    monkeypatch.setattr(model_based, "make_optimizer", record)
    make(config, action_size=ACTION_SIZE, image_size=IMAGE_SIZE)
    assert rates == [0.1, 0.4, 0.5, 0.6]


def test_iql_acts_through_the_actors_own_encoder(monkeypatch):
    monkeypatch.setattr(
        iql.model_free, "make_model_free", lambda config, **handed: handed
    )
    sizes = {"action_size": ACTION_SIZE, "image_size": IMAGE_SIZE}
    handed = iql.make_iql(get_config("tiny"), **sizes)
    params = {
        name: {"kernel": np.full(2, number)}
        for number, name in enumerate(("encoder", "actor", "critic", "value"))
    }
    learners = handed["init_learners"](params)
    for head in ("actor", "critic", "value"):
        own = getattr(learners, head).params
        np.testing.assert_array_equal(own[head]["kernel"], params[head]["kernel"])
        assert own["encoder"]["kernel"] is not params["encoder"]["kernel"]
    assert handed["acting_params"](learners) is learners.actor.params


def test_cql_is_sac_with_its_own_weight_everywhere(monkeypatch):
    config = get_config("tiny")
    config.cql.update(weight=2.0, policy_actions=5, uniform_actions=6)
    monkeypatch.setattr(cql, "make_sac", lambda config, **handed: handed)
    monkeypatch.setattr(cql, "make_conservative", lambda *numbers: numbers)
    handed = cql.make_cql(config, action_size=ACTION_SIZE, image_size=IMAGE_SIZE)
    unbounded = conservatism.unbounded
    assert handed["regulariser"] == (
        *((2.0, 5, 6, False), conservatism.everywhere),
        unbounded,
    )
    assert not handed["constants"].backup_entropy and config.cql.backup_entropy is False
    assert handed["online_share"] is None
    assert unbounded(fake_actor_critic.transitions()).max() == -np.inf


def test_cal_ql_is_cql_bounded_by_the_datas_returns(monkeypatch):
    monkeypatch.setattr(cal_ql, "make_cql", lambda config, **handed: handed)
    sizes = {"action_size": ACTION_SIZE, "image_size": IMAGE_SIZE}
    handed = cal_ql.make_cal_ql(get_config("tiny"), **sizes)
    assert handed["online_share"] == 0.5
    rows = fake_actor_critic.transitions()
    assert handed["lower_bound"](rows) is rows.return_to_go


def test_sac_hands_on_what_it_is_given():
    config = get_config("tiny")
    config.agent = "sac"
    section = read_section(config, "model_free", model_free.Section)
    seen = {}

    def reduction(name):
        def reduce(values, key):
            seen[name] = values.shape
            return values[0]

        return reduce

    agent = sac.make_sac(
        config,
        action_size=ACTION_SIZE,
        image_size=IMAGE_SIZE,
        section=section._replace(critics=3, batch_size=5),
        reductions={name: reduction(name) for name in ("target_value", "actor_value")},
        online_share=0.25,
    )
    assert agent.online_share == 0.25
    assert agent.batch_shape == (section.frames + 1, 5)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    batch = fakes.random_batch(
        *agent.batch_shape, action_size=ACTION_SIZE, image_size=IMAGE_SIZE
    )
    jax.eval_shape(agent.updates["offline"], state, batch)
    assert seen == {"target_value": (3, 5), "actor_value": (3, 5)}


def test_rlpd_is_sac_on_more_critics_and_half_its_own_episodes(monkeypatch):
    monkeypatch.setattr(rlpd, "make_sac", lambda config, **handed: handed)
    config = get_config("tiny")
    config.rlpd.update(critics=3, target_critics=3)
    config.model_free.layer_norm = False
    sizes = {"action_size": ACTION_SIZE, "image_size": IMAGE_SIZE}
    handed = rlpd.make_rlpd(config, **sizes)
    assert handed["online_share"] == 0.5
    assert handed["section"].critics == 3 and handed["section"].layer_norm
    assert handed["section"].units == config.model_free.units
    values = jnp.array([[1.0], [2.0], [6.0]])
    reduced = {
        name: reduce(values, jax.random.key(0)).item()
        for name, reduce in handed["reductions"].items()
    }
    assert reduced == {"target_value": 1.0, "actor_value": 3.0}
    config.rlpd.target_critics = 4
    with pytest.raises(ValueError, match=r"config\.rlpd\.target_critics is 4.*at most"):
        rlpd.make_rlpd(config, **sizes)


@pytest.mark.parametrize("name", AGENTS)
def test_predicted_images_are_like_the_batchs(name):
    agent, _ = build(name, "float32")
    if agent.model is None:
        pytest.skip(f"{name} has no model")
    key, batch = jax.random.key(0), make_batch(agent)
    params = jax.eval_shape(lambda key: agent.acting_params(agent.init(key)), key)
    images = jax.eval_shape(
        functools.partial(open_loop, agent.model, context=2),
        params["model"],
        batch,
        key=key,
    )
    assert images.shape == batch.image.shape
    assert images.dtype == np.uint8
