"""One episode in each of several environments, from a known seed."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from sb3_barpo.vec_envs import is_wrapped, seed_if_possible, set_if_there

#: Number of steps after which a wave that still runs is told of.
LONG = 50_000


class Episode(NamedTuple):
    """What is kept of an episode: the sum of its rewards and its number of steps."""

    reward: float
    length: int


def is_monitored(venv: VecEnv) -> bool:
    """:return: Whether the environments report their episodes' true returns, by SB3's ``Monitor``."""
    return is_wrapped(venv, Monitor, VecMonitor)


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
    # SB3's EpisodicLifeEnv resets only when it believes that the game is over; otherwise it would ignore the seed.
    set_if_there(venv, "was_real_done", True)
    if not seed_if_possible(venv, seed):
        warnings.warn(
            f"{type(venv.unwrapped).__name__} cannot be seeded, so its episodes differ from one evaluation, and from "
            "one attack, to the next. Implement seed(), or evaluate on many episodes.",
            UserWarning,
            stacklevel=2,
        )
    observations = _reset(venv)
    rewards_so_far = np.zeros(venv.num_envs)
    steps = 0
    states: tuple[np.ndarray, ...] | None = None
    starts = np.ones(venv.num_envs, dtype=bool)
    finished: dict[int, Episode] = {}
    while len(finished) < n_episodes:
        actions, states = predictor.predict(
            observations,
            state=states,
            episode_start=starts,
            deterministic=deterministic,
        )
        observations, rewards, starts, infos = venv.step(actions)
        rewards_so_far += rewards
        steps += 1
        if steps == LONG:
            warnings.warn(
                f"After {LONG} steps {n_episodes - len(finished)} of {n_episodes} episodes have not ended. If they "
                "never do, limit them: gymnasium.wrappers.TimeLimit(env, max_episode_steps=1000).",
                UserWarning,
                stacklevel=2,
            )
        for i in np.flatnonzero(starts[:n_episodes]).tolist():
            if i in finished:
                continue
            if not monitored:
                finished[i] = Episode(float(rewards_so_far[i]), steps)
            elif "episode" in infos[i]:  # otherwise a life was lost and the episode goes on, as in Atari
                finished[i] = Episode(float(infos[i]["episode"]["r"]), int(infos[i]["episode"]["l"]))
    return [finished[i] for i in range(n_episodes)]


def _reset(venv: VecEnv) -> Any:
    try:
        return venv.reset()
    except Exception as error:  # the environment's own
        raise RuntimeError(
            f"The environments cannot be reset: {error} Episodes of known seeds begin with a reset, also where the "
            "episode before has not ended. If the environment forbids that, allow it while it is evaluated."
        ) from error
