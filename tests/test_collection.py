import functools
import os
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.acting.collection import Play, collect_episodes, make_policy_step
from moto_jax.acting.processes import Process, ProcessDied
from moto_jax.acting.worker_pool import WorkerError, WorkerPool
from moto_jax.types import Policy
from moto_jax.worlds.kitchen.environment import KitchenEnv
from tests.fake_envs import (
    NUM_ACTIONS,
    BrokenEnv,
    CountingEnv,
    FaultyEnv,
    WaitingEnv,
)

FAULTS = ("raises", "dies", "hangs", "nan", "shape", "dtype")
KEY = jax.random.key(0)


def constant_policy(value=0.25):
    def act(params, carry, image, is_first, key):
        return jnp.full((len(image), NUM_ACTIONS), value), carry

    return Policy(initial=lambda n: (), act=act)


def random_recurrent_policy():
    """Action: noise by the key, and how many rows the carry has seen, over 128."""

    def act(params, carry, image, is_first, key):
        carry = jnp.where(is_first, 0, carry) + 1
        noise = jax.random.uniform(key, carry.shape, minval=-0.5, maxval=0.5)
        mixed = jnp.tanh(image.reshape(len(image), -1) @ params)
        return jnp.stack([carry / 128, noise * mixed], axis=-1), carry

    return Policy(initial=lambda n: np.zeros(n, np.int32), act=act)


def collect(pool, seeds, policy=None, params=None, key=KEY):
    policy_step = make_policy_step(policy or constant_policy())
    params = jax.tree.map(lambda leaf: leaf[None], params)
    return list(collect_episodes(pool, policy_step, params, key[None], plays(seeds)))


def plays(seeds, member=0):
    return [Play(member, seed) for seed in seeds]


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(CountingEnv, num_workers=2) as pool:
        yield pool


def faulty_pool(fault, num_workers=2, fuse=None, times=1, **overrides):
    make_env = functools.partial(FaultyEnv, fault, fuse=fuse, times=times)
    deadlines = {"step_deadline_s": 1.0, "reset_deadline_s": 30.0, **overrides}
    return WorkerPool(make_env, num_workers, **deadlines)


def assert_same(episode, other):
    for name in ("image", "action", "objects_in_goal", "qpos"):
        np.testing.assert_array_equal(getattr(episode, name), getattr(other, name))


def test_episodes_are_the_known_ones_in_seed_order(pool):
    seeds = [5, 0, 4, 3]  # 4 + seed % 3 = 6, 4, 5, 4 steps
    episodes = collect(pool, seeds)
    assert [len(episode.action) for episode in episodes] == [6, 4, 5, 4]
    for seed, episode in zip(seeds, episodes, strict=True):
        rows = np.arange(episode.num_rows)
        np.testing.assert_array_equal(episode.image[:, 0, 0, 0], seed + rows)
        np.testing.assert_array_equal(episode.objects_in_goal, np.eye(7)[rows] > 0)
        # The row after j actions of 0.25 has moved by j / 4.
        np.testing.assert_array_equal(episode.qpos[:, 0], rows / 4)
        assert (episode.action == 0.25).all()


def test_no_worker_waits_for_a_slower_one(pool, tmp_path):
    expected = collect(pool, [1, 2, 3, 4])
    make_env = functools.partial(WaitingEnv, tmp_path / "ended")
    with WorkerPool(make_env, 2, step_deadline_s=20.0, max_restarts=0) as waiting:
        episodes = collect(waiting, [1, 2, 3, 4])
    for episode, other in zip(episodes, expected, strict=True):
        assert_same(episode, other)


def test_workers_do_not_import_jax(pool):
    (episode,) = collect(pool, [0])
    assert "jax" in sys.modules
    assert (episode.qpos[:, 1] == 0.0).all()


def test_workers_do_not_import_the_main_module(tmp_path):
    """The training program imports jax before it knows that it is the main module."""
    program = tmp_path / "program.py"
    program.write_text(
        "import jax\n"
        "from tests.fake_envs import CountingEnv\n"
        "from tests.test_collection import collect\n"
        "from moto_jax.acting.collection import WorkerPool\n"
        "with WorkerPool(CountingEnv, 1) as pool:\n"
        "    print(collect(pool, [0])[0].qpos[:, 1].max())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(program)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, timeout=120
    )
    assert (done.stdout.decode().strip(), done.stderr.decode()) == ("0.0", "")


def test_episodes_do_not_depend_on_the_number_of_workers(pool):
    """Bit for bit, for a policy with a carry, parameters and noise."""
    params = np.random.default_rng(0).normal(size=(48, 1)).astype(np.float32)[:, 0]
    policy, seeds = random_recurrent_policy(), [7, 1, 2, 9, 4]
    by_two = collect(pool, seeds, policy, params)
    for num_workers in (1, 4):
        with WorkerPool(CountingEnv, num_workers) as other:
            for a, b in zip(by_two, collect(other, seeds, policy, params), strict=True):
                assert_same(a, b)
    for episode in by_two:
        # The carry starts anew with each episode, whatever its slot did before.
        steps = np.arange(1, len(episode.action) + 1, dtype=np.float32)
        np.testing.assert_array_equal(episode.action[:, 0], steps / 128)


def test_noise_differs_by_row_seed_and_key_and_repeats(pool):
    params = np.ones(48, np.float32)
    policy = random_recurrent_policy()
    first, other_seed = collect(pool, [3, 4], policy, params)
    (again,) = collect(pool, [3], policy, params)
    (other_key,) = collect(pool, [3], policy, params, jax.random.key(1))
    assert_same(first, again)
    assert len(np.unique(first.action[:, 1])) == len(first.action)
    assert not np.isin(first.action[:, 1], other_seed.action[:, 1]).any()
    assert not np.isin(first.action[:, 1], other_key.action[:, 1]).any()


def test_policy_is_traced_once(pool):
    traces = []

    def act(params, carry, image, is_first, key):
        traces.append(image.shape)
        return jnp.zeros((len(image), NUM_ACTIONS)), carry + 1

    policy_step = make_policy_step(Policy(initial=jnp.zeros, act=act))
    for seeds in ([0], [1, 2, 3], []):
        list(collect_episodes(pool, policy_step, None, KEY[None], plays(seeds)))
    assert traces == [(1, 4, 4, 3)]


@pytest.fixture(scope="module")
def large_pool():
    with WorkerPool(CountingEnv, num_workers=5) as pool:
        yield pool


class TestBatched:
    """As in a run on an accelerator: one call for all episodes under way."""

    def played(self, pool, seeds, batched=True):
        """Episodes, and how many rows each call of the policy had."""
        params = np.random.default_rng(0).normal(size=(1, 48)).astype(np.float32)
        inner, rows = make_policy_step(random_recurrent_policy(), batched), []

        def step(params, carry, image, *rest):
            rows.append(len(image))
            return inner.step(params, carry, image, *rest)

        counted = inner._replace(step=step)
        episodes = collect_episodes(pool, counted, params, KEY[None], plays(seeds))
        return list(episodes), rows

    @pytest.mark.parametrize(
        ("episodes", "size"), [(1, 1), (3, 3), (5, 5), (6, 3), (7, 4), (11, 4)]
    )
    def test_no_row_is_computed_for_a_worker_with_nothing_to_play(
        self, large_pool, episodes, size
    ):
        found, rows = self.played(large_pool, range(episodes))
        assert set(rows) == {size}
        alone, _ = self.played(large_pool, range(episodes), batched=False)
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_allclose(a.action, b.action, atol=1e-5)

    def test_nothing_to_play_asks_no_policy(self, large_pool):
        assert self.played(large_pool, []) == ([], [])

    @pytest.mark.parametrize("batched", [False, True])
    def test_only_a_loop_goes_row_by_row(self, batched):
        policy_step = make_policy_step(random_recurrent_policy(), batched)
        rows = 3
        arguments = (
            np.ones((2, 48), np.float32),
            policy_step.initial(rows),
            np.zeros((rows, 4, 4, 3), np.uint8),
            np.ones(rows, np.bool_),
            jax.random.split(KEY, 2),
            np.zeros(rows, np.int32),
            np.arange(rows, dtype=np.uint32),
            np.zeros(rows, np.int32),
        )
        program = str(jax.make_jaxpr(policy_step.step)(*arguments))
        assert (" scan[" in program) != batched

    @pytest.mark.parametrize(("platform", "batched"), [("cpu", False), ("gpu", True)])
    def test_what_the_run_is_on_decides(self, platform, batched, monkeypatch):
        monkeypatch.setattr(jax, "default_backend", lambda: platform)
        assert make_policy_step(constant_policy()).batched == batched


def test_members_that_play_together_play_as_they_would_alone(pool):
    """Three parameter sets, three episodes each, over two workers."""
    policy = random_recurrent_policy()
    params = np.random.default_rng(0).normal(size=(3, 48)).astype(np.float32)
    keys = jax.random.split(KEY, 3)
    together = collect_episodes(
        pool,
        make_policy_step(policy),
        params,
        keys,
        [Play(member, seed) for seed in (5, 6, 7) for member in (2, 0, 1)],
    )
    episodes = iter(list(together))
    alone = {
        member: collect(pool, [5, 6, 7], policy, params[member], keys[member])
        for member in range(3)
    }
    for number in range(3):
        for member in (2, 0, 1):
            assert_same(next(episodes), alone[member][number])
    # Equal environments, so that only the member tells them apart.
    assert (alone[0][0].action[:, 1] != alone[1][0].action[:, 1]).any()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_worker_is_replaced_and_its_episode_run_again(fault, tmp_path, pool):
    params, policy, seeds = np.ones(48, np.float32), random_recurrent_policy(), range(4)
    unharmed = collect(pool, seeds, policy, params)
    with faulty_pool(fault, fuse=tmp_path / "fuse") as faulty:
        before = faulty.process_ids
        episodes = collect(faulty, seeds, policy, params)
        after = faulty.process_ids
    assert (tmp_path / "fuse").exists()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    for episode, expected in zip(episodes, unharmed, strict=True):
        assert_same(episode, expected)


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGKILL, "killed by SIGKILL, most often for want of memory"),
        (signal.SIGTERM, "killed by SIGTERM$"),
        (signal.SIGRTMIN + 1, rf"killed by signal {signal.SIGRTMIN + 1}$"),
        (None, "ended with exit code 3"),
    ],
)
def test_how_a_process_ended_is_told(number, how):
    process = Process("tests.fake_envs", "end_on_request")
    if number is None:
        process.send("end")
    else:
        os.kill(process.process_id, number)
    with pytest.raises(ProcessDied, match=how):
        process.receive()


def test_a_process_that_stays_without_its_pipe_is_ended(monkeypatch):
    monkeypatch.setattr("moto_jax.acting.processes._ENDING_S", 0.1)
    process = Process("tests.fake_envs", "end_on_request")
    process.send("close")
    with pytest.raises(ProcessDied, match="closed its pipe and did not end"):
        process.receive()
    assert not os.path.exists(f"/proc/{process.process_id}")


def test_a_worker_killed_from_outside_is_replaced(pool):
    unharmed = collect(pool, range(5))
    episodes = []
    for episode in collect_episodes(
        pool, make_policy_step(constant_policy()), None, KEY[None], plays(range(5))
    ):
        if not episodes:
            killed = pool.process_ids[1]
            os.kill(killed, signal.SIGKILL)
        episodes.append(episode)
    assert killed not in pool.process_ids
    for episode, expected in zip(episodes, unharmed, strict=True):
        assert_same(episode, expected)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "RuntimeError: the simulator is unstable"),
        ("dies", "killed by SIGKILL, most often for want of memory"),
        ("hangs", "no answer within 0.2 s"),
        ("nan", "NaN or infinite qpos"),
        (
            "shape",
            r"uint8\[3, 4, 3\] where its observation space says uint8\[4, 4, 3\]",
        ),
        ("dtype", "float32"),
    ],
)
def test_a_fault_that_stays_is_an_error_that_names_it(fault, message):
    with faulty_pool(fault, 1, step_deadline_s=0.2, max_restarts=1) as pool:
        with pytest.raises(WorkerError, match=message) as caught:
            collect(pool, [0, 1])
        assert "failed 2 times within 600 s" in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(RuntimeError, match="closed"):
            collect(pool, [0])


def test_an_environment_that_cannot_be_built_is_named():
    with WorkerPool(BrokenEnv, 1, max_restarts=1) as pool:
        with pytest.raises(WorkerError, match="ValueError: no such kitchen"):
            collect(pool, [0])


def test_restarts_long_ago_are_forgiven(tmp_path):
    """Three failures in all, never two within a window that lets one pass."""
    options = {"fuse": tmp_path / "fuse", "times": 3, "max_restarts": 1}
    with faulty_pool("raises", 1, restart_window_s=0.0, **options) as pool:
        assert len(collect(pool, [1])) == 1
    assert len(options["fuse"].read_text()) == 3


def test_an_interruption_leaves_no_stale_answer(pool, monkeypatch):
    """Ctrl-C between question and answer, then the same pool again."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing.connection.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            collect(pool, [77, 78])
    # One episode first, while the other worker's answer would be there already.
    time.sleep(0.5)
    for seeds in ([9], [9, 12]):
        for episode, seed in zip(collect(pool, seeds), seeds, strict=True):
            known = seed + np.arange(5)
            np.testing.assert_array_equal(episode.image[:, 0, 0, 0], known)


def test_a_pool_serves_one_caller_at_a_time(pool):
    policy_step = make_policy_step(constant_policy())
    iterator = collect_episodes(pool, policy_step, None, KEY[None], plays([0, 1, 2]))
    next(iterator)
    with pytest.raises(RuntimeError, match="already"):
        collect(pool, [0])
    iterator.close()
    assert len(collect(pool, [0])) == 1


def test_runs_in_a_thread_beside_the_main_one(pool):
    expected = collect(pool, [1, 2])
    results = []
    thread = threading.Thread(target=lambda: results.extend(collect(pool, [1, 2])))
    thread.start()
    while thread.is_alive():
        jax.block_until_ready(jnp.ones(10) + 1)
    thread.join()
    for episode, other in zip(results, expected, strict=True):
        assert_same(episode, other)


def test_a_policy_that_is_not_finite_is_named(pool):
    with pytest.raises(FloatingPointError, match="row 0 of the episode with seed 6"):
        collect(pool, [6], constant_policy(np.nan))


def test_actions_are_clipped_to_the_action_space(pool):
    (episode,) = collect(pool, [0], constant_policy(1.5))
    assert (episode.action == 1.0).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_workers is 0"):
        WorkerPool(CountingEnv, 0)
    with WorkerPool(CountingEnv, 1) as pool:
        with pytest.raises(ValueError, match="seed -1"):
            collect(pool, [-1])


def test_close_ends_the_processes():
    pool = WorkerPool(CountingEnv, 2)
    process_ids = pool.process_ids
    pool.close()
    pool.close()
    for process_id in process_ids:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)


def test_workers_end_with_the_process_that_made_them():
    program = (
        "import os\n"
        "from moto_jax.acting.collection import WorkerPool\n"
        "from tests.fake_envs import CountingEnv\n"
        "pool = WorkerPool(CountingEnv, 1)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # The worker holds the captured pipes too, so this returns once both have ended.
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.kitchen
def test_the_kitchen_is_the_same_by_one_and_by_two_workers():
    """Physics, noise and pixels, for a policy that moves by what it sees."""

    def act(params, carry, image, is_first, key):
        noise = jax.random.uniform(key, (len(image), 9), minval=-1.0)
        return noise * image.mean() / 255, carry

    policy = Policy(initial=lambda n: (), act=act)
    make_env = functools.partial(KitchenEnv, episode_steps=12)
    episodes = []
    for num_workers in (1, 2):
        with WorkerPool(make_env, num_workers) as kitchens:
            episodes.append(collect(kitchens, [1, 2, 3], policy))
    for one, two in zip(*episodes, strict=True):
        assert one.num_rows == 13
        assert one.image.std() > 10
        assert_same(one, two)
    assert (episodes[0][0].qpos != episodes[0][1].qpos).any()
