"""What a report tells of runs by their files: objects, videos, time, settings, models.

A section that runs lack something for says so in a sentence.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.run_commands import parent_place
from moto_jax.run_layout import POLICIES, program_directory
from moto_jax.study.page import Clip, Gallery, Grid, Listing, Part, Picture
from moto_jax.study.run_figures import (
    Times,
    object_figure,
    parts_of,
    time_figure,
    times,
)
from moto_jax.study.runs import RunFiles, differing_keys, setting
from moto_jax.study.style import PRINT_STYLE, png_bytes
from moto_jax.study.systems import (
    REACHED,
    RESULT_EPISODES,
    System,
    object_names,
    results,
    tasks_of,
)

# The page holds the videos of as many runs as stay below this together, in bytes.
_VIDEO_BYTES = 4_000_000

# Of a model's training, by what they are called in metrics.jsonl.
_REWARD_LOSS, _UNCERTAINTY = "model/reward_loss", "dream/uncertainty"


def small_picture(title: str, caption: str, figure: Figure) -> Picture:
    """Returns a figure as a picture for a gallery."""
    return Picture(title, caption, png_bytes(figure))


def objects_sections(systems: Sequence[System]) -> Iterator[Part]:
    """Yields each task's objects: how often they are done, as curves and in figures."""
    for task in tasks_of(systems):
        title = f"Objects of task {task}"
        own = [system for system in systems if system.task == task]
        names = object_names(own)
        if not names:
            yield Listing(title, "The runs' evaluations counted no objects.", [])
            continue
        with matplotlib.rc_context(PRINT_STYLE):
            pictures = [
                small_picture(f"{name}, success", "", object_figure(own, name))
                for name in names
            ]
        yield Gallery(
            title,
            "Share of an evaluation's episodes in which the object is in its goal at "
            "some step: means over seeds and 95 % bootstrap intervals, of the mean "
            "policy where there are several systems. The grey part left of 0 is the "
            "offline phase.",
            pictures,
        )
        rows = []
        for system in own:
            for policy in POLICIES:
                rates = [
                    float(results(system, policy, f"{REACHED}{name}").mean())
                    for name in names
                ]
                rows.append([system.label, policy, *map(_percent, rates)])
        yield Grid(
            f"{title}, in figures",
            f"Means over the last {RESULT_EPISODES} evaluation episodes of the online "
            "phase, as in the results above.",
            ["system", "policy", *names],
            rows,
        )


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.0%}".replace("%", " %")


def video_sections(runs: Sequence[RunFiles]) -> Iterator[Part]:
    """Yields each run's videos side by side: its best, its worst, its last evaluation.

    Those of later runs are named alone once the page is heavy enough.
    """
    room = _VIDEO_BYTES
    without, elsewhere = [], []
    for run in runs:
        files = videos(run)
        size = sum(path.stat().st_size for path in files.values())
        if not files:
            without.append(run.name)
        elif size > room:
            elsewhere.append(str(run.path / "videos"))
        else:
            room -= size
            clips = [Clip(text, path.read_bytes()) for text, path in files.items()]
            note = "Episodes of the mean policy; numbers are the evaluation's means."
            yield Gallery(f"Videos of {run.name}", note, clips)
    if elsewhere:
        yield Listing(
            "Further videos", "Too large for one page, they lie in", elsewhere
        )
    if without:
        text = f"Without videos beside their metrics: {', '.join(without)}."
        yield Listing("No videos", text, [])


def videos(run: RunFiles) -> dict[str, Path]:
    """Returns the videos that show most of a run, by what each of them is.

    Of the evaluation with most objects done the best episode, of the one with fewest
    the worst, and both of the last; of equals the return decides, then the later one.
    """
    rows = {
        row["step"]: row for row in run.rows if row["phase"].startswith("evaluation")
    }

    def path(step: int, kind: str) -> Path:
        return run.path / "videos" / f"{step:06d}-{kind}.mp4"

    def worth(step: int) -> tuple[float, float, int]:
        objects, returned = (
            rows[step].get(f"mean/{name}") or 0.0 for name in ("objects", "return")
        )
        return objects, returned, step

    steps = [step for step in sorted(rows, key=worth) if path(step, "best").is_file()]
    if not steps:
        return {}
    chosen = {
        (steps[-1], "best"): "Best evaluation",
        (steps[0], "worst"): "Worst evaluation",
    }
    for kind in ("best", "worst"):
        chosen.setdefault((max(steps), kind), "Last evaluation")
    return {
        _caption(what, step, kind, rows[step]): path(step, kind)
        for (step, kind), what in chosen.items()
        if path(step, kind).is_file()
    }


def _caption(what: str, step: int, kind: str, row: Mapping[str, Any]) -> str:
    objects, returned = worth = [
        row.get(f"mean/{one}") for one in ("objects", "return")
    ]
    means = "" if None in worth else f": {objects:.2f} objects, return {returned:.0f}"
    return f"{what} ({step:,} updates{means}): its {kind} episode"


def time_sections(systems: Sequence[System]) -> Iterator[Part]:
    """Yields where the time of each program went: a bar and its parts in minutes."""
    several, without = program_times(systems)
    title = "Where the time went"
    if several:
        with matplotlib.rc_context(PRINT_STYLE):
            picture = small_picture(title, "", time_figure(several))
        yield picture._replace(
            caption="Wall time of a program, of all its seeds and sessions. Episodes "
            "are collected while updates run; only the wait for them is counted here."
        )
        parts = parts_of(several)
        rows = [
            [part, *(_share(one.seconds.get(part), one.total) for one in several)]
            for part in parts
        ]
        rows.append(["total", *(f"{one.total / 60:.1f}" for one in several)])
        yield Grid(
            f"{title}, in minutes",
            "In brackets the share of the total.",
            ["part", *(one.name for one in several)],
            rows,
        )
    if without:
        text = f"Parts are not known of {', '.join(without)}: a run's end writes them."
        yield Listing("Time not known", text, [])


def program_times(systems: Sequence[System]) -> tuple[list[Times], list[str]]:
    """Returns the parts of each program's time, and the names of those without."""
    several, without = [], []
    seen = {}
    for system in systems:
        for run in system.runs:
            seen.setdefault(program_directory(run.path), run)
    for path, run in seen.items():
        seconds = run.summary.get("wall_seconds")
        if seconds:
            several.append(times(path.name, seconds))
        else:
            without.append(path.name)
    return several, without


def _share(seconds: float | None, total: float) -> str:
    if seconds is None:
        return "–"
    return f"{seconds / 60:.1f} ({seconds / total:.0%})".replace("%", " %")


def settings_section(systems: Sequence[System]) -> Part:
    """Returns the configuration keys whose values differ, a column a system."""
    title = "Settings that differ"
    every = [run for system in systems for run in system.runs]
    keys = [key for key in differing_keys(every) if key != "seeds"]
    if not keys:
        text = "All runs have one configuration but for the seed."
        return Listing(title, text, [])
    rows = [
        [key, *(_values(system.runs, key) for system in systems)]
        for key in [*keys, "seeds"]
    ]
    return Grid(
        title,
        "Keys of the configuration in which the runs are not all alike; where things "
        "lie and what is written when is left out. A run from before a key came has "
        "the value of then.",
        ["key", *(full_label(system, systems) for system in systems)],
        rows,
    )


def _values(runs: Sequence[RunFiles], key: str) -> str:
    """Returns a key's values over runs, each once."""
    several = [setting(run, key) for run in runs]
    if key == "init_from":
        several = [parent_place(value) for value in several]
    texts = [
        ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in several
    ]
    shown = dict.fromkeys(text or "(empty)" for text in texts)
    return ", ".join(shown)


def full_label(system: System, systems: Sequence[System]) -> str:
    """Returns what a system is called beside those of other tasks."""
    alone = len(tasks_of(systems)) == 1
    return system.label if alone else f"{system.label}, {system.task}"


def model_section(systems: Sequence[System]) -> Part:
    """Returns what training said of the models at its end; they are asked nothing."""
    title = "The models, by their training"
    rows = []
    for system in systems:
        if all(len(run.series(_REWARD_LOSS).values) for run in system.runs):
            # The loss is half the squared error.
            error = float(np.sqrt(2 * _last(system, _REWARD_LOSS)))
            numbers = (error, _last(system, _UNCERTAINTY))
            cells = ("–" if np.isnan(one) else f"{one:.3f}" for one in numbers)
            rows.append([full_label(system, systems), *cells])
    if not rows:
        text = "No run recorded how well a model predicts."
        return Listing(title, text, [])
    return Grid(
        title,
        "Last record of each run, means over seeds. The reward's error is the root "
        "mean square on training batches, along what was seen. How predictions hold "
        "where the model does not see is measured with --probe, on demonstrations "
        "that it was not trained on.",
        ["system", "reward error", "uncertainty in dreams"],
        rows,
    )


def _last(system: System, metric: str) -> float:
    last = [run.series(metric).values[-1:] for run in system.runs]
    return float(np.mean(np.concatenate(last))) if all(map(len, last)) else float("nan")
