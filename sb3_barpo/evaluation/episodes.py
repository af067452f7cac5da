"""Episodes whose seeds are known, and an environment that learns nothing from them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize, is_vecenv_wrapped


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


@contextmanager
def undisturbed(model: OnPolicyAlgorithm, venv: VecEnv) -> Iterator[None]:
    """
    Within, the statistics of every ``VecNormalize`` are frozen and rewards are not normalised. Afterwards their
    switches, the mode of the policy and torch's generators are as before, even after an error.

    :param model: The model that is evaluated.
    :param venv: Its environments.
    """
    layers = list(_normalizations(venv))
    switches = [(layer.training, layer.norm_reward) for layer in layers]
    was_training = model.policy.training
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        for layer in layers:
            layer.training = layer.norm_reward = False
        with th.random.fork_rng(devices=devices):
            yield
    finally:
        for layer, (training, norm_reward) in zip(layers, switches, strict=True):
            layer.training, layer.norm_reward = training, norm_reward
        model.policy.set_training_mode(was_training)


def _normalizations(venv: VecEnv) -> Iterator[VecNormalize]:
    layer = venv
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize):
            yield layer
        layer = layer.venv
