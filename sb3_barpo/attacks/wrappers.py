"""
The three wrappers of an attack: on an environment, on a vector of environments, and on the model's side.

All give the same returns. They perturb what the policy acts on: an episode's last observation, on which nobody acts
any more, stays clean (SB3 reads the value of it at a time limit). They never change the observation space, and keep its
bounds. A recurrent victim's memory goes on by what the victim was shown, and is empty where an episode starts.
"""

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first, maybe_transpose
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_barpo.adversary import HeldLimits
from sb3_barpo.attacks.attack import Attack
from sb3_barpo.attacks.memory import Memory
from sb3_barpo.checks import require_attack, require_env, require_model
from sb3_barpo.policies.spaces import by_key, by_parts, in_type_of
from sb3_barpo.vec_envs import Wrapper


def _perturbed(
    attack: Attack,
    batch: Any,
    venv: VecEnv | None,
    limits: HeldLimits,
    memory: Memory | None,
    starts: np.ndarray | None,
) -> Any:
    """
    Perturb what the policy sees, within the limits of the space; statistics may move, so they are taken anew. Images
    may come with their channels last, as environments give them and SB3 turns them, and go back as they came. The
    victim's memory advances by what it is shown.
    """
    if starts is not None:
        attack.begin(starts)
    seen = by_key(maybe_transpose, batch, attack.observation_space)
    attack.check_batch(seen)
    perturbed = attack.perturb(seen, limits.behind(attack.observation_space, venv, seen), memory)
    if memory is not None:
        memory.advance(perturbed)
    return by_key(
        lambda ours, theirs: ours if ours.shape == theirs.shape else np.moveaxis(ours, 1, -1), perturbed, batch
    )


def _check_space(attack: Attack, owner: Any, what: str) -> None:
    require_attack(attack)
    space: gym.Space[Any] = owner.observation_space
    if attack.observation_space not in (space, _turned(space)):
        raise ValueError(
            f"The attack was built for observations {attack.observation_space}, but {what} has {space}. "
            "Build it with the model that acts there."
        )


def _turned(space: gym.Space[Any]) -> gym.Space[Any]:
    """The space with the channels of its images first, as SB3 gives it to policies."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict({key: _turned(part) for key, part in space.items()})
    if is_image_space(space) and not is_image_space_channels_first(space):  # type: ignore[arg-type]  # an image is a Box
        return VecTransposeImage.transpose_space(space)  # type: ignore[arg-type]
    return space


class AttackObservation(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """
    One Gymnasium environment under attack. ``reset(seed=...)`` seeds the attack too; the environment's own generator
    is not touched.

    :param env: The environment, its observations raw.
    :param attack: The attack.
    :param vec_normalize: The statistics that lie between the environment and the policy, if any. ε is then in
        normalised units, as with the other wrappers. What the attack moves beyond ``clip_obs`` is cut off there, and
        with this wrapper alone, since ``VecNormalize`` comes after it.
    :raises ValueError: if the attack was built for another space.
    """

    def __init__(self, env: gym.Env[Any, Any], attack: Attack, vec_normalize: VecNormalize | None = None) -> None:
        # The model cannot be copied into the spec; the spec refers to it.
        RecordConstructorArgs.__init__(self, attack=attack, vec_normalize=vec_normalize, _disable_deepcopy=True)
        require_env(env)
        gym.Wrapper.__init__(self, env)
        _check_space(attack, env, "the environment")
        self.attack = attack
        self.vec_normalize = vec_normalize
        self._limits = HeldLimits(attack.model)
        self._memory: Memory | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.attack.seed(seed)
        observation, info = self.env.reset(seed=seed, options=options)
        self._memory = Memory.of(self.attack.model, n_envs=1)
        return self._perturb(observation, start=True), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if not (terminated or truncated):
            observation = self._perturb(observation, start=False)
        return observation, reward, terminated, truncated, info

    def _perturb(self, observation: Any, start: bool) -> Any:
        starts = np.array([start])
        clean = by_key(lambda part: np.asarray(part)[None], observation)
        if self.vec_normalize is None:
            return by_key(
                lambda part: part[0], _perturbed(self.attack, clean, None, self._limits, self._memory, starts)
            )
        seen: Any = self.vec_normalize.normalize_obs(clean)
        perturbed = _perturbed(self.attack, seen, self.vec_normalize, self._limits, self._memory, starts)
        unnormalized: Any = self.vec_normalize.unnormalize_obs(perturbed)
        moved = by_key(lambda new, old, raw, was: np.where(new == old, was, raw), perturbed, seen, unnormalized, clean)
        free = {key: self._limits.broken(key) for key in by_parts(clean)}
        free = free if isinstance(clean, Mapping) else free[""]
        return by_key(_within, moved, clean, self.env.observation_space, free)


def _within(raw: np.ndarray, clean: np.ndarray, space: gym.Space[Any], free: Any) -> Any:
    """The only observation of a batch, of its space; rounding may have left it by a hair, but not where it is free."""
    if isinstance(space, gym.spaces.Box):
        within = np.clip(raw, np.minimum(space.low, clean), np.maximum(space.high, clean))
        raw = np.where(free, raw, within)
    return in_type_of(clean, raw)[0]


class VecAttackObservation(Wrapper):
    """
    SB3 environments under attack, all in one batch. Goes outside ``VecNormalize``, whose statistics stay clean.
    ``seed`` seeds the attack too.

    :param venv: The environments, normalised or not.
    :param attack: The attack.
    :raises ValueError: if the attack was built for another space.
    """

    def __init__(self, venv: VecEnv, attack: Attack) -> None:
        require_env(venv)
        super().__init__(venv)
        _check_space(attack, venv, "the environment")
        self.attack = attack
        self._limits = HeldLimits(attack.model)
        self._memory: Memory | None = None

    def seed(self, seed: int | None = None) -> list[int | None]:
        self.attack.seed(seed)
        return list(self.venv.seed(seed))

    def reset(self) -> Any:
        observations = self.venv.reset()
        self._memory = Memory.of(self.attack.model, self.num_envs)
        return self._perturb(observations, np.ones(self.num_envs, dtype=bool))

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        if self._memory is not None:
            self._memory.forget(dones)
        return self._perturb(observations, dones), rewards, dones, infos

    def _perturb(self, observations: Any, starts: np.ndarray) -> Any:
        return _perturbed(self.attack, observations, self.venv, self._limits, self._memory, starts)


class UnderAttack:
    """
    A model whose observations are attacked on their way in: fits wherever SB3 asks for something with ``predict``, as
    ``evaluate_policy`` does. Leaves the environment alone.

    :param model: The model that acts.
    :param attack: The attack, built with the same model or with another of the same observation space (a transferred
        attack).
    :param vec_normalize: The environments as the policy sees them, or their ``VecNormalize`` alone; by default the
        model's own. They tell the limits of bounded spaces under normalisation, and matter for nothing else.
    :raises ValueError: if the attack was built for another space.
    """

    def __init__(self, model: Any, attack: Attack, vec_normalize: VecEnv | None = None) -> None:
        require_model(model)
        _check_space(attack, model, "the model")
        self.model = model
        self.attack = attack
        self.venv: VecEnv | None = getattr(model, "env", None) if vec_normalize is None else vec_normalize
        self._limits = HeldLimits(attack.model)

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """
        :param observation: One clean observation ``obs`` or a batch ``(B, *obs)``.
        :param state: What the last call gave back, ``None`` at first.
        :param episode_start: Where an episode starts, shape ``(B,)``; without it, episodes go on.
        :param deterministic: Passed on.
        :return: What the model does at the perturbed observation, and what is to be remembered: the model's own state
            and the one in which the attack believes its victim to be.
        """
        parts, spaces = by_parts(observation), by_parts(self.attack.observation_space)
        single = all(np.ndim(part) == len(spaces[key].shape) for key, part in parts.items())
        batch = by_key(lambda part: np.asarray(part)[None], observation) if single else observation
        memory = Memory.of(self.attack.model, len(next(iter(by_parts(batch).values()))))
        own = state
        if memory is not None:
            own = memory.take(state)
            if episode_start is not None:
                memory.forget(episode_start)
        perturbed = _perturbed(self.attack, batch, self.venv, self._limits, memory, episode_start)
        seen = by_key(lambda part: part[0], perturbed) if single else perturbed
        predictor: PolicyPredictor = self.model
        actions, own = predictor.predict(seen, own, episode_start, deterministic)
        return actions, own if memory is None else memory.give(own)
