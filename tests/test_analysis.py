import csv
import json
import shutil

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from experiments.configs import mixed
from moto_jax.run_layout import RunError
from moto_jax.running import run_directory
from moto_jax.running.run_control import Stopwatch
from moto_jax.study import figures, predictions, runs
from tests.programs import assert_refused, run_program

HARDWARE = {"cpu": "abacus", "cores": 2, "memory_gb": 1.5}

# Update -> mean and sampled policy's objects; offline training ends at 20.
OBJECTS = {0: (0.0, 0.0), 10: (1.0, 0.5), 20: (2.0, 1.0), 30: (3.0, 1.5)}


def evaluation(step, phase, mean, sampled):
    row = {"step": step, "phase": f"evaluation {phase}", "cloned_share": 0.25}
    for policy, objects in (("mean", mean), ("sampled", sampled)):
        row |= {
            f"{policy}/objects": objects,
            f"{policy}/objects_low": objects - 0.5,
            f"{policy}/objects_high": objects + 0.5,
            f"{policy}/success": objects / 4,
            f"{policy}/success_at_end": objects / 8,
            **{f"{policy}/reached/{name}": objects / 4 for name in "abcd"},
        }
    return row | {"wall_seconds": 6.0 * step}


def metrics_rows(more=0.0):
    """A run of 30 updates; `more` is added to the mean policy's objects and the KL."""
    rows = [evaluation(0, "before", *OBJECTS[0])]
    for step in (10, 20, 30):
        phase = "online" if step > 20 else "offline"
        numbers = {"model/image_loss": 1e4 / step, "model/kl": step + more}
        if step == 30:
            collected = {"step": 21, "phase": "collection", "objects": 4.0}
            rows.append(collected | {"wall_seconds": 125.0})
            numbers["model/kl"] = None
        rows.append({"step": step, "phase": phase, **numbers, "wall_seconds": 6 * step})
        mean, sampled = OBJECTS[step]
        rows.append(evaluation(step, phase, mean + more, sampled))
    return rows


def write_run(directory, rows=None, summary=True, **changes):
    """Writes a run of the tiny preset; `changes` are of flat configuration keys."""
    directory.mkdir(parents=True)
    config = mixed.get_config("tiny")
    config.training.update(
        offline_updates=20, online_episodes=1, updates_per_episode=10
    )
    config.update_from_flattened_dict(changes)
    (directory / "config.json").write_text(json.dumps(config.to_dict()))
    lines = [json.dumps(row) + "\n" for row in rows or metrics_rows()]
    (directory / "metrics.jsonl").write_text("".join(lines))
    if summary:
        wall_seconds = {"offline updates": 100.0, "evaluation": 50.0, "total": 150.0}
        text = json.dumps({"wall_seconds": wall_seconds, "hardware": HARDWARE})
        (directory / "summary.json").write_text(text)
    return directory


def test_reads_what_a_run_writes(tmp_path):
    run = runs.read_run(write_run(tmp_path / "run", seeds=(3,)))
    assert run.name == "run"
    assert run.config["seeds"] == [3]
    assert run.config["optimizer.learning_rates.actor"] == 1e-3
    assert run.updates == 30
    assert run.summary["hardware"] == HARDWARE
    steps, values = run.series("model/kl")
    assert steps.tolist() == [10, 20, 30]
    # What was not finite is null in the file.
    np.testing.assert_array_equal(values, [10, 20, np.nan])
    steps, values = run.series("mean/objects", "evaluation offline")
    assert (steps.tolist(), values.tolist()) == ([10, 20], [1, 2])
    assert run.series("nothing").steps.size == 0


def test_a_run_up_to_a_step_knows_nothing_later(tmp_path):
    cut = runs.up_to(runs.read_run(write_run(tmp_path / "run")), 20)
    assert cut.updates == 20
    assert cut.series("model/kl").steps.tolist() == [10, 20]
    assert not cut.summary


def test_housekeeping_keys_are_keys_of_the_configuration():
    flat = runs.flat_config(mixed.get_config("tiny").to_dict())
    assert set(runs.HOUSEKEEPING_KEYS) <= set(flat)


def test_a_run_that_goes_on_is_read_up_to_its_last_whole_line(tmp_path):
    path = write_run(tmp_path / "run", summary=False)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 31, "pha')
    run = runs.read_run(path)
    assert run.updates == 30
    assert run.summary == {}
    assert runs.results(run)["minutes"] == 3.0


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[1]",
        '{"step": 31}',
        '{"step": "31", "phase": "online", "wall_seconds": 1}',
        '{"step": 31, "phase": "online", "wall_seconds": 1, "x": "y"}',
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = write_run(tmp_path / "run") / "metrics.jsonl"
    path.write_text(path.read_text() + line + "\n")
    number = path.read_text().count("\n")
    with pytest.raises(RunError, match=f"line {number} of .*metrics.jsonl"):
        runs.read_run(path.parent)


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match=r"nowhere .*config\.json"):
        runs.read_run(tmp_path / "nowhere")
    path = write_run(tmp_path / "run")
    (path / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary\.json cannot be read"):
        runs.read_run(path)
    (path / "summary.json").write_text("[]")
    with pytest.raises(RunError, match=r"summary\.json holds no JSON object"):
        runs.read_run(path)
    (path / "metrics.jsonl").unlink()
    (path / "summary.json").unlink()
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be read"):
        runs.read_run(path)


def test_results_are_those_of_the_summary(tmp_path):
    """Both count the last evaluation of a phase; here by hand, there by the run."""
    path = write_run(tmp_path / "run", summary=False)
    run_directory.write_summary(path, Stopwatch(), peak_rss_bytes=1)
    run = runs.read_run(path)
    found = runs.results(run)
    assert found["objects_before"] == 0
    assert found["objects_offline"] == 2
    assert found["objects_online_sampled"] == 1.5
    assert found["success_online"] == 0.75
    del found["minutes"]
    assert found == {name: run.summary[name] for name in found}


def test_results_that_a_run_does_not_have_yet(tmp_path):
    path = write_run(tmp_path / "run", rows=metrics_rows()[:1], summary=False)
    found = runs.results(runs.read_run(path))
    assert found["objects_before"] == 0
    assert found["objects_offline"] is None
    assert found["updates"] == 0


def test_means_need_every_run():
    means = runs.mean_results([{"a": 1.0, "b": 1.0}, {"a": 4.0, "b": None}])
    assert means == {"a": 2.5, "b": None}


def test_runs_are_grouped_by_everything_but_seed_and_housekeeping(tmp_path):
    changes = [
        {"seeds": (0,)},
        {"moto.alpha": 0.0},
        {"seeds": (1,), "data.directory": "elsewhere"},
    ]
    read = [
        runs.read_run(write_run(tmp_path / str(number), **change))
        for number, change in enumerate(changes)
    ]
    assert runs.differing_keys(read) == ["moto.alpha", "seeds"]
    assert runs.differing_keys(read[:1]) == []
    names = [[run.name for run in group] for group in runs.seed_groups(read)]
    assert names == [["0", "2"], ["1"]]


def test_runs_of_before_and_after_a_key_came_are_one_group(tmp_path):
    older, newer = (
        write_run(tmp_path / str(seed), **{"seeds": (seed,), "env.modules": ""})
        for seed in (0, 1)
    )
    config = json.loads((older / "config.json").read_text())
    del config["env"]["modules"]
    (older / "config.json").write_text(json.dumps(config))
    read = [runs.read_run(older), runs.read_run(newer)]
    assert len(runs.seed_groups(read)) == 1
    other = write_run(tmp_path / "2", **{"env.modules": "mine"})
    assert len(runs.seed_groups([*read, runs.read_run(other)])) == 2


def test_the_folder_of_a_dataset_that_is_there_decides_numbers(tmp_path):
    read = [
        runs.read_run(
            write_run(
                tmp_path / place,
                **{"data.source": "directory", "data.directory": place},
            )
        )
        for place in ("mine", "theirs")
    ]
    assert runs.differing_keys(read) == ["data.directory"]
    assert len(runs.seed_groups(read)) == 2


def axes_by_title(figure):
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def lines_by_label(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_curves_show_one_run(tmp_path):
    run = runs.read_run(write_run(tmp_path / "run"))
    axes = axes_by_title(figures.curves_figure([run]))
    # Metrics that the run does not have get no panel.
    titles = ["objects completed, mixed (95 % interval)", "image loss", "KL (nats)"]
    assert list(axes) == titles
    top = axes[titles[0]]
    lines = lines_by_label(top)
    for index, name in enumerate(["mean policy", "sampled policy"]):
        assert lines[name].get_xdata().tolist() == list(OBJECTS)
        wanted = [both[index] for both in OBJECTS.values()]
        assert lines[name].get_ydata().tolist() == wanted
    assert lines["collected online"].get_xydata().tolist() == [[21, 4]]
    band = top.collections[0].get_paths()[0].vertices
    assert [30, 2.5] in band.tolist() and [30, 3.5] in band.tolist()
    assert top.get_ylim() == (-0.1, 4.1)
    assert {text.get_text() for text in top.texts} == {"offline", "online"}
    assert top.texts[0].xy[0] == 20
    for each in axes.values():
        assert list(each.get_lines()[-1].get_xdata()) == [20, 20]
    assert axes["image loss"].get_yscale() == "log"
    assert axes["KL (nats)"].get_yscale() == "linear"


def test_curves_show_several_runs_and_their_mean(tmp_path):
    several = [
        runs.read_run(write_run(tmp_path / str(seed), metrics_rows(seed), seed=seed))
        for seed in (0, 1)
    ]
    axes = axes_by_title(figures.curves_figure(several))
    top = axes["objects completed, mixed (mean of 2 runs)"]
    assert lines_by_label(top)["mean policy"].get_ydata().tolist() == [0, 1.5, 2.5, 3.5]
    assert not top.collections
    thin, other, thick, border = axes["KL (nats)"].get_lines()
    np.testing.assert_array_equal(thin.get_ydata(), [10, 20, np.nan])
    np.testing.assert_array_equal(other.get_ydata(), [11, 21, np.nan])
    np.testing.assert_array_equal(thick.get_ydata(), [10.5, 20.5, np.nan])
    assert thin.get_linewidth() < thick.get_linewidth()


def test_a_mean_is_taken_where_all_runs_are(tmp_path):
    """One run has not come as far as the other yet."""
    several = [
        runs.read_run(write_run(tmp_path / "far")),
        runs.read_run(write_run(tmp_path / "near", metrics_rows(1.0)[:3])),
    ]
    axes = axes_by_title(figures.curves_figure(several))
    mean = axes["KL (nats)"].get_lines()[2]
    assert mean.get_xydata().tolist() == [[10, 10.5]]


def test_pictures_do_not_depend_on_the_users_settings(tmp_path):
    run = write_run(tmp_path / "run")
    figures.curves([run], tmp_path / "plain.png")
    # LaTeX is not asked for, nor a font that is not there.
    theirs = {"text.usetex": True, "font.family": "none such", "axes.facecolor": "red"}
    with matplotlib.rc_context(theirs):
        figures.curves([run], tmp_path / "theirs.png")
    plain, other = (imread(tmp_path / f"{name}.png") for name in ("plain", "theirs"))
    np.testing.assert_array_equal(plain, other)


def test_curves_are_written_whole_or_not_at_all(tmp_path):
    run = write_run(tmp_path / "run")
    figures.curves([run], tmp_path / "curves.png")
    assert imread(tmp_path / "curves.png").ndim == 3
    figures.curves([run], tmp_path / "curves.svg")
    with pytest.raises(ValueError, match="curves.bmp"):
        figures.curves([run], tmp_path / "curves.bmp")
    with pytest.raises(ValueError, match="no run to draw"):
        figures.curves([], tmp_path / "none.png")
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="no numbers yet"):
        figures.curves([run], tmp_path / "none.png")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run", "curves.png", "curves.svg"}


def strip_arrays(length=8, size=2):
    generator = np.random.default_rng(0)
    shape = (2, length, size, 64, 64, 3)
    return tuple(generator.integers(0, 256, shape).astype(np.uint8))


def test_a_strip_shows_every_seen_and_some_predicted_frames():
    truth, prediction = strip_arrays()
    figure = figures.strip_figure(truth, prediction, 3, 2, ["kettle", "microwave"])
    # Rows 0, 1, 2 are seen; of 3 .. 7 the first and then every second is shown.
    shown = [0, 1, 2, 3, 5, 7]
    frames = [axes.get_images()[0].get_array() for axes in figure.axes]
    assert len(frames) == 2 * 3 * len(shown)
    frames = iter(frames)
    for sequence in range(2):
        for wanted in (truth, prediction):
            for row in shown:
                np.testing.assert_array_equal(next(frames), wanted[row, sequence])
        for row in shown:
            both = truth[row, sequence].astype(float), prediction[row, sequence]
            error = np.abs(both[0] - both[1]).mean(axis=-1)
            np.testing.assert_allclose(next(frames), error)
    titles = [axes.get_title() for axes in figure.axes[: len(shown)]]
    assert titles == ["seen 1", "seen 2", "seen 3", "+1", "+3", "+5"]
    written = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert written == ["kettle", "microwave"]


def test_a_pixel_of_a_strip_is_a_square(tmp_path):
    truth, prediction = strip_arrays(size=1)
    figures.open_loop_strip(truth, prediction, tmp_path / "strip.png", context=3)
    assert [path.name for path in tmp_path.iterdir()] == ["strip.png"]
    picture = np.round(255 * imread(tmp_path / "strip.png")[..., :3]).astype(np.uint8)
    # In every frame shown, away from its border, a pixel is 2 x 2 equal dots.
    for row in (0, 1, 2, 3, 7):
        wanted = truth[row, 0, 8:12, 8:56]
        wanted = wanted.repeat(2, axis=0).repeat(2, axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(picture, wanted.shape)
        assert (windows[:, :, 0] == wanted).all(axis=(2, 3, 4)).sum() == 1


def test_a_strip_refuses_what_does_not_fit(tmp_path):
    truth, prediction = strip_arrays()
    path = tmp_path / "strip.png"
    with pytest.raises(ValueError, match="not both"):
        figures.open_loop_strip(truth, prediction[1:], path, 3)
    with pytest.raises(ValueError, match="not both"):
        figures.open_loop_strip(truth / 255.0, prediction / 255.0, path, 3)
    with pytest.raises(ValueError, match="context 8"):
        figures.open_loop_strip(truth, prediction, path, 8)
    with pytest.raises(ValueError, match="1 labels"):
        figures.open_loop_strip(truth, prediction, path, 3, labels=["kettle"])
    assert not list(tmp_path.iterdir())


def test_cuts_have_the_completion_in_their_second_half():
    completion = {"kettle": 50, "microwave": 3, "light switch": -1, "slide": 99}
    cuts = predictions.choose_cuts(completion, rows=100, context=5, predicted=25)
    # Rows 30 .. 59; the first and the last 30 rows where there are no others.
    assert cuts == [("kettle", 30), ("microwave", 0), ("slide", 70)]
    assert predictions.choose_cuts({"kettle": 29}, 30, 5, 25) == [("kettle", 0)]
    with pytest.raises(ValueError, match="the 29 of the episode"):
        predictions.choose_cuts(completion, rows=29, context=5, predicted=25)


def test_prediction_errors_by_hand():
    truth = np.zeros((4, 1, 2, 2, 3), np.uint8)
    truth[:, 0] = np.array([0, 10, 12, 16], np.uint8)[:, None, None, None]
    prediction = np.zeros_like(truth)
    prediction[2] = 11
    # Unsigned differences would wrap around here.
    prediction[3] = 255
    model, copy = predictions.prediction_errors(truth, prediction, context=2)
    assert model.tolist() == [[1], [239**2]]
    assert copy.tolist() == [[4], [36]]


def test_a_table_of_runs(tmp_path):
    write_run(tmp_path / "a", metrics_rows(0.0), seeds=(0,))
    write_run(
        tmp_path / "b", metrics_rows(1.0), seeds=(1,), **{"data.directory": "there"}
    )
    rows = metrics_rows()[:5]
    write_run(tmp_path / "c", rows, summary=False, **{"moto.alpha": 0.0})
    arguments = ("a", "b", "c", "--out=results/table", "--title=Three runs")
    done = run_program("tabulate", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "results/table.md").read_text()
    assert done.stdout == text + "\n"
    lines = text.splitlines()
    assert lines[0] == "Three runs"
    run = "    python -m experiments.run --config=experiments/configs/mixed.py:tiny"
    schedule = (
        "--config.training.offline_updates=20 --config.training.online_episodes=1 "
        "--config.training.updates_per_episode=10"
    )
    assert lines[2:6] == [
        f"{run} --workdir=a {schedule}",
        f"{run} --workdir=b --config.seeds=1 {schedule}",
        f"{run} --workdir=c --config.moto.alpha=0.0 {schedule}",
        "    python -m experiments.tabulate a b c --out=results/table "
        "'--title=Three runs'",
    ]
    assert "Made on abacus, 2 cores, 1.5 GB of memory." in lines
    assert lines[-6].startswith("| run | moto.alpha | seeds | objects, mean policy |")
    assert lines[-3:] == [
        "| b | 2.5 | 1 | 0.00 / 3.00 / 4.00 | 0.00 / 1.00 / 1.50 | "
        "0.00 / 0.75 / 1.00 | 0.00 / 0.25 / 0.38 | 30 | 2.5 |",
        "| mean of 2 | 2.5 |  | 0.00 / 2.50 / 3.50 | 0.00 / 1.00 / 1.50 | "
        "0.00 / 0.62 / 0.88 | 0.00 / 0.25 / 0.38 | 30 | 2.5 |",
        "| c | 0.0 | 0 | 0.00 / 2.00 / – | 0.00 / 1.00 / – | "
        "0.00 / 0.50 / – | 0.00 / 0.25 / – | 20 | 2.0 |",
    ]
    with (tmp_path / "results/table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["run"] for row in table] == ["a", "b", "mean of 2", "c"]
    assert [row["objects_online"] for row in table] == ["3", "4", "3.5", ""]
    assert [row["minutes"] for row in table] == ["2.5", "2.5", "2.5", "2"]


def test_a_run_that_is_given_twice_counts_once(tmp_path):
    first = write_run(tmp_path / "first")
    other = write_run(tmp_path / "other", seeds=(1,))
    (tmp_path / "linked").symlink_to(first)
    shutil.copytree(other, tmp_path / "copied")
    given = [first, other, first, tmp_path / "linked", tmp_path / "copied"]
    found, notes = runs.read_each_once(given)
    assert [run.path for run in found] == [first, other]
    assert notes == [
        f"{first} is left out: it is {first} again",
        f"{tmp_path / 'linked'} is left out: it is {first} again",
        f"{tmp_path / 'copied'} is left out: it is {other} again",
    ]


def test_a_run_of_several_seeds_is_as_many_rows_and_one_command(tmp_path):
    write_run(tmp_path / "runs" / "both", seeds=(0, 4))
    for seed in (0, 4):
        directory = tmp_path / "runs" / "both" / f"seed{seed}"
        write_run(directory, metrics_rows(float(seed)), seeds=(seed,))
    done = run_program("tabulate", "runs/both", "--out=table", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "table.md").read_text().splitlines()
    commands = [line for line in lines if "experiments.run" in line]
    assert len(commands) == 1
    assert "--workdir=runs/both --config.seeds=0,4" in commands[0]
    names = [line.split(" | ")[0] for line in lines[-3:]]
    assert names == ["| both/seed0", "| both/seed4", "| mean of 2"]


def test_keys_that_a_version_did_not_have_are_neither_compared_nor_given(tmp_path):
    write_run(tmp_path / "old", **{"moto.gone": 1.0, "moto.alpha": 0.0})
    write_run(tmp_path / "new")
    done = run_program(
        "tabulate", "old", "new", "--out=table", "--note=A word.", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "gone" not in done.stdout
    assert "| run | moto.alpha | objects, mean policy |" in done.stdout
    assert done.stdout.splitlines()[:3] == ["Runs", "", "A word."]


@pytest.mark.parametrize(
    ("arguments", "culprit"), [((), "no run"), (("nowhere",), "nowhere")]
)
def test_a_table_of_nothing_is_refused_in_one_sentence(tmp_path, arguments, culprit):
    done = run_program("tabulate", *arguments, "--out=table", cwd=tmp_path)
    assert_refused(done, culprit)
    assert not list(tmp_path.iterdir())
