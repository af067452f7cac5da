"""Episodes whose seeds are known."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, is_vecenv_wrapped

from sb3_barpo.attacks import Attack, UnderAttack


class Episode(NamedTuple):
    """What is kept of an episode: the sum of its rewards and its number of steps."""

    reward: float
    length: int


def is_monitored(venv: VecEnv) -> bool:
    """:return: Whether the environments report their episodes' true returns, by SB3's ``Monitor``."""
    return is_vecenv_wrapped(venv, VecMonitor) or venv.env_is_wrapped(Monitor)[0]


def run_wave(
    predictor: PolicyPredictor, venv: VecEnv, n_episodes: int, seed: int, deterministic: bool
) -> list[Episode]:
    """
    One episode in each of the first environments, as SB3's ``evaluate_policy`` counts them. (That function spreads
    episodes over the last environments and goes on without new seeds, so an episode's seed would not be known.)

    :param predictor: Who acts.
    :param venv: The environments; those beyond ``n_episodes`` step along unheard.
    :param n_episodes: Number of episodes, at most ``venv.num_envs``.
    :param seed: The first episode's seed; the k-th has ``seed + k``.
    :param deterministic: Whether to take the most likely action.
    :return: The episodes, in the order of their seeds.
    """
    monitored = is_monitored(venv)
    if venv.has_attr("was_real_done"):
        # SB3's EpisodicLifeEnv resets only when it believes that the game is over; otherwise it would ignore the seed.
        venv.env_method("set_wrapper_attr", "was_real_done", True)
    venv.seed(seed)
    observations = venv.reset()
    rewards_so_far = np.zeros(venv.num_envs)
    steps = 0
    states: tuple[np.ndarray, ...] | None = None
    starts = np.ones(venv.num_envs, dtype=bool)
    finished: dict[int, Episode] = {}
    while len(finished) < n_episodes:
        actions, states = predictor.predict(
            observations,  # type: ignore[arg-type]
            state=states,
            episode_start=starts,
            deterministic=deterministic,
        )
        observations, rewards, starts, infos = venv.step(actions)
        rewards_so_far += rewards
        steps += 1
        for i in np.flatnonzero(starts[:n_episodes]).tolist():
            if i in finished:
                continue
            if not monitored:
                finished[i] = Episode(float(rewards_so_far[i]), steps)
            elif "episode" in infos[i]:  # otherwise a life was lost and the episode goes on, as in Atari
                finished[i] = Episode(float(infos[i]["episode"]["r"]), int(infos[i]["episode"]["l"]))
    return [finished[i] for i in range(n_episodes)]


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
    predictor = model if attack is None else UnderAttack(model, attack, venv)
    episodes: list[Episode] = []
    for first in range(0, n_episodes, venv.num_envs):
        th.manual_seed(seed + first)
        if attack is not None:
            attack.seed(seed + first)
        n_wave = min(venv.num_envs, n_episodes - first)
        episodes += run_wave(predictor, venv, n_wave, seed + first, deterministic)
        tell(n_wave)
    return episodes
