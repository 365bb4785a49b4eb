"""Figures from run directories: which, from what, and what is said of the others."""

import contextlib
import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import (
    calibration_values,
    figure_drawings,
    figure_values,
    gap_values,
)
from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.data.episodes import (
    Episode,
    EpisodeRecord,
    Manifest,
    read_episode,
    write_episode,
    write_manifest,
)
from moto_jax.running import checkpoints, restoring
from moto_jax.study import model_probes, systems
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import make_label
from moto_jax.worlds.registry import make_world
from tests.fake_results import EPISODE_STEPS, RISING, write_runs
from tests.programs import assert_refused, run_program

TASK = tasks.TASKS["partial"]
# Steps from one object to the next, and those of a demonstration.
PACE, LENGTH = 4, 19
SEEDS = (3, 5)
# Small, for what is compiled.
IMAGE_SIZE = 16


def episode(objects, seed, length=LENGTH):
    """Does an object every `PACE` rows, and ends three rows after the fourth."""
    generator = np.random.default_rng(seed)
    in_goal = np.zeros((length + 1, len(tasks.OBJECTS)), bool)
    for place, column in enumerate(tasks.object_columns(objects)):
        in_goal[PACE * (place + 1) :, column] = True
    shape = (length + 1, IMAGE_SIZE, IMAGE_SIZE, 3)
    return Episode(
        image=generator.integers(0, 256, shape).astype(np.uint8),
        action=generator.uniform(-1, 1, (length, 9)).astype(np.float32),
        objects_in_goal=in_goal,
        qpos=np.zeros((length + 1, 30), np.float32),
    )


class FakeWorld:
    """Demonstrates, but for every third seed; the policy succeeds in some seeds."""

    def __init__(self, successes_every=1):
        self.played = []
        self.successes_every = successes_every

    def demonstrate(self, seed):
        return episode(TASK[:3] if seed % 3 == 0 else TASK, seed)

    @contextlib.contextmanager
    def open_stage(self):
        yield self

    def player(self, policy):
        assert policy.act is not None

        def play(params, keys, plays):
            assert keys.shape == (1,)
            self.played.append(params)
            for one in plays:
                objects = TASK[: 2 if one.seed % self.successes_every else 4]
                yield episode(objects, one.seed, EPISODE_STEPS)

        return play


def world(successes_every=1):
    """Returns the fake and what makes a world of it."""
    fake = FakeWorld(successes_every)
    return fake, lambda config: make_world(config)._replace(
        demonstrate=fake.demonstrate,
        open_stage=fake.open_stage,
        prepare=lambda: None,
    )


def random_leaf(leaf, generator):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), leaf.shape[0])
    return (0.3 * generator.normal(size=leaf.shape)).astype(leaf.dtype)


def save_checkpoints(directory, steps):
    """Saves states of random numbers, as a run of the directory's configuration."""
    config = ConfigDict(json.loads((directory / "config.json").read_text()))
    agent = restoring.build_agent(config)
    abstract = restoring.abstract_states(agent, list(config.seeds))
    for step in steps:
        generator = np.random.default_rng(step)
        state = jax.tree.map(lambda leaf: random_leaf(leaf, generator), abstract)  # noqa: B023
        metadata = {"updates": step, "config": config.to_dict()}
        checkpoints.save(directory / "checkpoints", step, state, metadata, keep=9)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """MOTO's run of two seeds with three checkpoints, and one of no prior without."""
    out = tmp_path_factory.mktemp("runs")
    size = {"env.image_size": IMAGE_SIZE}
    objects = [RISING, (0, 1, 2, 3, 4)]
    moto = write_runs(out, "moto", seeds=SEEDS, objects=objects, **size)
    save_checkpoints(moto, (20, 33, 40))
    write_runs(out, "no_prior", seeds=SEEDS, **size, **{"moto.beta": 0.0})
    records = []
    (moto / "dataset").mkdir()
    for number, count in enumerate((2, 3)):
        name = f"{number}.npz"
        digest = write_episode(moto / "dataset" / name, episode(TASK[:count], number))
        records.append(EpisodeRecord(name, digest, LENGTH + 1, TASK[:count]))
    manifest = Manifest("scripted", "fast", IMAGE_SIZE, "3", {}, tuple(records))
    write_manifest(moto / "dataset", manifest)
    (moto / "seed5" / "online").mkdir()
    write_episode(moto / "seed5" / "online" / "0.npz", episode(TASK, 7))
    return out


@pytest.fixture(scope="module")
def models(runs):
    several, _ = systems.collect(systems.find_runs(runs)[0])
    return figure_values.open_models(several[0], world()[1], {})


@pytest.fixture(scope="module")
def drawn(runs, models, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures") / "new"
    with pytest.MonkeyPatch.context() as patch:
        # Compiled once for all tests.
        patch.setattr(figure_values, "make_probe", lambda *unused: models.probe)
        return figure_drawings.make_figures(runs, out, world()[1]), out


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_figures_are_drawn(drawn):
    contents, out = drawn
    assert contents.notes == []
    names = [f"figure{number}" for number in range(1, 6)]
    assert [one["name"] for one in contents.figures] == names
    for name in names:
        assert {f"{name}.png", f"{name}.pdf", f"{name}.csv"} <= {
            path.name for path in out.iterdir()
        }


def test_only_demonstrations_that_do_all_are_asked_about(models):
    assert len(models.demonstrations) == figure_values.EPISODES
    for one in models.demonstrations:
        assert make_label(TASK)(one).events.any(axis=0).all()
    assert models.rows == EPISODE_STEPS + 1

    never = models.world._replace(demonstrate=lambda seed: episode(TASK[:2], seed))
    with pytest.raises(ValueError, match="no demonstration does all of microwave"):
        figure_values.demonstrations(never)


def test_predictions_begin_when_three_objects_are_done(models):
    found = figure_values.predictions(models)
    assert len(found) == 2 * 4
    names = {one.name for one in found}
    assert "episode 0 seed 3" in names and "episode 3 seed 5" in names
    for one in found:
        # The third object is done in row 12, and one more row is seen.
        assert one.context == 3 * PACE + 2
        assert (
            one.truth.shape
            == one.prediction.shape
            == (LENGTH + 1, IMAGE_SIZE, IMAGE_SIZE, 3)
        )
    np.testing.assert_array_equal(found[0].truth, models.demonstrations[0].image)
    # Another seed is another model.
    assert (found[0].prediction != found[4].prediction).any()


def test_episodes_with_other_contexts_are_seen_up_to_their_own(models):
    late = models.demonstrations[0]
    later = Episode(
        image=np.concatenate([late.image[:1]] * 3 + [late.image]),
        action=np.concatenate([0 * late.action[:3], late.action]),
        objects_in_goal=np.concatenate(
            [late.objects_in_goal[:1]] * 3 + [late.objects_in_goal]
        ),
        qpos=np.zeros((LENGTH + 4, 30), np.float32),
    )

    def hide_ahead(params, batch, context, key):
        return np.concatenate([batch.image[:context], 0 * batch.image[context:]])

    probe = models.probe._replace(predict=hide_ahead)
    both = models._replace(demonstrations=[late, later], probe=probe)
    for one, wanted, context in zip(
        figure_values.predictions(both)[:2], (late, later), (14, 17), strict=True
    ):
        assert one.context == context
        np.testing.assert_array_equal(one.truth, wanted.image)
        np.testing.assert_array_equal(one.prediction[:context], wanted.image[:context])
        assert not one.prediction[context:].any()
        assert one.prediction.shape == one.truth.shape


def test_rewards_and_what_was_in_the_training_data(models):
    found = figure_values.rewards(models)
    assert found.true.shape == (EPISODE_STEPS + 1, 10)
    for row in (0, 4, 8, 12, 16, LENGTH):
        assert (found.true[row] == row // PACE).all()
    assert np.isnan(found.true[LENGTH + 1 :]).all()
    assert found.predicted.shape == (EPISODE_STEPS + 1, 20)
    np.testing.assert_array_equal(
        np.isnan(found.predicted[:, :10]), np.isnan(found.true)
    )
    assert found.imagined.shape == (EPISODE_STEPS + 1, 2 * 10 * 3)
    assert np.isfinite(found.imagined).all()
    # The first checkpoint is of the last offline update.
    assert (found.demonstrated, found.trained, found.online) == (3, 3, False)
    assert found.seeds == 2


def test_rewards_are_of_the_newest_models_where_none_is_offline(models):
    config = models.config.copy_and_resolve_references()
    config.training.offline_updates = 10
    later = figure_values.rewards(models._replace(config=config))
    assert (later.demonstrated, later.trained, later.online) == (3, 4, True)
    config.training.offline_updates = 33
    middle = figure_values.rewards(models._replace(config=config))
    assert not middle.online
    asked = [figure_values.rewards(models).predicted, middle.predicted, later.predicted]
    # Checkpoints after 20, 33 and 40 updates.
    assert len({one[0].tobytes() for one in asked}) == 3


def test_gaps_at_every_checkpoint_with_an_evaluation(models):
    fake, made = world()
    found = gap_values.gaps(models, made)
    # Nothing was evaluated after 33 updates.
    points = list(zip(found.seed.tolist(), found.updates.tolist(), strict=True))
    assert points == [(3, 20), (5, 20), (3, 40), (5, 40)]
    # The second seed's last evaluation is best.
    assert found.expert == "MOTO, seed 5 after 40 updates (10 successes of 10)"
    kept = models.programs[0][0]
    (played,) = fake.played
    for leaf, wanted in zip(
        jax.tree.leaves(played), jax.tree.leaves(kept.acting_params(40)), strict=True
    ):
        np.testing.assert_array_equal(leaf, np.asarray(wanted)[1:])
    # Objects in their goal at rows 1 to 40: 37, 33, 29 and 25 of them.
    assert found.expert_return == 37 + 33 + 29 + 25
    returns = [10 * objects for objects in (2.0, 2.0, 3.0, 4.0)]
    np.testing.assert_allclose(found.gap, found.expert_return - np.array(returns))


def test_an_experts_failures_are_left_out(models):
    kept = models.programs[0][0]
    played = gap_values._play(models, world(2)[1], kept, 5, 40)
    seeds = [environment_seed(Purpose.EXPERTS, number=number) for number in range(10)]
    successes = [seed for seed in seeds if seed % 2 == 0]
    assert len(played) == len(successes) == 5
    for one, seed in zip(played, successes, strict=True):
        wanted = episode(TASK, seed, EPISODE_STEPS)
        np.testing.assert_array_equal(one.image, wanted.image)


def test_uncertainty_is_of_each_checkpoints_own_model(models):
    found = gap_values.gaps(models, world()[1])
    episodes = [
        episode(TASK, environment_seed(Purpose.EXPERTS, number=number), EPISODE_STEPS)
        for number in range(10)
    ]
    batch = model_probes.padded_batch(episodes, make_label(TASK), EPISODE_STEPS + 1)
    params = jax.tree.map(lambda leaf: leaf[1], models.programs[0][0].acting_params(20))
    keys = jax.random.split(jax.random.key(5))
    uncertain = models.probe.uncertainty(params["model"], batch, keys[0])
    np.testing.assert_allclose(found.raw_uncertainty[1], uncertain.mean(), rtol=1e-5)
    assert len(set(found.raw_uncertainty.tolist())) == 4
    # Set against the same along the two demonstrations of the data set.
    files = figure_values.demonstration_files(models)
    assert len(files) == 2
    order = np.random.default_rng(0).permutation(2)
    batch = model_probes.padded_batch(
        [read_episode(files[index]) for index in order],
        make_label(TASK),
        EPISODE_STEPS + 1,
    )
    windows = LENGTH + 1 - models.probe.horizon
    drawn = models.probe.uncertainty(params["model"], batch, keys[1])[:windows].mean()
    expected = found.raw_uncertainty[1] / drawn
    np.testing.assert_allclose(found.uncertainty[1], expected, rtol=1e-5)


def test_gaps_are_of_the_online_phase(models):
    config = models.config.copy_and_resolve_references()
    config.training.offline_updates = 33
    found = gap_values.gaps(models._replace(config=config), world()[1])
    assert found.updates.tolist() == [40, 40]
    config.training.offline_updates = 41
    with pytest.raises(ValueError, match="from update 41 on was evaluated"):
        gap_values.gaps(models._replace(config=config), world()[1])


def test_without_the_training_data_there_is_nothing_to_measure_against(models):
    config = models.config.copy_and_resolve_references()
    config.data.directory = "/nowhere"
    with pytest.raises(ValueError, match="demonstrations of the runs are gone"):
        gap_values.gaps(models._replace(config=config), world()[1])


def failing(models):
    """The same models, of runs whose evaluations had no success."""
    by_seed = {}
    for seed, run in zip(SEEDS, models.system.runs, strict=True):
        rows = tuple({**row, "mean/success": 0.0} for row in run.rows)
        by_seed[seed] = dataclasses.replace(run, rows=rows)
    return models._replace(programs=((models.programs[0][0], by_seed),))


def test_what_lies_after_an_episode_is_not_asked_about(models):
    found = gap_values.gaps(failing(models), world()[1])
    batch = model_probes.padded_batch(
        models.demonstrations, make_label(TASK), EPISODE_STEPS + 1
    )
    params = jax.tree.map(lambda leaf: leaf[0], models.programs[0][0].acting_params(20))
    key = jax.random.split(jax.random.key(3))[0]
    uncertain = models.probe.uncertainty(params["model"], batch, key)
    windows = LENGTH + 1 - models.probe.horizon
    np.testing.assert_allclose(
        found.raw_uncertainty[0], uncertain[:windows].mean(), rtol=1e-5
    )


def test_without_a_success_the_demonstrator_is_the_expert(models):
    fake, made = world()
    found = gap_values.gaps(failing(models), made)
    assert found.expert == "the scripted demonstrator (10 episodes)"
    assert not fake.played
    # It ends after 19 steps and stays at four for the other 21.
    assert found.expert_return == 16 + 12 + 8 + 4 + 21 * 4


def told(models, rewards, uncertainty):
    """The same models, which say so of the rows that actions lead to."""

    def open_loop(params, batch, key):
        horizon, (rows, size) = models.probe.horizon, batch.reward.shape
        shape = (horizon, rows - horizon, size)
        start, ahead = np.arange(shape[1])[:, None], np.arange(horizon)[:, None, None]
        led_to = batch.reward[start + ahead + 1, np.arange(size)]
        return model_probes.OpenLoop(
            np.broadcast_to(uncertainty(start), shape), rewards(led_to)
        )

    return models._replace(probe=models.probe._replace(open_loop=open_loop))


def test_predictions_are_set_against_the_rows_that_they_are_of(models):
    half_more = told(models, lambda led_to: led_to + 0.5, lambda start: 0.1 * start)
    found = calibration_values.calibration(half_more)
    windows = LENGTH + 1 - models.probe.horizon
    assert len(found.real) == 2 * 10 * windows
    np.testing.assert_allclose(found.predicted, found.real + 0.5)
    np.testing.assert_allclose(found.error, 0.5)
    # Of the row at the end of each window, and none behind the episode's end.
    ends = np.arange(windows) + models.probe.horizon
    for row in range(windows):
        own = np.isclose(found.uncertainty, 0.1 * row)
        assert own.sum() == 2 * 10
        np.testing.assert_array_equal(found.real[own], min(4, ends[row] // PACE))


def test_a_page_tells_what_models_predict_and_which_were_not_asked(
    models, runs, monkeypatch
):
    right = told(models, lambda led_to: led_to, lambda start: 0.1 * start)
    monkeypatch.setattr(calibration_values, "open_models", lambda *unused: right)
    several, _ = systems.collect(systems.find_runs(runs)[0])
    gallery, grid = calibration_values.calibration_sections(several[:1], None)
    assert len(gallery.shown) == 2 and gallery.title == "The model of MOTO"
    assert [row[0] for row in grid.rows] == sorted(row[0] for row in grid.rows)
    assert all(row[2:] == [f"{float(row[0]):.2f}", "0.00"] for row in grid.rows)
    monkeypatch.undo()
    (said,) = calibration_values.calibration_sections(several[1:], world()[1])
    assert said.note.startswith("It was not asked: ") and "no_prior" in said.note


def test_tables_hold_what_is_drawn(drawn):
    _, out = drawn
    assert len(rows_of(out / "figure1.csv")) == 8 * (LENGTH + 1 - 3 * PACE - 2)
    assert {row["highest_demonstrated"] for row in rows_of(out / "figure4.csv")} == {
        "3"
    }
    assert [row["updates"] for row in rows_of(out / "figure5.csv")] == [
        "20",
        "20",
        "40",
        "40",
    ]


def test_what_cannot_be_drawn_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "runs", "moto")
    write_runs(tmp_path / "runs", "neither", **{"moto.alpha": 0.0, "moto.beta": 0.0})
    out = tmp_path / "out"
    contents = figure_drawings.make_figures(tmp_path / "runs", out, world()[1])
    assert [one["name"] for one in contents.figures] == ["figure2", "figure3"]
    (note,) = contents.notes
    assert note.startswith(
        "figures 1, 4 and 5: MOTO on partial is left out: no checkpoint in runs/moto"
    )
    assert str(tmp_path) not in (out / "figures.json").read_text()
    assert not (out / "figure1.png").exists()


def test_without_moto_its_figures_are_left_out(tmp_path):
    write_runs(tmp_path / "runs", "bc", agent="bc")
    contents = figure_drawings.make_figures(tmp_path / "runs", tmp_path, None)
    assert [one["name"] for one in contents.figures] == ["figure2"]
    assert contents.notes == [
        "figure 3 is left out: there is no run of MOTO without penalty or prior: "
        "launch.sweeps --figure=3 makes them",
        "figures 1, 4 and 5: there is no run of MOTO",
    ]


def test_an_agent_of_ones_own_is_drawn_by_itself(tmp_path):
    write_runs(tmp_path, "own", agent="one's own")
    contents = figure_drawings.make_figures(tmp_path, tmp_path / "out", None)
    assert [one["name"] for one in contents.figures] == ["figure2"]


def test_the_program_refuses_in_one_sentence(tmp_path):
    flags = (f"--runs={tmp_path / 'nowhere'}", f"--out={tmp_path / 'out'}")
    assert_refused(run_program("figures", *flags), "nowhere")
    assert not list(tmp_path.iterdir())
