"""What the documentation shows works, and what it names is there."""

import importlib.util
import re
import sys

import pytest

from moto_jax import agents
from moto_jax.acting import videos
from tests.programs import ROOT, run_python

PAGES = sorted(
    path for path in ROOT.glob("docs/**/*.md") if path.name != "configuration.md"
)


def code_blocks(page, language):
    text = (ROOT / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_pages_agent_is_one(tmp_path, monkeypatch):
    """The first block of docs/agent.md, registered as the second says, trains."""
    source, entry = code_blocks("docs/agent.md", "python")[:2]
    path = tmp_path / "random_agent.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("random_agent", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "random_agent", module)
    spec.loader.exec_module(module)
    name, maker = re.findall(r'"(\w+)": (\w+),', entry)[0]
    assert name not in agents.AGENTS
    monkeypatch.setitem(agents.AGENTS, name, getattr(module, maker))
    monkeypatch.setattr(
        videos, "write_video", lambda path, frames: path.write_bytes(b"")
    )

    from experiments.configs import mixed
    from moto_jax.running import training

    config = mixed.get_config("mini")
    config.agent = name
    config.task = "kettle"
    config.data.update(episodes=3, action_noise=0.0)
    config.training.update(
        offline_updates=2, online_episodes=1, updates_per_episode=1, evaluate_every=0
    )
    config.evaluation.episodes = 1
    training.train(config, tmp_path / "run")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"mean_reward"' in metrics and '"phase": "evaluation online"' in metrics


@pytest.mark.kitchen
def test_the_readmes_policy_plays(tmp_path):
    """The whole block: on most seeds, and on this one, it does most of its task."""
    program = tmp_path / "play.py"
    program.write_text(*code_blocks("README.md", "python"))
    done = run_python(str(program), cwd=ROOT)
    said = re.fullmatch(r"(\d) of 4 objects are in their goal\n", done.stdout)
    assert said, done.stderr
    assert int(said.group(1)) >= 2


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(path):
    rooms = "moto_jax|experiments|launch|tests|results|docs"
    named = re.findall(rf"`((?:{rooms})/[\w./-]+\.\w+)`", path.read_text())
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_names_that_a_page_places_in_a_file_are_there(path):
    for file, name in re.findall(r"`(\w[\w/]*\.py): (\w+)`", path.read_text()):
        source = (ROOT / file).read_text()
        assert re.search(rf"^(?:def |class )?{name}\b", source, re.MULTILINE), (
            file,
            name,
        )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_keys_that_a_page_names_are_keys(path):
    from experiments.configs.keys import KEYS

    named = set(re.findall(r"(?:--)?config\.([a-z_][\w.]*\w)", path.read_text()))
    sections = {name.rpartition(".")[0] for name in KEYS}
    # `config.json` is a file's name; a section stands for its keys.
    unknown = named - set(KEYS) - sections - {"json"}
    assert not unknown


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_links_of_the_texts_beside_the_readme_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text()):
            if "://" not in target:
                assert (ROOT / target).exists(), (name, target)
