"""Directories of finished runs, with evaluations by hand; nothing was trained."""

import json

from experiments.configs import mixed, partial
from moto_jax.run_layout import seed_directory

OFFLINE_UPDATES, UPDATES_PER_EPISODE, EPISODES, EPISODE_STEPS = 20, 10, 2, 40
OBJECTS = ("microwave", "kettle", "bottom burner", "light switch")
FILES = {"mixed": mixed, "partial": partial}

# Of the mean policy after 0, 10, 20 (offline), 30 and 40 (online) updates.
UPDATES = (0, 10, 20, 30, 40)
RISING = (0.0, 1.0, 2.0, 2.5, 3.0)


def write_runs(
    out, name, task="partial", seeds=(0, 1), objects=None, ended=True, **changes
):
    """Writes a program's directory; `objects` are each seed's, as in `RISING`.

    Success is a quarter of the objects and the return ten times them; the sampled
    policy does half of the mean one. `changes` are of flat configuration keys.
    """
    directory = out / name
    config = FILES[task].get_config("tiny")
    config.training.update(
        offline_updates=OFFLINE_UPDATES,
        online_episodes=EPISODES,
        updates_per_episode=UPDATES_PER_EPISODE,
    )
    config.env.episode_steps = EPISODE_STEPS
    # Enough for the last evaluation to be the result.
    config.evaluation.episodes = 200
    config.update_from_flattened_dict(changes)
    for number, seed in enumerate(seeds):
        own = seed_directory(directory, seeds, seed)
        own.mkdir(parents=True)
        config.seeds = (seed,)
        _write_json(own / "config.json", config.to_dict())
        values = (objects or [RISING] * len(seeds))[number]
        lines = [json.dumps(row) + "\n" for row in metrics_rows(values)]
        (own / "metrics.jsonl").write_text("".join(lines))
        if ended:
            _write_json(own / "summary.json", SUMMARY)
    config.seeds = tuple(seeds)
    _write_json(directory / "config.json", config.to_dict())
    return directory


SUMMARY = {
    "wall_seconds": {"offline updates": 100.0, "total": 150.0},
    "peak_rss_bytes": 2_500_000_000,
    "hardware": {"cpu": "abacus", "cores": 2, "memory_gb": 1.5},
    "versions": {"python": "3.11", "jax": "0.10.1"},
}


def metrics_rows(values):
    rows = []
    for updates, objects in zip(UPDATES, values, strict=False):
        phase = "before" if not updates else "offline" if updates <= 20 else "online"
        if phase == "online":
            first = updates - UPDATES_PER_EPISODE + 1
            collected = {"phase": "collection", "objects": 1.0, "return": 5.0}
            rows.append({"step": first, **collected, "wall_seconds": 1.0})
        row = {"step": updates, "phase": f"evaluation {phase}", "wall_seconds": 2.0}
        for policy, share in (("mean", 1.0), ("sampled", 0.5)):
            row |= {
                f"{policy}/objects": share * objects,
                f"{policy}/success": share * objects / 4,
                f"{policy}/return": 10 * share * objects,
                **{f"{policy}/reached/{name}": share for name in OBJECTS},
            }
        rows.append(row)
    return rows


def _write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
