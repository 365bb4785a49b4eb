"""The programs that write, show and judge a policy's file, in the miniature."""

import json
import shutil

import imageio.v3
import jax
import numpy as np
import pytest

import moto_jax
from experiments.configs import mixed
from experiments.policy_card import make_card
from moto_jax.running import checkpoints
from moto_jax.running.exports import read_export, trained_policy
from moto_jax.running.restoring import build_agent, restore_agent
from tests.programs import assert_refused, run_program

UPDATES = 7


def small_config():
    config = mixed.get_config("mini")
    config.agent = "bc"
    config.seeds = (3, 5)
    config.env.update(image_size=16, episode_steps=6)
    config.model_free.update(depth=2, projection=4, units=8)
    config.training.update(offline_updates=5, online_episodes=4, updates_per_episode=2)
    return config


def row(step, phase, objects):
    names = ("episodes", "objects", "objects_low", "objects_high")
    names += ("success", "success_low", "success_high", "success_at_end")
    values = (2.0, objects, 0.25, 3.25, 0.5, 0.125, 0.875, 0.25)
    return {"step": step, "phase": phase, "wall_seconds": 60.0 * step} | {
        f"{policy}/{name}": value
        for policy in ("mean", "sampled")
        for name, value in zip(names, values, strict=True)
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two seeds that was evaluated once more after its checkpoint."""
    directory = tmp_path_factory.mktemp("runs") / "bc-run"
    config = small_config()
    agent = build_agent(config)
    keys = jax.random.split(jax.random.key(0), 2)
    generator = np.random.default_rng(0)

    def drawn(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return keys
        return (0.3 * generator.normal(size=leaf.shape)).astype(leaf.dtype)

    state = jax.tree.map(drawn, jax.eval_shape(jax.vmap(agent.init), keys))
    metadata = {"updates": UPDATES, "config": config.to_dict()}
    checkpoints.save(directory / "checkpoints", UPDATES, state, metadata)
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    for seed in config.seeds:
        own = directory / f"seed{seed}"
        own.mkdir()
        (own / "config.json").write_text(
            json.dumps({**config.to_dict(), "seeds": [seed]})
        )
        rows = [
            row(5, "evaluation offline", 1.5),
            row(6, "evaluation online", 2.0),
            row(7, "evaluation online", 2.5),
            row(9, "evaluation online", 3.5),
        ]
        text = "".join(json.dumps(one) + "\n" for one in rows)
        (own / "metrics.jsonl").write_text(text)
    return directory


@pytest.fixture(scope="module")
def exported(run):
    """What the program says, and the file that it wrote."""
    out = run.parent / "policies" / "small"
    done = run_program("export", f"--checkpoint={run}", "--seed=5", f"--out={out}")
    assert done.returncode == 0, done.stderr
    return done.stdout, out.with_suffix(".npz")


def test_the_file_is_the_checkpoints_policy(run, exported):
    said, path = exported
    assert str(path) in said and f"{path.stat().st_size / 1e6:.2f} MB" in said
    read = read_export(path)
    assert (read.seed, read.updates) == (5, UPDATES)
    checkpoint = trained_policy(restore_agent(run, 5)).params
    jax.tree.map(
        lambda ours, leaf: np.testing.assert_array_equal(
            ours, np.asarray(leaf).astype(np.float16)
        ),
        read.params,
        checkpoint,
    )


def frames(size, count=4):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def test_a_loaded_policy_acts_as_the_runs(run, exported):
    """From the file and from the run, frame by frame, and anew after a reset."""
    trained = read_export(exported[1])
    policy = trained.agent.policies["mean"]
    carry, expected = policy.initial(1), []
    images = frames(trained.config.env.image_size)
    for number, image in enumerate(images):
        action, carry = policy.act(
            trained.params, carry, image[None], np.array([number == 0]), None
        )
        expected.append(action[0])
    # Memory matters: the last frame alone is answered otherwise.
    loaded = moto_jax.load_policy(exported[1])
    assert np.abs(loaded(images[-1]) - expected[-1]).max() > 1e-4
    for _ in range(2):
        loaded.reset()
        for image, action in zip(images, expected, strict=True):
            np.testing.assert_allclose(loaded(image), action, atol=1e-5)
    assert loaded(images[0]).dtype == np.float32
    whole = moto_jax.load_policy(run, seed=5)
    np.testing.assert_allclose(whole(images[0]), expected[0], atol=1e-2)
    assert whole.config.agent == "bc"


def test_a_loaded_policy_draws_by_its_seed(exported):
    first, same, other = (
        moto_jax.load_policy(exported[1], "sampled", noise_seed=seed)
        for seed in (0, 0, 1)
    )
    (image,) = frames(first.image_size, 1)
    drawn = first(image)
    np.testing.assert_array_equal(same(image), drawn)
    assert (other(image) != drawn).all()
    # The next episode's noise is other noise.
    first.reset()
    assert (first(image) != drawn).all()


def test_what_a_loaded_policy_cannot_take_is_named(exported):
    loaded = moto_jax.load_policy(exported[1])
    size = loaded.image_size
    with pytest.raises(ValueError, match=rf"float64 \[{size}, {size}, 3\].*uint8"):
        loaded(np.zeros((size, size, 3)))
    with pytest.raises(ValueError, match=rf"uint8 \[7, 7, 3\].*\[{size}, {size}, 3\]"):
        loaded(np.zeros((7, 7, 3), np.uint8))
    with pytest.raises(ValueError, match="which is 'best': use one of mean, sampled"):
        moto_jax.load_policy(exported[1], "best")
    with pytest.raises(ValueError, match="of seed 5 alone"):
        moto_jax.load_policy(exported[1], seed=6)


def test_the_card_says_what_it_is(exported):
    _, path = exported
    card = path.with_suffix(".md").read_text()
    for fact in (
        "`bc` on the task `mixed` (microwave, kettle",
        "seed 5 after 7 updates",
        f"{path.stat().st_size / 1e6:.2f} MB",
        "581 demonstrations, source `scripted`",
        "5 offline updates",
        # The checkpoint is of the middle of the run.
        "2 online updates, 2 after each of 1 online episodes of 6 steps",
        "7 minutes for 2 seeds together",
        "| offline, 5 updates | mean | 2 | 1.50 [0.25, 3.25] | 50% [12%, 88%] | 25% |",
        "| online, 7 updates | sampled | 2 | 2.50 ",
        "--config=experiments/configs/mixed.py:mini --workdir=runs/bc-run",
        "python -m experiments.export --checkpoint=runs/bc-run --seed=5",
        "jax 0.",
    ):
        assert fact in card
    assert "3.50" not in card and "2.00" not in card


def test_an_evaluation_enters_the_card(run, exported, tmp_path):
    _, path = exported
    out = tmp_path / "evaluation"
    done = run_program(
        "evaluate", f"--checkpoint={path}", "--episodes=3", f"--out={out}"
    )
    assert done.returncode == 0, done.stderr
    assert [name.name for name in out.iterdir()] == ["evaluation.json"]
    report = json.loads((out / "evaluation.json").read_text())
    assert (report["seed"], report["updates"]) == (5, UPDATES)

    trained = trained_policy(restore_agent(run, 5))
    arguments = path, trained, 1.234, run / "seed5"
    card = make_card(*arguments, out / "evaluation.json", "command")
    assert "1.23 MB" in card and report["command"] in card
    assert "| evaluated | mean | 3 | " in card and "microwave " in card
    other = {**report, "updates": 6}, {**report, "task": ["kettle"]}, {"seed": 5}
    for one, culprit in zip(other, ("6 updates", "task kettle", "read"), strict=True):
        wrong = tmp_path / "wrong.json"
        wrong.write_text(json.dumps(one))
        with pytest.raises(ValueError, match=culprit):
            make_card(*arguments, wrong, "command")


def test_a_run_that_has_ended_tells_its_commit_and_all_its_minutes(run, tmp_path):
    trained = trained_policy(restore_agent(run, 5))
    own = tmp_path / "bc-run" / "seed5"
    shutil.copytree(run / "seed5", own)
    summary = {"commit": "abc123", "wall_seconds": {"total": 5400.0}, "versions": {}}
    card = {}
    for updates in (UPDATES, UPDATES + 2):
        text = json.dumps({**summary, "updates": updates})
        (own / "summary.json").write_text(text)
        card[updates] = make_card(tmp_path, trained, 1.0, own, None, "command")
    # What came after the checkpoint is not of it.
    assert "90 minutes" in card[UPDATES] and "7 minutes" in card[UPDATES + 2]
    assert all("trained at commit abc123" in one for one in card.values())


def test_the_card_of_a_branch_says_what_it_began_with(run):
    trained = trained_policy(restore_agent(run, 5))
    cards = []
    for parent in ("", "/far/parent/checkpoints/20"):
        trained.config.init_from = parent
        cards.append(make_card(run, trained, 1.0, run / "seed5", None, "command"))
    assert "began with" not in cards[0]
    assert "* began with all that `runs/parent/checkpoints/20` had" in cards[1]


def test_watching_counts_the_episodes_and_writes_videos(exported, tmp_path):
    _, path = exported
    out = tmp_path / "deep" / "watch"
    done = run_program("watch", f"--policy={path}", "--episodes=3", f"--out={out}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("episode")]
    assert [line.partition(",")[0] for line in lines] == [
        f"episode {number} of 3" for number in (1, 2, 3)
    ]
    assert lines[-1].startswith("episode 3 of 3, 0:00:00 left: ")
    for word in ("mean policy", "objects of 4", "success", "microwave", "3 episodes"):
        assert word in done.stdout
    names = ["mean-best.mp4", "mean-best.png", "mean-worst.mp4"]
    assert sorted(file.name for file in out.iterdir()) == names
    for name in names:
        assert str(out / name) in done.stdout
    # Two rows of four frames of 16 pixels, thrice as large, with a line between.
    assert imageio.v3.imread(out / names[1]).shape == (2 * 51, 4 * 51, 3)


def test_a_policy_that_is_not_there_is_told_how_to_make(tmp_path):
    path = tmp_path / "none.npz"
    done = run_program("watch", f"--policy={path}", f"--out={tmp_path / 'out'}")
    assert_refused(done, f"there is no policy {path}")
    assert "make kitchen" in done.stderr and "experiments.export" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_seed_or_none_is_refused(exported, tmp_path):
    _, path = exported
    done = run_program("evaluate", f"--checkpoint={path}", "--seed=3")
    assert_refused(done, "seed 5 alone")
    broken = tmp_path / "broken.npz"
    broken.write_bytes(path.read_bytes()[:-9])
    assert_refused(run_program("watch", f"--policy={broken}"), "broken.npz")


def test_a_checkpoint_without_its_run_is_refused(run, tmp_path):
    done = run_program(
        "export", f"--checkpoint={tmp_path}", f"--out={tmp_path / 'policy'}"
    )
    assert_refused(done, "no checkpoint")
    assert not list(tmp_path.iterdir())
