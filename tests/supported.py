"""
What is supported, found by trying: ``PYTHONPATH=.:tests python tests/supported.py`` writes the table of the
documentation, and a test compares the two.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from helpers import learn
from sights import ACTIONS, SIGHTS, agent, ball_of, epsilon_of, make_sights
from stable_baselines3 import PPO

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import SGLD, Adversary
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
    "image": "images, channels last",
    "image_first": "images, channels first",
    "stack": "stacked images",
    "dict": "`Dict` with an image, a vector and a `Discrete`",
    "vectors": "`Dict` of vectors",
    "box": "`Box`",
    "sde": "`Box` with gSDE",
    "squashed": "`Box` with gSDE, squashed",
    "discrete": "`Discrete`",
    "multi_discrete": "`MultiDiscrete`",
    "multi_binary": "`MultiBinary`",
}


def tried(what: Callable[[], Any]) -> str:
    """Whether it works; a refusal counts only if it is meant as one."""
    try:
        what()
    except TypeError:
        return "no"
    return "yes"


def trains(algorithm: type[PPO], sight: str, action: str) -> None:
    objective = algorithm("MlpPolicy", make_sights("vector")).default_adversary().objective
    adversary = Adversary(objective, SGLD(n_steps=2), ball_of(sight))
    learn(agent(algorithm, sight, action, epsilon=epsilon_of(sight), adversary=adversary), 64)


def attacks(kind: type[Attack], sight: str, action: str) -> None:
    model = agent(PPO, sight, action)
    quick = {"n_steps": 8, "batch_size": 16} if issubclass(kind, PolicyAttack) else {}
    attack = kind(model, epsilon_of(sight), ball=ball_of(sight), seed=0, **quick)  # type: ignore[call-arg]
    if isinstance(attack, LearnedAttack):
        attack.fit(make_sights(sight, action), total_timesteps=16)
    evaluate_robustness(model, make_sights(sight, action), [attack], n_eval_episodes=2)


def row(name: str, sight: str, action: str) -> dict[str, str]:
    cells = {"": NAMES[name]}
    for algorithm in (ARPO, BARPO):
        cells[algorithm.__name__] = tried(lambda algorithm=algorithm: trains(algorithm, sight, action))
    for attack in ATTACKS.values():
        cells[f"`{attack.__name__}`"] = tried(lambda attack=attack: attacks(attack, sight, action))
    return cells


def tables() -> str:
    observations = pd.DataFrame([row(sight, sight, "box") for sight in SIGHTS])
    actions = pd.DataFrame([row(action, "vector", action) for action in ACTIONS])
    return "\n\n".join(
        f"{title}\n\n{table.to_markdown(index=False)}"
        for title, table in (("**Observations**, with `Box` actions", observations), ("**Actions**", actions))
    )


if __name__ == "__main__":
    FILE.write_text(tables() + "\n", encoding="utf-8")
