"""What a run will take, before it takes it; and what the doctor says of a machine."""

import importlib.metadata
import types

import jax
import jax.numpy as jnp
import pytest

from experiments import command_line, examination, main, update_memory
from experiments.configs import base, mixed
from moto_jax.agents import make_agent
from moto_jax.running import plan
from tests.fake_results import write_runs
from tests.programs import ROOT, run_program


def planned(seeds=(0,), source="scripted", **training):
    config = base.get_config("tiny")
    config.seeds = seeds
    config.data.update(episodes=3, source=source)
    config.env.update(image_size=16, episode_steps=20)
    config.training.update(online_episodes=2, keep_checkpoints=3, **training)
    agent = types.SimpleNamespace(
        init=lambda key: {
            "weights": jnp.zeros((10, 5)),
            "moments": jnp.zeros(50),
            "k": key,
        },
        acting_params=lambda state: state["weights"],
    )
    return plan.make_plan(config, agent)


def test_a_plan_by_hand():
    found = planned()
    assert found.parameters == 50 and found.state == 400
    assert found.demonstrations == 3
    episode = 21 * (16 * 16 * 3 + 400)
    assert found.replay == (3 + 2) * episode
    assert found.disk == found.replay + 4 * 400


@pytest.mark.parametrize(
    ("source", "made", "read"),
    [
        ("scripted", 3, False),
        ("random", 3, False),
        ("d4rl", 0, True),
        ("directory", 0, True),
        ("pixels+scripted", 3, True),
    ],
)
def test_demonstrations_that_are_read_are_named_and_not_counted(source, made, read):
    found = planned(source=source)
    assert (found.demonstrations, found.read) == (made, read)
    assert found.replay * 5 == planned().replay * (made + 2)
    (line,) = plan.describe_plan(found, None, 0)[1:2]
    assert ("with 3 demonstrations" in line) == bool(made)
    assert line.endswith("beside the demonstrations that are read") == read


def test_seeds_share_demonstrations_and_nothing_else():
    one, two = planned(), planned(seeds=(0, 1))
    assert two.parameters == one.parameters and two.state == 2 * one.state
    assert two.replay * 5 == one.replay * 7


def test_what_there_is_too_little_of_is_named_with_the_mend():
    found = planned()
    enough = found.state + found.replay
    assert plan.shortage(found, enough, found.disk) is None
    assert plan.shortage(found, None, found.disk) is None
    memory = plan.shortage(found, enough - 1, found.disk)
    assert memory is not None and "lower config.data.episodes" in memory
    disk = plan.shortage(found, enough, found.disk - 1)
    assert disk is not None and "--workdir" in disk


def test_free_disk_is_that_of_the_nearest_directory_that_is_there(tmp_path):
    assert plan.free_disk(tmp_path / "a" / "b") == pytest.approx(
        plan.free_disk(tmp_path), rel=0.01
    )


def test_the_doctor_says_that_a_run_would_start(tmp_path):
    done = run_program("doctor", "--config=mixed:mini", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("a run would start\n")
    for title in ("versions", "JAX", "values", "frames", "caches", "plan", "update"):
        assert f"\n{title} " in "\n" + done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_doctors_lines_are_broken_at_words_of_a_terminal():
    found = ["jax 0.10.2, gymnasium-robotics 1.4.2, orbax 0.12.8", "WRONG: a/long/path"]
    whole = command_line.laid_out("versions", found, None)
    assert whole == [f"versions   {found[0]}", f"           {found[1]}"]
    broken = command_line.laid_out("versions", found, 40)
    assert max(map(len, broken)) < 40 and len(broken) > len(whole)
    assert " ".join(" ".join(broken).split()) == f"versions {' '.join(found)}"
    assert command_line.laid_out("frames", [], 80) == ["frames"]


def test_the_plan_takes_a_terminals_lines_each():
    found = planned()._replace(demonstrations=10_000, replay=10**11, disk=10**12)
    for line in plan.describe_plan(found, 10**11, 10**12):
        assert len(line) < 80


def test_a_cache_that_is_still_to_be_made_is_no_fault(tmp_path, monkeypatch):
    """As on the first day; one beneath a file is."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    done = run_program("doctor", "--config=mixed:mini", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"compiled programs in {tmp_path}/home/cache" in done.stdout
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    done = run_program("doctor", "--config=mixed:mini", cwd=tmp_path)
    assert done.returncode == 1 and "cannot be written to" in done.stdout


def test_the_doctor_tells_all_that_is_wrong():
    done = run_program(
        "doctor",
        "--config=experiments/configs/mixed.py:mini",
        "--config.data.episodes=1000000000",
        "--config.moto.alpha=-1.0",
    )
    assert done.returncode == 1
    assert "WRONG: config.moto.alpha is -1.0" in done.stdout
    assert "WRONG: state and replay take" in done.stdout
    assert done.stderr == "error: 2 of these would stop a run\n"


def test_a_version_that_is_known_to_fail_is_told(monkeypatch):
    versions = {"mujoco": "3.12.1", "orbax-checkpoint": "0.12.8", "jax": "0.12.0"}
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: versions.get(name) or installed(name),
    )

    def fault():
        return next(examination.examine(base.get_config("tiny"), "runs", "x.png"))[2]

    assert fault() == (
        "mujoco is 3.12.1, and others turn the camera, or compare joints otherwise: "
        "pip install 'mujoco>=3.1.6,<3.12'"
    )
    versions["mujoco"] = "3.12rc1"
    assert str(fault()).startswith("mujoco is 3.12rc1")
    versions["mujoco"] = "3.1.5"
    assert str(fault()).startswith("mujoco is 3.1.5")
    versions["mujoco"] = "3.1.6"
    assert fault() is None
    # A pair, of which the second is installed here.
    versions |= {"jaxlib": "0.12.0", "jax-cuda13-plugin": "0.11.2"}
    assert fault() == (
        "jax-cuda13-plugin is 0.11.2 and jaxlib 0.12.0, so JAX leaves the card unused: "
        "pip install 'jax-cuda13-plugin==0.12.0'"
    )
    versions["jax-cuda13-plugin"] = "0.12.0"
    assert fault() is None


class TestUpdate:
    """What an update takes beside its state, before anything is allocated."""

    def test_live_bytes_by_hand(self):
        def program(x):
            # y and z live together, then w alone beside z.
            y = jnp.sin(x)
            z = jnp.cos(x)
            w = y * z
            return w.sum() + z.sum()

        traced = jax.make_jaxpr(program)(jnp.zeros(1000))
        # w is made while y and z are still there.
        assert update_memory.live_bytes(traced.jaxpr) == 3 * 4000

    def test_a_loop_holds_a_step_and_all_results(self):
        def program(x):
            def step(carry, _):
                return jnp.sin(carry), carry

            return jax.lax.scan(step, x, None, length=10)[1]

        traced = jax.make_jaxpr(program)(jnp.zeros(1000))
        # Ten results, the last carry, and a step's sine.
        assert update_memory.live_bytes(traced.jaxpr) == (10 + 1 + 1) * 4000

    def test_a_program_within_counts_once(self):
        inner = jax.jit(lambda x: jnp.sin(x) * 2)
        traced = jax.make_jaxpr(lambda x: inner(x))(jnp.zeros(1000))
        assert update_memory.live_bytes(traced.jaxpr) == 2 * 4000

    def test_an_estimate_grows_with_the_rows_and_is_near_what_xla_takes(self):
        def of(rows):
            config = base.get_config("tiny")
            config.agent = "bc"
            config.model_free.batch_size = rows
            agent = make_agent(config, action_size=3, image_size=32)
            return agent, update_memory.abstract_batch(agent, 3, 32)

        small = update_memory.traced_bytes(*of(8))
        large = update_memory.traced_bytes(*of(64))
        # Gradients of convolutions are taken for some images at a time.
        assert 2 * small < large
        compiled = update_memory.compiled_bytes(*of(64))
        assert compiled / 4 < large < 4 * compiled

    def test_the_batch_is_that_of_a_run(self):
        """An update accepts it: it asserts kinds and shapes."""
        config = base.get_config("tiny")
        agent = make_agent(config, action_size=3, image_size=32)
        batch = update_memory.abstract_batch(agent, 3, 32)
        state = jax.eval_shape(agent.init, jax.random.key(0))
        jax.eval_shape(agent.updates["offline"], state, batch)

    def test_more_than_there_is_is_a_fault(self, tmp_path, monkeypatch):
        config = mixed.get_config("mini")
        config.agent = "bc"
        monkeypatch.setattr(plan, "free_memory", lambda: 1000)
        findings = examination.examine(config, str(tmp_path), "unused.png")
        faults = {title: fault for title, _, fault in findings}
        assert "config.replay.batch_size" in str(faults["update"])


class TestNames:
    """`--config=mixed:cpu` is a packaged configuration."""

    def test_a_name_is_its_file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        path = ROOT / "experiments" / "configs" / "mixed.py"
        for name in ("mixed", "experiments/configs/mixed.py"):
            words = command_line.packaged_configs([f"--config={name}:cpu"])
            assert words == [f"--config={path}:cpu"]
        for flag in ("--config", "-config"):
            words = command_line.packaged_configs(["run", flag, "mixed", "mixed"])
            assert words == ["run", flag, str(path), "mixed"]

    def test_a_file_that_is_there_and_other_words_stay(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mixed").write_text("")
        for word in (
            "--config=mixed:cpu",
            "--config=mine.py:cpu",
            "--config=unheard:cpu",
            "--config.moto.alpha=0",
            "--workdir=mixed",
            "mixed",
        ):
            assert command_line.packaged_configs([word]) == [word]


class TestPaths:
    """What shells leave to programs, and what file systems say."""

    @pytest.mark.parametrize(
        ("word", "read"),
        [
            ("--workdir=~/runs/a=~/b", "--workdir=HOME/runs/a=~/b"),
            ("--workdir=~", "--workdir=HOME"),
            ("--override=data.directory=~/x", "--override=data.directory=HOME/x"),
            ("--workdir=~other/x", "--workdir=~other/x"),
            ("--workdir=a~/x", "--workdir=a~/x"),
            ("run=~/x", "run=~/x"),
        ],
    )
    def test_a_flag_may_begin_at_home(self, monkeypatch, tmp_path, word, read):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert command_line._with_home(word) == read.replace("HOME", str(tmp_path))

    def test_home_is_where_a_program_writes(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        write_runs(tmp_path, "run", seeds=(0,))
        run_program("tabulate", "run", "--out=~/table", cwd=tmp_path)
        assert (tmp_path / "table.md").exists() and not (tmp_path / "~").exists()

    @pytest.mark.parametrize("path", ["file", "file/below", "x" * 300])
    def test_a_directory_that_cannot_be_made_is_named_with_the_mend(
        self, tmp_path, path
    ):
        (tmp_path / "file").touch()
        with pytest.raises(SystemExit) as ended:
            try:
                (tmp_path / path).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                command_line.fail(error)
        said = str(ended.value)
        assert said.startswith(f"error: {tmp_path / path}: ") and "give a" in said
        assert "Errno" not in said and "\n" not in said

    def test_an_error_without_a_file_is_said_in_its_own_words(self):
        for error in (OSError("ffmpeg cannot"), OSError(5, "Input/output error")):
            with pytest.raises(SystemExit) as ended:
                command_line.fail(error)
            assert str(ended.value) == f"error: {error}"


class TestCommand:
    """`moto-jax NAME` is `python -m` of its module."""

    def test_every_program_is_there(self):
        for module, _ in main.PROGRAMS.values():
            path = ROOT / f"{module.replace('.', '/')}.py"
            assert "run_program(main" in path.read_text()

    @pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
    def test_without_a_name_it_tells_them(self, words, monkeypatch, capsys):
        monkeypatch.setattr("sys.argv", ["moto-jax", *words])
        main.main()
        said = capsys.readouterr().out
        assert all(f"\n  {name} " in said for name in main.PROGRAMS)

    def test_an_unknown_name_is_refused(self, monkeypatch):
        monkeypatch.setattr("sys.argv", ["moto-jax", "tain"])
        with pytest.raises(SystemExit, match="no program 'tain': use one of train"):
            main.main()

    def test_flags_go_to_the_program(self):
        done = run_program("main", "compare")
        assert done.returncode == 1
        assert done.stderr.startswith("error: give the directory of one run")
