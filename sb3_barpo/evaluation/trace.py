"""One episode under attack, step by step."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_barpo.adversary import check_observation_space
from sb3_barpo.attacks import Attack, LearnedAttack
from sb3_barpo.attacks.learned import check_clean_env
from sb3_barpo.attacks.victim import undisturbed
from sb3_barpo.checks import require_env, require_model
from sb3_barpo.evaluation.episodes import run_episodes
from sb3_barpo.evaluation.rows import NATURAL
from sb3_barpo.policies.spaces import by_parts
from sb3_barpo.policies.views import uncompiled
from sb3_barpo.vec_envs import Wrapper, attribute


class Trace(NamedTuple):
    """
    An episode of T steps. The last observation, on which no action follows, is not part of it.

    :param attack: Name of the attack, ``"natural"`` for none.
    :param epsilon: Its strength, 0 for none.
    :param seed: Seed of the episode.
    :param observations: Clean, in units of what the policy sees, shape ``(T, *obs)``, or ``(T, features)`` of a
        ``Dict``, whose keys are joined.
    :param perturbations: What the attack added to them, of the same shape.
    :param rewards: Rewards, not normalised, shape ``(T,)``.
    :param features: Names of the features, in the order of a flattened observation; empty if they have none.
    :param actions: Actions that the agent took, shape ``(T, *action)``.
    :param clean_actions: Those that it would have taken on the clean observations, of the same shape.
    :param frames: Images of the environment, if they were asked for, each of shape ``(height, width, 3)``.
    """

    attack: str
    epsilon: float
    seed: int
    observations: np.ndarray
    perturbations: np.ndarray
    rewards: np.ndarray
    features: Sequence[str] = ()
    actions: np.ndarray | None = None
    clean_actions: np.ndarray | None = None
    frames: Sequence[np.ndarray] = ()


def trace_episode(
    model: OnPolicyAlgorithm,
    env: gym.Env[Any, Any] | VecEnv,
    attack: Attack | None,
    seed: int,
    deterministic: bool = True,
    record_every: int = 0,
) -> Trace:
    """
    Record, step by step, the episode that :func:`sb3_barpo.evaluation.evaluate_robustness` runs with the same seed,
    ``n_eval_episodes=1`` and the same environments.

    :param model: The agent, any SB3 on-policy one, with or without a memory.
    :param env: Its environment, as for ``evaluate_robustness``. Of several, the first one is recorded.
    :param attack: The attack, fitted if it is learned; ``None`` for the natural episode.
    :param seed: Seed of the episode.
    :param deterministic: Whether the agent takes its most likely action.
    :param record_every: Record an image every so many steps, 0 for none.
    :return: The episode. Its rewards sum up to the report's return, unless a wrapper around ``Monitor`` changes them.
    :raises ValueError: if spaces differ from the model's, the environment is under attack already, or the attack is
        not fitted, or fitted on another victim.
    :raises TypeError: if the observation space cannot be attacked.
    """
    require_model(model)
    require_env(env)
    model, venv = uncompiled(model), BaseAlgorithm._wrap_env(env)
    check_observation_space(model.observation_space)
    check_clean_env(model, venv)
    if isinstance(attack, LearnedAttack):
        attack.check_victim(model, venv)
    stage = _Stage(venv, record_every)
    actor = _Actor(model, stage)
    with undisturbed(model, venv):
        run_episodes(cast(OnPolicyAlgorithm, actor), attack, stage, 1, seed, deterministic)
    observations = np.stack(stage.observations[:-1])  # the last one begins the next episode
    return Trace(
        NATURAL if attack is None else attack.name,
        0.0 if attack is None else attack.epsilon,
        seed,
        observations,
        np.stack(actor.seen) - observations,
        np.array(stage.rewards),
        feature_names(venv),
        np.stack(actor.actions),
        np.stack(actor.clean_actions),
        stage.frames[: math.ceil(len(stage.rewards) / record_every)] if record_every else (),
    )


class _Actor:
    """A model that stores the observations that it receives from the first environment."""

    def __init__(self, model: OnPolicyAlgorithm, stage: "_Stage") -> None:
        self._model = model
        self._stage = stage
        self.seen: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.clean_actions: list[np.ndarray] = []

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(_first(observation))
        with th.random.fork_rng(devices=[]):  # a sampling agent draws the same for both
            self.clean_actions.append(self._model.predict(self._stage.current, *args, **kwargs)[0][0])
        actions, states = self._model.predict(observation, *args, **kwargs)
        self.actions.append(actions[0])
        return actions, states

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Stage(Wrapper):
    """Environments that store the observations and rewards of the first of them."""

    keeps_observations = True

    def __init__(self, venv: VecEnv, record_every: int) -> None:
        super().__init__(venv)
        self._record_every = record_every
        self.frames: list[np.ndarray] = []
        self.observations: list[np.ndarray] = []
        self.rewards: list[float] = []

    def reset(self) -> Any:
        return self._keep(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.rewards.append(float(rewards[0]))
        return self._keep(observations), rewards, dones, infos

    def _keep(self, observations: Any) -> Any:
        self.current = observations
        if self._record_every and len(self.observations) % self._record_every == 0:
            self.frames.append(_small(np.asarray(render_first(self.venv))))
        self.observations.append(_first(observations))
        return observations


def render_first(venv: VecEnv) -> Any:
    """:return: The first environment's image. ``get_images`` would render them all."""
    return venv.env_method("render", indices=[0])[0]


def _small(frame: np.ndarray) -> np.ndarray:
    """At most about 320 pixels wide, of even height and width, as video formats want them."""
    stride = math.ceil(frame.shape[1] / 320)
    frame = frame[::stride, ::stride]
    return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]


def feature_names(venv: VecEnv) -> list[str]:
    """
    :param venv: Environments.
    :return: Names of the features of their observations, flattened: the joints of Gymnasium's MuJoCo environments, the
        keys of a ``Dict``; empty if nothing is known.
    """
    space = venv.observation_space
    if isinstance(space, spaces.Dict):
        return [
            key if size == 1 else f"{key} {i}"
            for key, part in by_parts(space.spaces).items()
            for size in [int(np.prod(part.shape))]
            for i in range(size)
        ]
    structure = attribute(venv, "observation_structure")
    joints = getattr(attribute(venv, "unwrapped"), "model", None)
    if structure is None or joints is None:
        return []
    names = [part for j in range(joints.njnt) for part in _coordinates(joints.joint(j).name, int(joints.jnt_type[j]))]
    rates = [part for j in range(joints.njnt) for part in _rates(joints.joint(j).name, int(joints.jnt_type[j]))]
    named = [*names[structure.get("skipped_qpos", 0) :], *rates]
    return named if space.shape == (len(named),) else []


def _coordinates(joint: str, kind: int) -> list[str]:
    """Of MuJoCo's free, ball, slide and hinge joints."""
    quaternion = [f"{joint} q{axis}" for axis in "wxyz"]
    return [[f"{joint} {axis}" for axis in "xyz"] + quaternion, quaternion, [joint], [joint]][kind]


def _rates(joint: str, kind: int) -> list[str]:
    spin = [f"{joint} ω{axis}" for axis in "xyz"]
    return [[f"{joint} v{axis}" for axis in "xyz"] + spin, spin, [f"{joint} velocity"], [f"{joint} velocity"]][kind]


def _first(batch: Any) -> np.ndarray:
    """The first observation, floating, so that differences may be negative; the keys of a ``Dict`` joined."""
    parts = [np.array(part[0], dtype=np.result_type(part.dtype, np.float32)) for part in by_parts(batch).values()]
    return parts[0] if len(parts) == 1 else np.concatenate([part.ravel() for part in parts])
