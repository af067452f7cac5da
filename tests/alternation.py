"""What ATLA promises with and without a memory."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers import make_envs, same, weights
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import sync_envs_normalization

from sb3_barpo.attacks import PAAD, SARL
from sb3_barpo.evaluation import evaluate_robustness


def check_life(build: Callable[..., Any], kind: Any, base: Any, attacker: str, folder: Path) -> None:
    """Trained with a callback, attacked, stored, loaded by its class and by SB3's, and trained further."""
    envs, settings = make_envs(n_envs=2, normalized=True), {"learning_rate": 1e-2}
    model = build(envs, attacker=attacker, attacker_kwargs=settings)
    model.learn(128, callback=EvalCallback(make_envs(normalized=True), n_eval_episodes=1, eval_freq=32, verbose=0))
    attack = model.learned_attack()
    assert type(attack) is {"sarl": SARL, "paad": PAAD}[attacker]
    assert attack.adversary_model.learning_rate == 1e-2
    sync_envs_normalization(envs, eval_env := make_envs(normalized=True))
    report = evaluate_robustness(model, eval_env, [attack], n_eval_episodes=2)
    assert np.isfinite(report.worst_case)
    model.save(folder / "agent")
    attack.save(folder / "attack.zip")
    again, plain = (some.load(folder / "agent", device="cpu", env=envs) for some in (kind, base))
    assert (again.attacker, again.attacker_kwargs) == (attacker, settings)
    again.load_attack(folder / "attack.zip")
    assert same(weights(again._attack.adversary_model), weights(attack.adversary_model))
    for some in (again, plain):
        assert same(weights(some), weights(model))
        some.learn(64, reset_num_timesteps=False)
        assert all(np.isfinite(value.numpy()).all() for value in weights(some).values())
    assert again._attack.adversary_model.num_timesteps == 192


def check_discrete_actions(build: Callable[..., Any]) -> None:
    """Both attackers learn beside an agent whose actions are discrete."""
    for attacker in ("sarl", "paad"):
        build(make_envs("CartPole-v1", n_envs=2), attacker=attacker).learn(128)


def check_help(kind: Any, base: Any) -> None:
    """All arguments are shown."""
    shown = inspect.signature(kind).parameters
    assert {*inspect.signature(base).parameters, "epsilon", "weight", "attacker", "attacker_kwargs"} <= {*shown}
    assert "kwargs" not in shown
