"""
What is supported, found by trying: ``PYTHONPATH=.:tests python tests/supported.py`` writes the table of the
documentation, and a test compares the two.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from helpers import learn
from sb3_contrib import RecurrentPPO
from sights import ACTIONS, SIGHTS, agent, agent_with_memory, ball_of, epsilon_of, make_sights
from stable_baselines3 import PPO

from sb3_barpo.adversary import SGLD, Adversary, Uniform
from sb3_barpo.algorithms import OURS
from sb3_barpo.attacks import ATTACKS, Attack, LearnedAttack
from sb3_barpo.attacks.reversed_roles import PolicyAttack
from sb3_barpo.evaluation import evaluate_robustness

FILE = Path(__file__).parent.parent / "docs" / "supported.md"
NAMES = {
    "vector": "`Box`, floating",
    "matrix": "`Box` of several dimensions",
    "double": "`Box` of double precision",
    "bytes": "`Box` of bytes",
    "integers": "`Box` of integers",
    "words": "`Box` of unsigned 16 bit",
    "flags": "`Box` of truth values",
    "half": "`Box` of half precision",
    "image": "images, channels last",
    "image_first": "images, channels first",
    "stack": "stacked images",
    "dict": "`Dict` with an image, a vector and a `Discrete`",
    "vectors": "`Dict` of vectors",
    "types": "`Dict` of truth values, unsigned 16 bit and half precision",
    "box": "`Box`",
    "sde": "`Box` with gSDE",
    "squashed": "`Box` with gSDE, squashed",
    "discrete": "`Discrete`",
    "multi_discrete": "`MultiDiscrete`",
    "multi_binary": "`MultiBinary`",
}


#: What is said where something is not supported. Any other error is a fault.
REFUSALS = re.compile(
    "An action value (is learned from flat Box observations, not|needs Box or Discrete actions, but)|"
    r"SA-RL's adversary would have to choose \d+ pixels|"
    "Bounds are computed for SB3's MLP policies on Box observations|"
    "A smoothed policy (adds noise to Box observations that are no images|has no median of gSDE's noise)"
)


def tried(what: Callable[[], Any]) -> str:
    """Whether it works; an error counts as a refusal only if it says so."""
    try:
        what()
    except TypeError as error:
        if not REFUSALS.match(str(error)):
            raise
        return "no"
    return "yes"


def build(algorithm: type[PPO], sight: str, action: str, **own: Any) -> PPO:
    return (agent_with_memory if issubclass(algorithm, RecurrentPPO) else agent)(algorithm, sight, action, **own)


def trains(algorithm: type[PPO], sight: str, action: str) -> None:
    objective = algorithm.defence.objective
    adversary = Adversary(objective, Uniform() if objective is None else SGLD(n_steps=2), ball_of(sight))
    learn(build(algorithm, sight, action, epsilon=epsilon_of(sight), adversary=adversary), 64)


def attacks(kind: type[Attack], victim: type[PPO], sight: str, action: str) -> None:
    model = build(victim, sight, action)
    quick = {"n_steps": 8, "batch_size": 16} if issubclass(kind, PolicyAttack) else {}
    attack = kind(model, epsilon_of(sight), ball=ball_of(sight), seed=0, **quick)  # type: ignore[call-arg]
    if isinstance(attack, LearnedAttack):
        attack.fit(make_sights(sight, action), total_timesteps=16)
    evaluate_robustness(model, make_sights(sight, action), [attack], n_eval_episodes=2)


def row(name: str, sight: str, action: str, family: list[type[PPO]]) -> dict[str, str]:
    victim, *robust = family
    cells = {"": name}
    for algorithm in robust:
        cells[f"`{algorithm.__name__}`"] = tried(lambda algorithm=algorithm: trains(algorithm, sight, action))
    for attack in ATTACKS.values():
        cells[f"`{attack.__name__}`"] = tried(lambda attack=attack: attacks(attack, victim, sight, action))
    return cells


def tables() -> str:
    feed_forward = [PPO, *(row.load_class() for row in OURS.values() if not row.memory)]
    recurrent = [RecurrentPPO, *(row.load_class() for row in OURS.values() if row.memory)]
    rows = {
        "**Observations**, with `Box` actions": [row(NAMES[sight], sight, "box", feed_forward) for sight in SIGHTS],
        "**Actions**": [row(NAMES[action], "vector", action, feed_forward) for action in ACTIONS],
        "**With a memory**": [
            row(f"{NAMES[sight]}; {NAMES[action]} actions", sight, action, recurrent)
            for sight, action in (("vector", "box"), ("vector", "discrete"), ("vectors", "sde"), ("image", "discrete"))
        ],
    }
    return "\n\n".join(f"{title}\n\n{pd.DataFrame(cells).to_markdown(index=False)}" for title, cells in rows.items())


if __name__ == "__main__":
    FILE.write_text(tables() + "\n", encoding="utf-8")
