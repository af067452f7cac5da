"""The three faces of an attack give the same returns, and leave the environment, its space and its statistics alone."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.spaces import Box
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper, VecNormalize
from victims import Replay, linear_victim, victim

from sb3_barpo.adversary import LinfBall
from sb3_barpo.attacks import MAD, AttackObservation, Critic, Random, UnderAttack, VecAttackObservation

PENDULUM, CARTPOLE = "Pendulum-v1", "CartPole-v1"
THREE = [Random, Critic, MAD]
three = pytest.mark.parametrize("kind", THREE)
Wrap = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


def make(env_id: str, wrap: Wrap = lambda env: env) -> gym.Env[Any, Any]:
    """Pendulum ends at its time limit only, CartPole mostly by falling."""
    return Monitor(wrap(gym.make(env_id, max_episode_steps=25 if env_id == PENDULUM else 70)))


def venv(env_id: str, n_envs: int = 1, wrap: Wrap = lambda env: env) -> VecEnv:
    return DummyVecEnv([partial(make, env_id, wrap)] * n_envs)


@cache
def statistics(env_id: str) -> VecNormalize:
    """Statistics of 100 random steps."""
    normalized = VecNormalize(venv(env_id))
    normalized.seed(0)
    normalized.action_space.seed(0)
    normalized.reset()
    for _ in range(100):
        normalized.step([normalized.action_space.sample()])
    normalized.training = False
    return normalized


def normalized(env_id: str, n_envs: int = 1, wrap: Wrap = lambda env: env) -> VecNormalize:
    """An environment with those statistics, frozen."""
    env = VecNormalize(venv(env_id, n_envs, wrap), training=False, norm_reward=False)
    env.obs_rms = statistics(env_id).obs_rms
    return env


def random_steps(env: VecEnv, n: int = 60) -> list[Any]:
    """What it gives under seed 0, first the reset's observations, with always the same actions."""
    env.seed(0)
    env.action_space.seed(0)
    given: list[Any] = [env.reset()]
    for _ in range(n):
        given.append(env.step(np.array([env.action_space.sample() for _ in range(env.num_envs)])))
    return given


def observations(given: list[Any]) -> np.ndarray:
    return np.array([given[0], *(step[0] for step in given[1:])])


# --- the same returns


def returns(model: Any, env: VecEnv) -> tuple[list[float], list[int]]:
    env.seed(5)
    return evaluate_policy(model, env, n_eval_episodes=3, return_episode_rewards=True)


def under_attack(model: Any, attack: Any, **kwargs: Any) -> UnderAttack:
    attack.seed(5)
    return UnderAttack(model, attack, **kwargs)


@three
@pytest.mark.parametrize(("env_id", "epsilon"), [(PENDULUM, 0.3), (CARTPOLE, 1.0)])
def test_same_returns_bit_for_bit(kind: Any, env_id: str, epsilon: float) -> None:
    model = victim(env_id)
    attack = kind(model, epsilon)
    inside = returns(model, venv(env_id, wrap=lambda env: AttackObservation(env, attack)))
    outside = returns(model, VecAttackObservation(venv(env_id), attack))
    assert inside == outside == returns(under_attack(model, attack), venv(env_id))
    assert inside != returns(model, venv(env_id))


@three
def test_same_returns_under_vec_normalize(kind: Any) -> None:
    model = victim(PENDULUM)
    attack = kind(model, 0.3)
    frozen = statistics(PENDULUM)
    inside, _ = returns(model, normalized(PENDULUM, wrap=lambda env: AttackObservation(env, attack, frozen)))
    outside, _ = returns(model, VecAttackObservation(normalized(PENDULUM), attack))
    at_model, _ = returns(under_attack(model, attack, vec_normalize=frozen), normalized(PENDULUM))
    clean, _ = returns(model, normalized(PENDULUM))
    assert outside == at_model
    np.testing.assert_allclose(inside, outside, rtol=1e-4)
    assert not np.allclose(clean, outside, rtol=1e-2)


@three
def test_statistics_without_observations_are_none(kind: Any) -> None:
    """``VecNormalize(norm_obs=False)`` leaves observations raw, and so do the faces."""
    attack = kind(victim(PENDULUM), 0.3)
    rewards_only = VecNormalize(venv(PENDULUM), norm_obs=False)
    raw, same = (AttackObservation(make(PENDULUM), attack, statistics) for statistics in (None, rewards_only))
    np.testing.assert_array_equal(raw.reset(seed=0)[0], same.reset(seed=0)[0])
    attack.seed(0)
    outside = random_steps(VecAttackObservation(rewards_only, attack), 5)
    np.testing.assert_array_equal(observations(outside), observations(random_steps(attacked(PENDULUM, kind, 0.3), 5)))


@three
def test_the_policy_sees_the_same_through_vec_normalize(kind: Any) -> None:
    """Also a feature beyond ``clip_obs``: the attack moves what the policy sees of it, not the raw excess."""
    shown = [np.array([0.3, -2.1, 3.0]), np.array([99.0, -2.0, -7.0]), np.array([1.0, -50.0, 99.0]), np.zeros(3)]
    frozen = VecNormalize(DummyVecEnv([lambda: Replay(shown)]), training=False, clip_obs=10.0)
    frozen.obs_rms.mean, frozen.obs_rms.var = np.array([1.0, -2.0, 0.5]), np.array([4.0, 0.01, 25.0])
    attack = kind(linear_victim([9.0, -8.0, 7.0]), 0.3)
    env = AttackObservation(Replay(shown), attack, frozen)
    seen = [env.reset(seed=2)[0]] + [env.step(np.zeros(1))[0] for _ in range(2)]
    attack.seed(2)
    for clean, raw in zip(shown[:3], seen, strict=True):
        expected = attack.perturb(frozen.normalize_obs(clean)[None])[0]
        np.testing.assert_allclose(frozen.normalize_obs(raw), np.clip(expected, -10, 10), rtol=1e-5, atol=1e-5)


def test_no_rounding_on_the_way_back_through_vec_normalize() -> None:
    """A feature that stays clean is shown exactly, and no other leaves its space by a hair."""
    space = Box(-1.0, 1.0, (9,), np.float64)
    shown = np.linspace(-0.9, 0.9, 45).reshape(5, 9)
    frozen = VecNormalize(DummyVecEnv([lambda: Replay(shown, space)]), training=False)
    frozen.obs_rms.mean, frozen.obs_rms.var = np.linspace(-0.7, 0.8, 9), np.linspace(0.1, 0.9, 9)
    scale = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0])
    attack = Critic(linear_victim([1.0, -1.0] * 4 + [1.0], space), 50.0, ball=LinfBall(scale), seed=0)
    env = AttackObservation(Replay(shown, space), attack, frozen)
    seen = np.array([env.reset()[0]] + [env.step(np.zeros(1))[0] for _ in range(3)])
    np.testing.assert_array_equal(seen == shown[:4], [scale == 0] * 4)
    assert np.all((seen >= -1) & (seen <= 1))
    np.testing.assert_allclose(np.abs(seen[:, :5]), 1, atol=1e-6)


# --- the environment is left alone


def attacked(env_id: str, kind: Any = Random, epsilon: float = 0.3, n_envs: int = 1) -> VecAttackObservation:
    return VecAttackObservation(venv(env_id, n_envs), kind(victim(env_id), epsilon))


@pytest.mark.parametrize("kind", [Random, MAD])
@pytest.mark.parametrize("epsilon", [0, 0.5])
@pytest.mark.parametrize("env_id", [PENDULUM, CARTPOLE])
def test_same_states_as_the_bare_environment(kind: Any, epsilon: float, env_id: str) -> None:
    """Resets draw from the environment's generator; over several of them it must not have moved."""
    attack = kind(victim(env_id), epsilon)

    def states(env: gym.Env[Any, Any]) -> list[np.ndarray]:
        env.action_space.seed(0)
        found = []
        for seed in (4, None, None, 4):
            env.reset(seed=seed)
            found.append(np.array(env.unwrapped.state))
            env.step(env.action_space.sample())
            found.append(np.array(env.unwrapped.state))
        return found

    np.testing.assert_array_equal(
        states(AttackObservation(gym.make(env_id), attack)), states(gym.make(env_id)), strict=True
    )


@pytest.mark.parametrize("env_id", [PENDULUM, CARTPOLE])
def test_same_rewards_ends_and_last_observations_as_the_bare_environments(env_id: str) -> None:
    """Neither wrapper touches the observation at the end of an episode, whose value SB3 reads at a time limit."""
    attack = Random(victim(env_id), 0.3)
    inside = random_steps(venv(env_id, 2, lambda env: AttackObservation(env, attack)))
    outside, bare = random_steps(attacked(env_id, n_envs=2)), random_steps(venv(env_id, 2))
    ends = 0
    for clean, *others in zip(bare[1:], inside[1:], outside[1:], strict=True):
        for other in others:
            assert not np.any(np.all(other[0] == clean[0], axis=1))
            np.testing.assert_array_equal(other[1], clean[1])
            np.testing.assert_array_equal(other[2], clean[2])
            for i in np.flatnonzero(clean[2]):
                np.testing.assert_array_equal(other[3][i]["terminal_observation"], clean[3][i]["terminal_observation"])
                ends += 1
    assert ends >= 8


def test_a_single_environment_ends_with_a_clean_observation() -> None:
    attack = Random(victim(PENDULUM), 0.3)
    env, bare = AttackObservation(make(PENDULUM), attack), make(PENDULUM)
    env.reset(seed=0)
    bare.reset(seed=0)
    done = False
    while not done:
        (seen, *_, done, _), (clean, *_) = env.step(np.zeros(1)), bare.step(np.zeros(1))
        assert np.array_equal(seen, clean) == done


class Keeper(VecEnvWrapper):
    """Keeps the very arrays that it hands out, and copies of them."""

    def reset(self) -> np.ndarray:
        self.given: list[tuple[np.ndarray, np.ndarray]] = []
        return self.keep(self.venv.reset())

    def step_wait(self) -> Any:
        obs, *rest = self.venv.step_wait()
        return self.keep(obs), *rest

    def keep(self, obs: np.ndarray) -> np.ndarray:
        self.given.append((obs, obs.copy()))
        return obs


@three
def test_arrays_of_the_wrapped_environment_are_not_written_to(kind: Any) -> None:
    keeper = Keeper(venv(CARTPOLE))
    random_steps(VecAttackObservation(keeper, kind(victim(CARTPOLE), 0.3)), 20)
    assert len(keeper.given) == 21
    assert all(np.array_equal(given, copy) for given, copy in keeper.given)


def test_arrays_of_a_single_environment_are_not_written_to() -> None:
    shown = np.ones((3, 3))
    env = AttackObservation(Replay(shown), Random(linear_victim([1.0, 1.0, 1.0]), 0.3))
    assert not np.any(env.reset()[0] == 1)
    assert not np.any(env.step(np.zeros(1))[0] == 1)
    assert np.all(shown == 1)


def test_vec_normalize_inside_learns_the_clean_statistics() -> None:
    clean, under = VecNormalize(venv(PENDULUM)), VecNormalize(venv(PENDULUM))
    random_steps(clean)
    random_steps(VecAttackObservation(under, Random(victim(PENDULUM), 0.5)))
    assert clean.obs_rms.count > 60
    np.testing.assert_array_equal(under.obs_rms.mean, clean.obs_rms.mean)
    np.testing.assert_array_equal(under.obs_rms.var, clean.obs_rms.var)


# --- seeds


def noise(env: gym.Env[Any, Any], bare: gym.Env[Any, Any], seeds: list[int | None]) -> list[np.ndarray]:
    return [env.reset(seed=seed)[0] - bare.reset(seed=seed)[0] for seed in seeds]


def test_reset_seeds_the_attack_and_goes_on_without_a_seed() -> None:
    env = AttackObservation(gym.make(CARTPOLE), Random(victim(CARTPOLE), 0.3))
    dice = th.Generator().manual_seed(6)
    expected = [0.3 * (2 * th.rand(1, 4, generator=dice)[0].numpy() - 1) for _ in range(3)]
    first, second = (noise(env, gym.make(CARTPOLE), [6, None, None]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, expected, atol=1e-6)


@three
def test_seed_of_a_vector_seeds_the_attack(kind: Any) -> None:
    env = attacked(PENDULUM, kind, n_envs=3)
    first, second = observations(random_steps(env, 5)), observations(random_steps(env, 5))
    np.testing.assert_array_equal(first, second)
    env.seed(0)
    env.attack.seed(1)
    assert not np.array_equal(env.reset(), first[0])


def test_subprocesses_give_the_same_as_a_loop() -> None:
    attack = MAD(victim(PENDULUM), 0.3)
    processes = SubprocVecEnv([partial(make, PENDULUM)] * 2)
    try:
        apart = observations(random_steps(VecAttackObservation(processes, attack), 30))
    finally:
        processes.close()
    together = observations(random_steps(VecAttackObservation(venv(PENDULUM, 2), attack), 30))
    np.testing.assert_array_equal(apart, together)
