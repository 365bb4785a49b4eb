"""The card of an exported policy: data, budget, results, commands."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.run_commands import parent_place, run_command
from moto_jax.data.episodes import DatasetError, read_manifest
from moto_jax.run_layout import POLICY_SUFFIXES, program_directory
from moto_jax.running import provenance
from moto_jax.running.exports import TrainedPolicy
from moto_jax.study.runs import RunFiles, read_run
from moto_jax.tables import markdown_lines
from moto_jax.types import Config
from moto_jax.worlds.registry import make_world

_READING = (
    "In brackets 95 % intervals over episodes. Objects: the mean number of the task's "
    "that were in their goal at some step of an episode; success: the share of "
    "episodes in which all were; at the end: all at the last step."
)

Rows = Sequence[Mapping[str, Any]]

_PHASES = {
    "before": "as it began",
    "offline": "offline",
    "online": "online",
}


def make_card(
    policy: Path,
    trained: TrainedPolicy,
    megabytes: float,
    run: Path,
    evaluation: Path | None,
    export_command: str,
) -> str:
    """Returns the card, in Markdown.

    Args:
      policy: the file.
      trained: what it holds.
      megabytes: 10^6 bytes of it.
      run: directory of its seed, with config.json and metrics.jsonl.
      evaluation: evaluation.json of `experiments.evaluate`.
      export_command: that writes the file.

    Raises:
      ValueError: if the run's files are missing or damaged, or the evaluation is of
        another policy.
    """
    config = trained.config
    files = read_run(run)
    rows = [row for row in files.rows if row["step"] <= trained.updates]
    measured = None if evaluation is None else _read_evaluation(evaluation, trained)
    evaluated = [] if measured is None else [measured["command"]]
    commands = [run_command(files), *evaluated, export_command]
    lines = [
        f"# {policy.stem}",
        "",
        f"The policy of `{config.agent}` on the task `{config.task}` "
        f"({', '.join(make_world(config).events)}) in the environment "
        f"`{config.env.name}`, from {config.env.image_size}x{config.env.image_size} "
        f"images alone: seed {trained.seed} after {trained.updates:,} updates. "
        f"`{policy.name}`, {megabytes:.2f} MB, holds what acting "
        "needs, in half precision.",
        "",
        f"    python -m experiments.watch --policy={_shown(policy, policy)}",
        "",
        "## Data and budget",
        "",
        f"* {_demonstrations(config, run)}",
        *(f"* {line}" for line in _budget(files, rows, trained)),
        *_results(rows, measured),
        "",
        "## Commands",
        "",
        *(f"    {_anywhere(command, run)}" for command in commands),
        "",
        "## Made with",
        "",
        *(f"* {line}" for line in _made_with(files)),
        "",
    ]
    return "\n".join(lines)


def _anywhere(command: str, run: Path) -> str:
    """Returns a command without where outside the folder of this code a run lay."""
    program = program_directory(run)
    return command.replace(str(program), _shown(program, Path("runs", program.name)))


def _shown(path: Path, otherwise: Path) -> str:
    """Returns a path as seen from the working directory, if it lies there."""
    here = Path.cwd()
    inside = path.is_absolute() and path.is_relative_to(here)
    return str(path.relative_to(here) if inside else otherwise)


def _demonstrations(config: Config, run: Path) -> str:
    """Returns what was demonstrated: as the dataset's manifest says, if it is there."""
    data = config.data
    beside = run if len(config.seeds) == 1 else run.parent
    try:
        manifest = read_manifest(Path(data.directory or beside / "dataset"))
    except DatasetError:
        return f"{data.episodes} demonstrations, source `{data.source}`"
    task = set(make_world(config).events)
    number = len(manifest.episodes)
    complete = sum(task <= set(record.objects) for record in manifest.episodes)
    return (
        f"{number} demonstrations, source `{manifest.source}`, render profile "
        f"`{manifest.render_profile}`; {complete} of them ({complete / number:.0%}) "
        "complete the task"
    )


def _budget(files: RunFiles, rows: Rows, trained: TrainedPolicy) -> list[str]:
    section = trained.config.training
    offline = min(trained.updates, section.offline_updates)
    online = trained.updates - offline
    lines = []
    if trained.config.init_from:
        parent = parent_place(trained.config.init_from)
        lines.append(f"began with all that `{parent}` had learnt, beside what follows")
    lines.append(f"{offline:,} offline updates")
    if online and section.updates_per_episode:
        episodes = -(-online // section.updates_per_episode)
        lines.append(
            f"{online:,} online updates, {section.updates_per_episode} after each of "
            f"{episodes:,} online episodes of {trained.config.env.episode_steps} steps"
        )
    if rows:
        # A run that has ended tells also of its demonstrations and its compilation.
        ended = files.summary if files.summary.get("updates") == trained.updates else {}
        seconds = ended.get("wall_seconds", {}).get("total", rows[-1]["wall_seconds"])
        minutes = seconds / 60
        with_seeds = len(trained.config.seeds)
        shared = f" for {with_seeds} seeds together" if with_seeds > 1 else ""
        lines.append(f"{minutes:.0f} minutes{shared}")
    return lines


def _results(rows: Rows, measured: Mapping[str, Any] | None) -> list[str]:
    """Returns the last evaluation of each phase, and the one that was given."""
    cells = []
    for phase, label in _PHASES.items():
        found = [row for row in rows if row["phase"] == f"evaluation {phase}"]
        for policy in POLICY_SUFFIXES.values() if found else ():
            prefix = f"{policy}/"
            figures = {
                name.removeprefix(prefix): value
                for name, value in found[-1].items()
                if name.startswith(prefix)
            }
            updates = found[-1]["step"]
            cells.append(_row(f"{label}, {updates:,} updates", policy, figures))
    lines = ["", "## Results", "", *_table(cells)] if cells else []
    if measured is not None:
        policies = measured["policies"]
        lines += ["", "Evaluated by the second of the commands below:", ""]
        lines += _table(
            [_row("evaluated", name, one) for name, one in policies.items()]
        )
        lines += ["", "Share of episodes that reached each object:", ""]
        for name, figures in policies.items():
            rates = ", ".join(
                f"{key.removeprefix('reached/')} {value:.0%}"
                for key, value in figures.items()
                if key.startswith("reached/")
            )
            lines.append(f"* {name} policy: {rates}")
    if lines:
        lines += ["", _READING]
    return lines


def _row(label: str, policy: str, figures: Mapping[str, float]) -> list[str]:
    return [
        label,
        policy,
        f"{figures['episodes']:.0f}",
        f"{figures['objects']:.2f} [{figures['objects_low']:.2f}, "
        f"{figures['objects_high']:.2f}]",
        f"{figures['success']:.0%} [{figures['success_low']:.0%}, "
        f"{figures['success_high']:.0%}]",
        f"{figures['success_at_end']:.0%}",
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns a Markdown table."""
    heads = ["", "policy", "episodes", "objects", "success", "success at the end"]
    return markdown_lines(heads, rows)


def _read_evaluation(path: Path, trained: TrainedPolicy) -> dict[str, Any]:
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        made = (evaluation["seed"], evaluation["updates"])
        for key in ("policies", "command", "task"):
            evaluation[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"--evaluation={path} cannot be read: give the evaluation.json that "
            "experiments.evaluate has written"
        ) from None
    wanted = (trained.seed, trained.updates)
    task = list(make_world(trained.config).events)
    if made != wanted or evaluation["task"] != task:
        raise ValueError(
            f"--evaluation={path} is of seed {made[0]}, {made[1]} updates and the task "
            f"{', '.join(evaluation['task'])}, not of seed {wanted[0]}, {wanted[1]} "
            f"updates and {', '.join(task)}: evaluate the checkpoint that is exported"
        )
    return evaluation


def _made_with(files: RunFiles) -> list[str]:
    """Returns commits, the versions that exported, and the machine that trained."""
    versions = provenance.versions()
    trained_at = files.summary.get("commit") or "unknown"
    lines = [
        f"trained at commit {trained_at}",
        f"exported at commit {provenance.commit() or 'unknown'}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    hardware = files.summary.get("hardware")
    if hardware:
        lines.append(f"trained on {provenance.describe(hardware)}")
    return lines
