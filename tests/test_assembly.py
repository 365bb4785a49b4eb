from experiments.configs.base import get_config
from moto_jax import assembly
from moto_jax.envs import renderer


def test_the_renderer_is_named_and_a_gpu_that_stands_idle_too(monkeypatch, capsys):
    monkeypatch.setattr(renderer, "renderer_name", lambda: "llvmpipe")
    monkeypatch.setattr(assembly, "software_warning", lambda name: f"{name} is slow")
    assembly.announce_renderer(get_config("tiny"))
    said = capsys.readouterr()
    assert said.err == "frames are drawn by llvmpipe\nllvmpipe is slow\n"
    monkeypatch.setattr(assembly, "software_warning", lambda name: None)
    assembly.announce_renderer(get_config("tiny"))
    assert capsys.readouterr().err == "frames are drawn by llvmpipe\n"
