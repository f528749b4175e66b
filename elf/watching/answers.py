"""A run's answers over time, as a part of its page."""

from collections.abc import Sequence
from html import escape


def answers(rows: Sequence[dict[str, str]]) -> str:
    """Return a table for each prompt: what was answered at each step, newest first.

    Args:
        rows: Of ``samples.csv``: ``step``, ``prompt``, ``strength`` and ``answer``.
    """
    prompts: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        prompts.setdefault(row["prompt"], []).append(row)
    several = len({row["strength"] for row in rows}) > 1
    text = "<h2>Answers</h2>"
    for prompt, shown in prompts.items():
        lines = "".join(_line(row, several) for row in reversed(shown))
        text += f'<h3>{escape(prompt)}</h3><table class="answers">{lines}</table>'
    return text


def _line(row: dict[str, str], several: bool) -> str:
    strength = float(row["strength"])
    who = f"step {int(row['step']):,}"
    if several:
        who += " · base" if strength == 0 else f" · strength {strength:g}"
    return f"<tr><th>{escape(who)}</th><td>{escape(row['answer'])}</td></tr>"
