"""The reference of every configuration key, as Markdown.

python -m experiments.configs.reference > docs/configuration.md
"""

from typing import Any

from experiments.configs.base import SIZES
from experiments.configs.keys import KEYS
from moto_jax.run_layout import flat_config
from moto_jax.tables import markdown_lines

_COLUMNS = ("key", "`full`", "other sizes", "may be", "what it is")


def reference() -> str:
    """Returns every key with its values, its range and its meaning, by section."""
    sizes = {name: flat_config(make().to_dict()) for name, make in SIZES.items()}
    sections: dict[str, list[list[str]]] = {}
    for name, key in KEYS.items():
        section = name.partition(".")[0] if "." in name else ""
        row = [
            f"`{name}`",
            _told(key.value),
            _others(sizes, name),
            key.range.says,
            key.meaning,
        ]
        sections.setdefault(section, []).append(row)
    lines = [
        "# Configuration",
        "",
        "Each key is a flag, `--config.moto.alpha=0`. `full` are the paper's sizes;",
        "`mixed.py` has these values; `partial.py`, `metaworld.py` and `gymnasium.py`",
        "say how they differ. Made from `experiments/configs/keys.py` by",
        "",
        "    python -m experiments.configs.reference > docs/configuration.md",
    ]
    for section, rows in sections.items():
        lines += ["", f"## {section or 'The run'}", "", *markdown_lines(_COLUMNS, rows)]
    return "\n".join(lines) + "\n"


def _others(sizes: dict[str, dict[str, Any]], name: str) -> str:
    """Returns the values that sizes have instead of `full`'s, each with its sizes."""
    if name == "size":
        return ""
    by_value: dict[str, list[str]] = {}
    for size, values in sizes.items():
        if values[name] != KEYS[name].value:
            by_value.setdefault(_told(values[name]), []).append(size)
    return "; ".join(f"{value} ({', '.join(own)})" for value, own in by_value.items())


def _told(value: Any) -> str:
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


if __name__ == "__main__":
    print(reference(), end="")
