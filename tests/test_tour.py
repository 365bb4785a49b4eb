"""The notebook runs from its first cell to its last, and leaves what it shows."""

import importlib.util
import json

import imageio.v3
import numpy as np

from moto_jax.study.runs import read_run
from tests.programs import ROOT, run_python

NOTEBOOK = json.loads((ROOT / "docs" / "tour.ipynb").read_text())
CELLS = [
    "".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"
]

# In the place of the first cell's: everything runs, and nothing is learnt.
CHANGES = {
    "data": {"episodes": 12},
    "env": {"image_size": 16},
    "replay": {"batch_size": 2, "sequence_length": 6},
    "world_model": {
        **{"deter": 8, "hidden": 8, "groups": 4, "classes": 4},
        **{"members": 2, "depth": 2, "reward_units": 8},
    },
    "actor": {"units": 8},
    "critic": {"units": 8},
    "moto": {"horizon": 2},
    "training": {
        **{"offline_updates": 4, "online_episodes": 2, "updates_per_episode": 2},
        **{"log_every": 1, "evaluate_every": 0, "checkpoint_every": 4},
    },
    "evaluation": {"episodes": 2},
}


def test_it_runs_and_leaves_what_it_shows(tmp_path):
    place = tmp_path / "docs"
    place.mkdir()
    first = CELLS[0]
    assert "\nCHANGES = {" in first and 'WORKDIR = Path("../runs/tour")' in first
    program = [first, f"CHANGES = {CHANGES!r}", *CELLS[1:]]
    # A cell's last line is drawn.
    drawn = "print(len(({})._repr_html_()))"
    program = [
        cell.replace("\nShown(", "\nSHOWN = Shown(") + "\n" + drawn.format("SHOWN")
        if "\nShown(" in cell
        else cell
        for cell in program
    ]
    done = run_python("-c", "\n".join(program), cwd=place, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "12 demonstrations of microwave, kettle" in done.stdout
    assert "online " in done.stdout and "nan" not in done.stdout
    written = tmp_path / "runs" / "tour"
    for name in ("demonstrations", "curves", "open_loop", "rewards"):
        assert imageio.v3.imread(written / f"{name}.png").std() > 1
    episode = imageio.v3.imread(written / "policy.gif")
    assert episode.shape == (65, 8 * 16, 8 * 16, 3) and len(np.unique(episode)) > 2
    run = read_run(written)
    assert run.updates == 8 and run.summary
    assert np.isfinite(run.series("model/image_loss").values).all()


def test_it_is_kept_without_what_it_drew():
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_the_sites_page_has_every_cell():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.notebook_page((ROOT / "docs" / "tour.ipynb").read_text())
    assert page.startswith("# From demonstrations to a policy\n")
    assert all(f"```python\n{cell}\n```" in page for cell in CELLS)
