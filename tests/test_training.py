import numpy as np
import pytest

from moto_jax.acting import collection
from moto_jax.acting.collection import collect_episodes
from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.data.episodes import read_episode
from moto_jax.data.replay import Replay
from moto_jax.running import checkpoints, loop, plan, players, training
from moto_jax.running.compilation import cpu_options
from moto_jax.running.online_episodes import OnlineEpisodes
from moto_jax.running.recording import Recorder
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import make_label
from tests.fake_training import (
    AGENT,
    DEMONSTRATIONS,
    EPISODES,
    OFFLINE,
    TOTAL,
    UPDATES,
    abstract_states,
    collects,
    install,
    make_fake_agent,
    metrics_lines,
    on_line,
    small_config,
    summary,
)


@pytest.fixture
def fakes(monkeypatch, pool):
    install(monkeypatch.setattr, pool)


@pytest.fixture
def tape(monkeypatch, fakes):
    """What the loop did, in order."""
    events = []

    def record(owner, name, event):
        function = getattr(owner, name)

        def recorded(*args, **kwargs):
            events.append(event(*args))
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, recorded)

    record(Replay, "add", lambda replay, episode, name: f"add {name}")
    record(OnlineEpisodes, "start", lambda online, new, params: f"start {new.number}")
    record(players, "evaluate", lambda *args: "evaluate")
    record(checkpoints, "save", lambda directory, step, *rest: f"save {step}")
    on_line(monkeypatch.setattr, lambda step, phase: events.append(f"{step} {phase}"))
    return events


def lines_of(workdir, phase):
    """The records of one phase, by step."""
    lines = metrics_lines(workdir)
    return {line["step"]: line for line in lines if line["phase"] == phase}


def updates_of(workdir):
    """The records of the updates, by step."""
    return lines_of(workdir, "offline") | lines_of(workdir, "online")


def test_the_order_of_things(tmp_path, tape):
    config = small_config(
        offline_updates=3,
        online_episodes=2,
        updates_per_episode=2,
        checkpoint_every=3,
        evaluate_every=0,
    )
    assert training.train(config, tmp_path) is None
    assert tape == [
        *(f"add {name}" for name, _ in DEMONSTRATIONS),
        # The mean and the sampled policy.
        *("evaluate", "evaluate", "0 evaluation before"),
        *("1 offline", "2 offline", "3 offline"),
        *("evaluate", "evaluate", "3 evaluation offline", "save 3"),
        # The first episode is waited for; the next is collected beside the updates.
        *("start 0", "add online/000000.npz", "4 collection", "start 1"),
        *("4 online", "5 online"),
        *("add online/000001.npz", "6 collection"),
        *("6 online", "save 6", "7 online"),
        *("evaluate", "evaluate", "7 evaluation online", "save 7"),
    ]


@pytest.mark.parametrize("together", [2, 3, 50])
def test_several_updates_a_program_change_nothing_but_how_often_the_host_asks(
    tmp_path, tape, together
):
    alone = small_config(log_every=4, checkpoint_every=5)
    training.train(alone, tmp_path / "alone")
    expected = list(tape)
    tape.clear()
    several = small_config(
        log_every=4, checkpoint_every=5, updates_per_program=together
    )
    training.train(several, tmp_path / "several")
    assert tape == expected
    assert updates_of(tmp_path / "several") == updates_of(tmp_path / "alone")


def test_a_round_of_two_is_stored_whole_before_the_updates_for_both(tmp_path, tape):
    config = small_config(
        offline_updates=1,
        online_episodes=3,
        updates_per_episode=1,
        episodes_per_round=2,
        checkpoint_every=0,
    )
    assert training.train(config, tmp_path) is None
    assert tape[tape.index("start 0") :] == [
        *("start 0", "add online/000000.npz", "add online/000001.npz", "2 collection"),
        *("start 1", "2 online", "3 online"),
        *("add online/000002.npz", "4 collection", "4 online"),
        *("evaluate", "evaluate", "4 evaluation online", "save 4"),
    ]
    line = lines_of(tmp_path, "collection")[2]
    paths = [tmp_path / "online" / f"{number:06d}.npz" for number in range(2)]
    in_goal = [read_episode(path).objects_in_goal for path in paths]
    task = tasks.resolve_task(config.task)
    columns = tasks.object_columns(task)
    objects = [rows[:, columns].any(axis=0).sum() for rows in in_goal]
    returns = [tasks.task_reward(rows[1:], task).sum() for rows in in_goal]
    assert line["objects"] == np.mean(objects) and line["return"] == np.mean(returns)
    assert len(set(returns)) == 2


def test_evaluations_come_at_the_ends_of_phases_and_in_between(tmp_path, fakes):
    training.train(small_config(evaluate_every=3), tmp_path)
    evaluated = [
        (line["step"], line["phase"])
        for line in metrics_lines(tmp_path)
        if "evaluation" in line["phase"]
    ]
    assert evaluated == [
        (0, "evaluation before"),
        (3, "evaluation offline"),
        (OFFLINE, "evaluation offline"),
        (6, "evaluation online"),
        (9, "evaluation online"),
        (TOTAL, "evaluation online"),
    ]
    for step, _ in evaluated:
        for which in ("best", "worst"):
            assert (tmp_path / "videos" / f"{step:06d}-{which}.mp4").exists()


def test_evaluations_report_both_policies_and_the_cloned_share(tmp_path, fakes):
    config = small_config(offline_updates=2, online_episodes=0)
    config.evaluation.episodes = 3
    training.train(config, tmp_path)
    replay = Replay(make_label(tasks.resolve_task("mixed")), 1, 1, 0)
    for name, episode in DEMONSTRATIONS:
        replay.add(episode, name)
    for line in lines_of(tmp_path, "evaluation offline").values():
        assert line["mean/episodes"] == line["sampled/episodes"] == 3
        assert 0 <= line["mean/objects"] <= 4
        assert 0 <= line["sampled/objects"] <= 4
        assert line["cloned_share"] == replay.behaviour_share


def test_an_evaluation_tells_each_episode_of_both_policies_and_all_seeds(
    tmp_path, monkeypatch, fakes
):
    told = []

    def show(recorder, step, phase, by_seed=(), place=None):
        if place:
            told.append((step, phase, place["episode"]))

    monkeypatch.setattr(Recorder, "show", show)
    config = small_config(offline_updates=2, online_episodes=0, evaluate_every=0)
    config.evaluation.episodes = 1
    config.evaluation.phase_end_episodes = 3
    config.seeds = (0, 4)
    training.train(config, tmp_path)
    before = [(0, "evaluation before", f"{n}/4") for n in range(1, 5)]
    end = [(2, "evaluation offline", f"{n}/12") for n in range(1, 13)]
    assert told == before + end


def test_episodes_are_collected_with_their_blocks_first_parameters(
    tmp_path, monkeypatch, fakes
):
    """Episode 0 with those the offline phase left, 1 too, 2 with those of block 1."""
    collected = []

    def record(pool, step, params, keys, plays):
        (weight,) = np.array(params["weight"])
        seeds = [play.seed for play in plays]
        if collects(seeds[0]):
            collected.append((seeds, weight))
        return collect_episodes(pool, step, params, keys, plays)

    monkeypatch.setattr(collection, "collect_episodes", record)
    config = small_config()
    config.seeds = (2,)
    training.train(config, tmp_path)
    assert [seeds for seeds, _ in collected] == [
        [environment_seed(Purpose.TRAINING, 2, number=number)]
        for number in range(EPISODES)
    ]
    updates = updates_of(tmp_path)
    for (_, weight), done in zip(
        collected, (OFFLINE, OFFLINE, OFFLINE + UPDATES), strict=True
    ):
        assert weight[0] == np.float32(updates[done]["weight/0"])
        assert weight[1] == np.float32(updates[done]["weight/1"])


def test_every_update_sees_its_own_batch_of_the_episodes_of_its_block(tmp_path, fakes):
    config = small_config()
    training.train(config, tmp_path)
    signals = [line["signal"] for _, line in sorted(updates_of(tmp_path).items())]
    assert len(signals) == TOTAL
    replay = Replay(
        make_label(tasks.TASKS["mixed"]),
        *(2, 4, *config.seeds),
        behaviour_share=config.replay.behaviour_share,
        # The agent has no model.
        transitions=True,
    )
    for name, episode in DEMONSTRATIONS:
        replay.add(episode, name)
    expected = [float(summary(replay.sample(update))) for update in range(OFFLINE)]
    for number in range(EPISODES):
        episode = read_episode(tmp_path / "online" / f"{number:06d}.npz")
        replay.add(episode, f"online/{number}", online=True)
        first = OFFLINE + number * UPDATES
        for update in range(first, first + UPDATES):
            expected.append(float(summary(replay.sample(update))))
    np.testing.assert_allclose(signals, expected, rtol=1e-6, atol=1e-6)
    # A batch of another update would be seen.
    assert np.diff(sorted(expected)).min() > 1e-5


@pytest.mark.parametrize("free", [1, 10**12])
def test_a_run_says_what_it_will_take_and_warns_of_too_little(
    tmp_path, monkeypatch, capsys, fakes, free
):
    monkeypatch.setattr(plan, "free_memory", lambda: free)
    monkeypatch.setattr(plan, "free_disk", lambda directory: 10**12)
    training.train(small_config(offline_updates=1, online_episodes=0), tmp_path)
    said = capsys.readouterr().err
    for what in ("networks: ", "replay: with ", "disk: at most "):
        assert f"\n{what}" in f"\n{said}"
    assert ("WARNING: state and replay take" in said) == (free == 1)


def test_what_an_online_episode_earned_is_told(tmp_path, fakes):
    training.train(small_config(), tmp_path)
    lines = lines_of(tmp_path, "collection")
    assert list(lines) == [OFFLINE + number * UPDATES + 1 for number in range(EPISODES)]
    task = tasks.resolve_task("mixed")
    columns = tasks.object_columns(task)
    for number, line in enumerate(lines.values()):
        episode = read_episode(tmp_path / "online" / f"{number:06d}.npz")
        in_goal = episode.objects_in_goal
        assert line["objects"] == in_goal[:, columns].any(axis=0).sum()
        assert line["return"] == tasks.task_reward(in_goal[1:], task).sum()


@pytest.mark.parametrize("which", ["mean", "sampled", "mean_with_noise"])
def test_the_policy_that_collects_is_the_one_that_was_asked_for(
    tmp_path, monkeypatch, fakes, which
):
    asked = []

    def record(policy):
        step = make_policy_step(policy)
        names = {id(policy.act): name for name, policy in AGENT.policies.items()}
        return step._replace(
            step=lambda *args: (
                asked.append((names[id(policy.act)], int(args[6].max())))
                or step.step(*args)
            )
        )

    make_policy_step = collection.make_policy_step
    monkeypatch.setattr(collection, "make_policy_step", record)
    training.train(small_config(collect_with=which), tmp_path)
    assert {name for name, seed in asked if collects(seed)} == {which}
    assert {name for name, seed in asked if not collects(seed)} == {
        "mean",
        "sampled",
    }


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {"xla_backend_optimization_level": "1"}),
        (
            "--xla_cpu_use_fusion_emitters=false",
            {"xla_backend_optimization_level": "1"},
        ),
        ("--xla_backend_optimization_level=3", {}),
    ],
)
def test_what_xla_flags_say_of_optimisation_holds(flags, expected, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert cpu_options(1) == expected


def test_metrics_are_fetched_when_the_next_are_due(tmp_path, tape, monkeypatch):
    compile_updates = loop.compile_updates

    def compile_and_record(*args):
        def record(update):
            def recorded(state, batch):
                tape.append("update")
                return update(state, batch)

            return recorded

        updates = compile_updates(*args)
        return {key: record(update) for key, update in updates.items()}

    monkeypatch.setattr(loop, "compile_updates", compile_and_record)
    config = small_config(
        offline_updates=6, online_episodes=0, log_every=2, checkpoint_every=0
    )
    training.train(config, tmp_path)
    first = tape.index("update")
    assert tape[first:] == [
        *("update", "update", "update", "update", "2 offline"),
        # The end of the phase fetches what there is.
        *("update", "update", "4 offline", "6 offline"),
        *("evaluate", "evaluate", "6 evaluation offline", "save 6"),
    ]


def test_a_complete_run_has_nothing_left_to_do(tmp_path, tape):
    training.train(small_config(), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    tape.clear()
    assert training.train(small_config(), tmp_path) is None
    assert tape == []
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_seeds_give_other_runs_and_equal_seeds_equal_ones(tmp_path, fakes):
    signals = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = small_config(offline_updates=2, online_episodes=1)
        config.seeds = (seed,)
        training.train(config, tmp_path / name)
        signals.append(metrics_lines(tmp_path / name))
    assert signals[0] == signals[1]
    assert signals[0] != signals[2]


def test_updates_that_stay_infinite_end_the_run(tmp_path, monkeypatch, pool):
    agent = make_fake_agent(not_finite=range(3, 100))
    install(monkeypatch.setattr, pool, agent)
    config = small_config(
        offline_updates=20, online_episodes=0, max_skipped=4, checkpoint_every=2
    )
    with pytest.raises(loop.DivergedError) as error:
        training.train(config, tmp_path)
    message = str(error.value)
    # Updates 3, 4, .. 7 are the five in a row.
    assert "5 updates in a row up to 8 were not finite" in message
    assert str(tmp_path / "checkpoints") in message and "\n" not in message
    assert max(updates_of(tmp_path)) == 8
    assert updates_of(tmp_path)[8]["signal"] is None
    # The checkpoint that is left holds finite numbers, from before the fifth.
    assert checkpoints.latest(tmp_path / "checkpoints") == 6
    state, _ = checkpoints.restore(tmp_path, abstract_states(agent))
    assert np.isfinite(state.weight).all()


def test_a_few_infinite_updates_do_not_end_the_run(tmp_path, monkeypatch, pool):
    agent = make_fake_agent(not_finite=[1, 2, 3, 5, 6, 7, 8])
    install(monkeypatch.setattr, pool, agent)
    config = small_config(offline_updates=10, online_episodes=0, max_skipped=4)
    assert training.train(config, tmp_path) is None
    skipped = [line["skipped_in_a_row"] for line in updates_of(tmp_path).values()]
    assert skipped == [0, 1, 2, 3, 0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize(
    ("section", "changes", "culprit"),
    [
        ("training", {"offline_updates": -1}, r"training\.offline_updates is -1"),
        ("training", {"collect_with": "best"}, r"training\.collect_with is 'best'"),
        ("training", {"collect_noise_std": 0.0}, r"collect_noise_std is 0\.0"),
        ("replay", {"cloned_action": "wished"}, r"replay\.cloned_action is 'wished'"),
        ("data", {"source": "youtube"}, r"data\.source is 'youtube'"),
        ("data", {"source": "scripted+scripted"}, r"data\.source is 'scripted\+"),
        ("data", {"source": "scripted+d4rl"}, r"data\.path is empty"),
        ("evaluation", {"episodes": 0}, r"evaluation\.episodes is 0"),
        (None, {"task": "microwave,toaster"}, "toaster"),
    ],
)
def test_what_cannot_be_run_leaves_no_directory(
    tmp_path, fakes, section, changes, culprit
):
    config = small_config()
    (config[section] if section else config).update(changes)
    with pytest.raises(ValueError, match=culprit):
        training.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", [None, object()])
def test_agents_say_what_their_sequences_are(tmp_path, monkeypatch, pool, model):
    """A model forgets at an episode's first row; a stack of frames does not."""
    agent = AGENT._replace(model=model, online_share=0.25)
    install(monkeypatch.setattr, pool, agent)
    make_replays, asked = training.make_replays, []

    def record(*args, **options):
        asked.append(options)
        return make_replays(*args, **options)

    monkeypatch.setattr(training, "make_replays", record)
    training.train(small_config(offline_updates=1, online_episodes=0), tmp_path)
    assert asked == [{"transitions": model is None, "online_share": 0.25}]
