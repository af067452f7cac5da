"""
The three faces of an attack: on an environment, on a vector of environments, and on the model's side.

All give the same returns. They perturb what the policy acts on: an episode's last observation, on which nobody acts
any more, stays clean (SB3 reads the value of it at a time limit). They never change the observation space, and keep its
bounds.
"""

from functools import partial
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_barpo.adversary import Bounds, observation_bounds
from sb3_barpo.attacks.attack import Attack


def _perturbed(attack: Attack, seen: np.ndarray, vec_normalize: VecNormalize | None) -> np.ndarray:
    """Perturb what the policy sees, within the limits of the space; statistics may move, so they are taken anew."""
    return attack.perturb(seen, _bounds(attack, vec_normalize))


def _bounds(attack: Attack, vec_normalize: VecNormalize | None) -> Bounds | None:
    normalize = None if vec_normalize is None else partial(_normalize, vec_normalize)
    return observation_bounds(attack.observation_space, normalize, attack.model.device)


def bounds_behind(attack: Attack, venv: VecEnv) -> Bounds | None:
    """
    :param attack: The attack.
    :param venv: The victim's environments.
    :return: Limits of what the policy sees, under the statistics of the ``VecNormalize`` around them, if any.
    """
    return _bounds(attack, unwrap_vec_normalize(venv))


def _normalize(vec_normalize: VecNormalize, raw: np.ndarray) -> np.ndarray:
    return np.asarray(vec_normalize.normalize_obs(raw))


def _check_space(attack: Attack, space: gym.Space[Any], what: str) -> None:
    if attack.observation_space != space:
        raise ValueError(
            f"The attack was built for observations {attack.observation_space}, but {what} has {space}. "
            "Build it with the model that acts there."
        )


class AttackObservation(gym.Wrapper[np.ndarray, Any, np.ndarray, Any], RecordConstructorArgs):
    """
    One Gymnasium environment under attack. ``reset(seed=...)`` seeds the attack too; the environment's own generator
    is not touched.

    :param env: The environment, its observations raw.
    :param attack: The attack.
    :param vec_normalize: The statistics that lie between the environment and the policy, if any. ε is then in
        normalised units, as with the other faces. What the attack moves beyond ``clip_obs`` is cut off there, and with
        this face alone, since ``VecNormalize`` comes after it.
    :raises ValueError: if the attack was built for another space.
    """

    def __init__(
        self, env: gym.Env[np.ndarray, Any], attack: Attack, vec_normalize: VecNormalize | None = None
    ) -> None:
        # The model cannot be copied into the spec; the spec refers to it.
        RecordConstructorArgs.__init__(self, attack=attack, vec_normalize=vec_normalize, _disable_deepcopy=True)
        gym.Wrapper.__init__(self, env)
        _check_space(attack, env.observation_space, "the environment")
        self.attack = attack
        self.vec_normalize = vec_normalize

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self.attack.seed(seed)
        observation, info = self.env.reset(seed=seed, options=options)
        return self._perturb(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if not (terminated or truncated):
            observation = self._perturb(observation)
        return observation, reward, terminated, truncated, info

    def _perturb(self, observation: np.ndarray) -> np.ndarray:
        clean = observation[None]
        if self.vec_normalize is None:
            return np.asarray(_perturbed(self.attack, clean, None)[0])
        seen = _normalize(self.vec_normalize, clean)
        perturbed = _perturbed(self.attack, seen, self.vec_normalize)
        raw = np.where(perturbed == seen, clean, np.asarray(self.vec_normalize.unnormalize_obs(perturbed)))
        space = self.attack.observation_space
        low, high = np.minimum(space.low, clean), np.maximum(space.high, clean)
        return np.asarray(np.clip(raw, low, high)[0], observation.dtype)  # rounding may have left the space by a hair


class VecAttackObservation(VecEnvWrapper):
    """
    SB3 environments under attack, all in one batch. Goes outside ``VecNormalize``, whose statistics stay clean.
    ``seed`` seeds the attack too.

    :param venv: The environments, normalised or not.
    :param attack: The attack.
    :raises ValueError: if the attack was built for another space.
    """

    def __init__(self, venv: VecEnv, attack: Attack) -> None:
        super().__init__(venv)
        _check_space(attack, venv.observation_space, "the environment")
        self.attack = attack

    def seed(self, seed: int | None = None) -> list[int | None]:
        self.attack.seed(seed)
        return list(self.venv.seed(seed))

    def reset(self) -> np.ndarray:
        return self._perturb(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        return self._perturb(observations), rewards, dones, infos

    def _perturb(self, observations: Any) -> np.ndarray:
        return self.attack.perturb(np.asarray(observations), bounds_behind(self.attack, self.venv))


class UnderAttack:
    """
    A model whose observations are attacked on their way in: fits wherever SB3 asks for something with ``predict``, as
    ``evaluate_policy`` does. Leaves the environment alone.

    :param model: The model that acts.
    :param attack: The attack, built with the same model or with another of the same observation space (a transferred
        attack).
    :param vec_normalize: The statistics that lie between the environment and the policy, by default those of the
        model's environment. They matter for bounded spaces only.
    :raises ValueError: if the attack was built for another space.
    """

    def __init__(self, model: Any, attack: Attack, vec_normalize: VecNormalize | None = None) -> None:
        _check_space(attack, model.observation_space, "the model")
        self.model = model
        self.attack = attack
        self.vec_normalize = model.get_vec_normalize_env() if vec_normalize is None else vec_normalize

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        :param observation: One clean observation ``obs`` or a batch ``(B, *obs)``.
        :param state: Passed on.
        :param episode_start: Passed on.
        :param deterministic: Passed on.
        :return: What the model does at the perturbed observation.
        """
        single = observation.shape == self.attack.observation_space.shape
        batch = observation[None] if single else observation
        perturbed = _perturbed(self.attack, batch, self.vec_normalize)
        predictor: PolicyPredictor = self.model
        return predictor.predict(perturbed[0] if single else perturbed, state, episode_start, deterministic)
