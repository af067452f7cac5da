"""The Python blocks of Markdown pages, and how they are made small."""

import re
from pathlib import Path

BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
#: What is made small: patterns and what takes their place.
SMALLER = [
    (r"\b\d{1,3}(_\d{3})+\b|\b\d{6,}\b", "64"),  # steps of training
    (r"\b(n_eval_episodes|n_episodes|n_trials)=\d+", r"\1=2"),
    (r"\bn_envs=\d+", "n_envs=2"),
    (r"\bn_jobs=\d+", "n_jobs=1"),
    (r'budget="standard"', "budget=tiny"),
    (r'attacks="auto"', 'attacks="auto", budget=small'),
    (r'"postgresql\+psycopg://[^"]*"', '"study.log"'),
]


def blocks(page: Path) -> list[tuple[int, str]]:
    """The Python blocks of a page, with their lines in it."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        found.append((line, re.sub(rf"^{match[1]}", "", match[2], flags=re.MULTILINE)))
    return found


def smaller(code: str) -> str:
    """The same code with fewer steps, episodes, environments and processes."""
    for pattern, replacement in SMALLER:
        code = re.sub(pattern, replacement, code)
    return code
