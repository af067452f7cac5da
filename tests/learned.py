"""Learned attacks in a blink: what they learn is no good, and soon learned."""

from typing import Any

import numpy as np
import pytest
import torch as th
from helpers import make_envs
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from victims import victim

from sb3_barpo.attacks import PAAD, SARL, LearnedAttack, RobustSarsa, SarsaMAD

LEARNED: list[type[LearnedAttack]] = [RobustSarsa, SarsaMAD, SARL, PAAD]
BY_POLICY: list[type[LearnedAttack]] = [SARL, PAAD]
EPSILON, STEPS = 0.1, 40

learned = pytest.mark.parametrize("kind", LEARNED)
by_policy = pytest.mark.parametrize("kind", BY_POLICY)


def build(kind: Any, model: OnPolicyAlgorithm | None = None, epsilon: float = EPSILON, **kwargs: Any) -> Any:
    """Not fitted yet. One large step takes an adversary far from SB3's initial policies, which are next to 0."""
    tiny = {"n_epochs": 1, "batch_size": 16}
    if kind in BY_POLICY:
        tiny |= {"n_steps": 16, "learning_rate": 0.1}
    return kind(victim() if model is None else model, epsilon, **{"seed": 0, **tiny, **kwargs})


def fit(kind: Any, model: OnPolicyAlgorithm | None = None, env_id: str = "Pendulum-v1", **kwargs: Any) -> Any:
    return build(kind, model, **kwargs).fit(make_envs(env_id, n_envs=2), STEPS)


def clean(model: OnPolicyAlgorithm | None = None, rows: int = 16) -> np.ndarray:
    shape = (victim() if model is None else model).observation_space.shape
    return np.random.default_rng(2).normal(size=(rows, *shape)).astype(np.float32)


def answers(attack: LearnedAttack, seed: int = 5) -> np.ndarray:
    attack.seed(seed)
    return attack.perturb(clean(attack.model))


def knowledge(attack: Any) -> dict[str, th.Tensor]:
    """What it learned."""
    net = attack.q if isinstance(attack, RobustSarsa) else attack.adversary_model.policy
    return {name: value.detach().clone() for name, value in net.state_dict().items()}
