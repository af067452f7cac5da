"""Episodes under attack, whose seeds are known."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.attacks import Attack, UnderAttack
from sb3_barpo.episodes import Episode, is_monitored, run_wave
from sb3_barpo.policies.rollout import bare_predictor

__all__ = ["Episode", "is_monitored", "run_episodes", "run_wave"]


def run_episodes(
    model: OnPolicyAlgorithm,
    attack: Attack | None,
    venv: VecEnv,
    n_episodes: int,
    seed: int,
    deterministic: bool,
    tell: Callable[[int], object] = lambda n: None,
) -> list[Episode]:
    """
    Episodes of a model, as many at a time as there are environments. Attack and sampled actions are seeded anew for
    each batch of them.

    :param model: Who acts.
    :param attack: The attack, ``None`` for none.
    :param venv: The environments, their statistics frozen.
    :param n_episodes: Number of episodes.
    :param seed: The first episode's seed; the k-th has ``seed + k``.
    :param deterministic: Whether to take the most likely action.
    :param tell: Takes the number of episodes in a batch that is finished.
    :return: The episodes, in the order of their seeds.
    """
    actor: Any = bare_predictor(model)
    predictor = actor if attack is None else UnderAttack(actor, attack, venv)
    episodes: list[Episode] = []
    with nullcontext() if attack is None else attack.frozen():
        for first in range(0, n_episodes, venv.num_envs):
            th.manual_seed(seed + first)
            if attack is not None:
                attack.seed(seed + first)
            n_wave = min(venv.num_envs, n_episodes - first)
            episodes += run_wave(predictor, venv, n_wave, seed + first, deterministic)
            tell(n_wave)
    return episodes
