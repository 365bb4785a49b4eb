"""The page of experiments.report, from runs and their figures."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import report_sections
from experiments.run_commands import run_command
from moto_jax.run_layout import POLICIES, RunError, program_directory
from moto_jax.study.comparison_rows import result_rows
from moto_jax.study.drawings import Contents, read_contents
from moto_jax.study.page import Grid, Listing, Part, Picture, page
from moto_jax.study.runs import RunFiles, seed_groups
from moto_jax.study.runs import results as run_results
from moto_jax.study.systems import (
    ABLATIONS,
    MOTO,
    RESULT_EPISODES,
    System,
    collect,
    find_runs,
    tasks_of,
)

# Asks the checkpoints of systems; see `experiments.calibration_values`.
Ask = Callable[[Sequence[System]], Sequence[Part]]


def make_report(
    directories: Sequence[Path], figures: Path | None = None, ask: Ask | None = None
) -> str:
    """Returns the page.

    Args:
      directories: of runs, or beneath which runs lie.
      figures: directory of their figures, if there are some.
      ask: tells how well the runs' models predict, if it is to be measured.

    Raises:
      ValueError: if there are no runs or no figures, or they are damaged.
      OSError: if a picture cannot be read.
    """
    contents = read_contents(figures) if figures else Contents([], [])
    systems, notes = _systems(directories)
    every = [run for system in systems for run in system.runs]
    pictures = [
        Picture(
            one["title"],
            f"{one['caption']} Numbers: {', '.join(one['tables'])}.",
            (figures / f"{one['name']}.png").read_bytes(),
        )
        for one in contents.figures
        if figures
    ]
    return page(
        "MOTO in JAX: offline pre-training, online fine-tuning",
        _intro(every),
        [
            *(_results_grid(systems, task) for task in tasks_of(systems)),
            *pictures,
            *report_sections.objects_sections(systems),
            *report_sections.video_sections(every),
            *(ask(systems) if ask else [report_sections.model_section(systems)]),
            report_sections.settings_section(systems),
            *report_sections.time_sections(systems),
            _cost_grid(systems),
            *_notes([*contents.notes, *notes]),
            _commands(every, directories, figures),
            *_made_with(every),
        ],
    )


def _systems(directories: Sequence[Path]) -> tuple[list[System], list[str]]:
    """Returns the runs beneath directories as systems, and what is to be noted.

    Where those of one system differ in more than the seed, each setting is one of its
    own, called by its first program's name.
    """
    found, notes = [], []
    for directory in directories:
        runs, faults = find_runs(directory)
        found += runs
        notes += faults
    try:
        systems, more = collect(found)
    except RunError as error:
        more = [f"each setting is shown by itself: {error}"]
        groups = seed_groups(found)
        names = [program_directory(group[0].path).name for group in groups]
        systems = [
            System(
                group[0].config["task"],
                name if names.count(name) == 1 else str(group[0].path),
                tuple(group),
            )
            for name, group in zip(names, groups, strict=True)
        ]
    return systems, [*notes, *more]


def _intro(runs: Sequence[RunFiles]) -> list[str]:
    """Returns what the runs are: environment and budget, from their configurations."""
    name = _values(runs, "env.name") or "kitchen"
    size = _values(runs, "env.image_size")
    return [
        f"{len(runs)} training runs, one a system, task and seed, in the environment "
        f"{name} (size {_values(runs, 'size')}), from {size}x{size} images alone.",
        f"Budget of each: {_values(runs, 'data.episodes')} demonstrations, "
        f"{_values(runs, 'training.offline_updates')} offline updates, then "
        f"{_values(runs, 'training.online_episodes')} online episodes of "
        f"{_values(runs, 'env.episode_steps')} steps with "
        f"{_values(runs, 'training.updates_per_episode')} updates after each; "
        f"{_values(runs, 'evaluation.episodes')} episodes an evaluation and policy.",
    ]


def _values(runs: Sequence[RunFiles], key: str) -> str:
    """Returns a configuration value, or those of runs that differ, as text."""
    known = dict.fromkeys(run.config[key] for run in runs if key in run.config)
    return " or ".join(
        f"{value:,}" if isinstance(value, int) else str(value) for value in known
    )


def _results_grid(systems: Sequence[System], task: str) -> Grid:
    """Returns a task's final objects and success of both policies, a row a system."""
    rows: dict[str, list[str]] = {}
    of_task = [system for system in systems if system.task == task]
    for row in result_rows(of_task):
        if row["measure"] != "return":
            name = row["system"]
            shown = f"{MOTO}, {name}" if name in ABLATIONS else name
            cells = rows.setdefault(name, [shown, str(row["seeds"])])
            cells.append(_cell(row))
    columns = [
        "system",
        "seeds",
        *(
            f"{measure}, {policy}"
            for policy in POLICIES
            for measure in ("success", "objects")
        ),
    ]
    note = (
        f"Means over the last {RESULT_EPISODES} evaluation episodes of the online "
        "phase (the last evaluation where there is none), with 95 % bootstrap "
        "intervals over seeds, of the mean and of the sampled policy; success is all "
        "of the task's objects reached at some step of an episode."
    )
    return Grid(f"Results on task {task}", note, columns, list(rows.values()))


def _cell(row: Mapping[str, Any]) -> str:
    numbers = [row[name] for name in ("mean", "mean_low", "mean_high")]
    percent = row["measure"] == "success"
    mean, low, high = (
        f"{100 * number:.0f}" if percent else f"{number:.2f}" for number in numbers
    )
    text = f"{mean} %" if percent else mean
    return text if row["seeds"] == 1 else f"{text} [{low}, {high}]"


def _cost_grid(systems: Sequence[System]) -> Grid:
    """Returns how long each program took, and how much memory."""
    rows = []
    for system in systems:
        programs: dict[Path, list[RunFiles]] = {}
        for run in system.runs:
            programs.setdefault(program_directory(run.path), []).append(run)
        for path, runs in programs.items():
            minutes = run_results(runs[0])["minutes"]
            peak = runs[0].summary.get("peak_rss_bytes")
            rows.append(
                [
                    path.name,
                    str(len(runs)),
                    f"{runs[0].updates:,}",
                    "–" if minutes is None else f"{minutes:.1f}",
                    "–" if peak is None else f"{peak / 1e9:.1f}",
                ]
            )
    return Grid(
        "What the runs took",
        "Wall time of the program that trained all of a row's seeds, with evaluations, "
        "and the most memory it held.",
        ["program", "seeds", "updates", "minutes", "GB"],
        rows,
    )


def _notes(notes: Sequence[str]) -> list[Listing]:
    return [Listing("Notes", "", list(dict.fromkeys(notes)))] if notes else []


def _commands(
    runs: Sequence[RunFiles], directories: Sequence[Path], figures: Path | None
) -> Listing:
    """Returns the commands that do it all again."""
    lines = []
    for run in runs:
        try:
            command = run_command(run)
        except ValueError as error:
            command = f"# {run.path}: {error}"
        if command not in lines:
            lines.append(command)
    if figures and len(directories) == 1:
        words = ("--runs", str(directories[0])), ("--out", str(figures))
        flags_text = [f"{name}={shlex.quote(value)}" for name, value in words]
        lines.append(f"python -m experiments.figures {' '.join(flags_text)}")
    return Listing("The commands that made this", "", lines)


def _made_with(runs: Sequence[RunFiles]) -> list[Listing]:
    """Returns machines and versions, each once."""
    # With jax, which nothing else here needs.
    from moto_jax.running.provenance import describe

    machines = {
        describe(run.summary["hardware"]): None
        for run in runs
        if run.summary.get("hardware")
    }
    versions = {
        json.dumps(run.summary["versions"]): None
        for run in runs
        if run.summary.get("versions")
    }
    lines = [
        ", ".join(f"{name} {version}" for name, version in json.loads(one).items())
        for one in versions
    ]
    return [Listing("Machines and versions", "", [*machines, *lines])] if lines else []
