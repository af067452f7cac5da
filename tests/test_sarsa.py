"""What Robust Sarsa learns from, and how: true successors, the reward's scale, the loss and its schedules."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make_envs
from learned import EPSILON, build
from stable_baselines3.common.vec_env import DummyVecEnv
from torch.nn.functional import smooth_l1_loss
from victims import linear_victim, victim

from sb3_barpo.adversary import QNetwork
from sb3_barpo.attacks import RobustSarsa
from sb3_barpo.attacks.sarsa import Transitions, _collect

# --- the data


class Countdown(gym.Env[np.ndarray, np.ndarray]):
    """Shows the number of the episode and the time. Episodes take three steps; every other one ends by a time limit."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, reward: float = 1.0) -> None:
        self.episode, self.reward = -1, reward

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.time = self.episode + 1, 0
        return np.array([self.episode, 0.0]), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.time += 1
        done, by_limit = self.time == 3, self.episode % 2 == 1
        look = np.array([self.episode, float(self.time)])
        return look, self.reward * self.time, done and not by_limit, done and by_limit, {}


def collect(total_timesteps: int, n_envs: int, reward: float = 1.0) -> Transitions:
    """Of a victim that does 10 · episode + time, without noise to speak of."""
    model = linear_victim([10.0, 1.0])
    with th.no_grad():
        model.policy.log_std.fill_(-30)
    venv = DummyVecEnv([lambda: Countdown(reward)] * n_envs)
    return _collect(model, QNetwork(model.observation_space, model.action_space), venv, total_timesteps, 0.5)


def known(episode: int, time: int) -> list[float]:
    return [episode, time, 10 * episode + time]


@pytest.mark.parametrize("n_envs", [1, 2])
def test_each_action_keeps_its_true_successor(n_envs: int) -> None:
    """Actions as the policy emits them, beyond the space; the successor of a time limit is the episode's last state."""
    data = collect(12 * n_envs, n_envs)
    steps = [(episode, time) for episode in range(4) for time in range(3)]
    of_each_env = np.repeat([known(*step) for step in steps], n_envs, axis=0)
    np.testing.assert_allclose(data.inputs, of_each_env, atol=1e-4)
    ended = np.repeat([episode % 2 == 0 and time == 2 for episode, time in steps], n_envs)
    np.testing.assert_array_equal(data.continues, ~ended)
    then = np.repeat([known(episode, time + 1) for episode, time in steps], n_envs, axis=0)
    np.testing.assert_allclose(data.successors[~ended], then[~ended], atol=1e-4)


def test_rewards_are_divided_by_the_deviation_of_the_discounted_return() -> None:
    """Rewards 1, 2, 3 at discount 1/2 have the running returns 1, 2.5, 4.25."""
    scaled = np.tile([1, 2, 3], 4) / np.std([1, 2.5, 4.25])
    np.testing.assert_allclose(collect(12, 1).rewards, scaled, rtol=1e-6)
    np.testing.assert_allclose(collect(12, 1, reward=1e4).rewards, scaled, rtol=1e-6)


def test_rewards_that_are_always_0_stay_0() -> None:
    assert not collect(12, 1, reward=0.0).rewards.any()


def test_single_rewards_far_off_the_scale_are_cut_off() -> None:
    class Jackpot(Countdown):
        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            look, _, terminated, truncated, info = super().step(action)
            return look, float(self.episode == self.time == 2), terminated, truncated, info

    model = linear_victim([10.0, 1.0])
    q = QNetwork(model.observation_space, model.action_space)
    assert _collect(model, q, DummyVecEnv([Jackpot]), 900, 0.5).rewards.max() == 10


def test_steps_are_rounded_up_to_whole_rounds_of_the_environments() -> None:
    assert [len(column) for column in collect(5, 2)] == [6, 6, 6, 6]


# --- the training


class Diary(RobustSarsa):
    """Writes down the batches and the radii of its training."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: list[th.Tensor] = []
        self.radii: list[float] = []

    def _loss(self, q: QNetwork, batch: Transitions, radius: float) -> th.Tensor:
        self.rows.append(batch.inputs)
        self.radii.append(radius)
        return super()._loss(q, batch, radius)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates of all steps of Adam from now on."""
    used: list[float] = []
    step = th.optim.Adam.step

    def listen(self: th.optim.Adam, *args: Any) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(th.optim.Adam, "step", listen)
    return used


def test_schedules_of_the_training(rates: list[float]) -> None:
    """90 samples make 3 batches an epoch: the last one is smaller, and none is left out. Ten epochs are 30 batches."""
    attack = Diary(victim(), EPSILON, sarsa_epsilon=0.2, learning_rate=1e-3, n_epochs=10, batch_size=40, seed=0)
    attack.fit(make_envs(), 90)
    done = np.arange(30) / 30
    np.testing.assert_allclose(attack.radii, 0.2 * np.interp(done, [1 / 3, 2 / 3], [0, 1]), atol=1e-12)
    np.testing.assert_allclose(rates, 1e-3 * np.interp(done, [2 / 3, 1], [1, 0]), atol=1e-12)
    assert [len(rows) for rows in attack.rows] == [40, 40, 10] * 10
    epochs = [th.cat(attack.rows[i : i + 3]) for i in range(0, 30, 3)]
    assert all(th.equal(epoch.sort(0).values, epochs[0].sort(0).values) for epoch in epochs)
    assert not any(th.equal(epoch, epochs[0]) for epoch in epochs[1:])


def batch_of(q: QNetwork, rows: int = 16) -> Transitions:
    inputs, successors = th.randn(2, rows, q.net[0].in_features, generator=th.Generator().manual_seed(0))
    return Transitions(inputs, th.linspace(-2, 2, rows), (th.arange(rows) % 3 > 0).float(), successors)


def test_the_loss_by_hand() -> None:
    attack = build(RobustSarsa, regularization=0.5, gamma=0.9)
    batch = batch_of(attack.q)
    with th.no_grad():
        now, then = attack.q.net(batch.inputs)[:, 0], attack.q.net(batch.successors)[:, 0]
        error = now - (batch.rewards + 0.9 * then * (th.arange(16) % 3 > 0))
        huber = th.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5).mean()
        low, high = attack.q.bounds(batch.inputs, 0.3)
        furthest = th.stack([high - now, now - low]).amax(0)
        th.testing.assert_close(attack._loss(attack.q, batch, 0.0), huber)
        th.testing.assert_close(attack._loss(attack.q, batch, 0.3), huber + 0.5 * (furthest**2).mean())


def test_the_target_gets_no_gradient() -> None:
    attack = build(RobustSarsa, gamma=0.9)
    batch = batch_of(attack.q)
    values = attack.q.net(batch.inputs)[:, 0]
    target = (batch.rewards + 0.9 * batch.continues * attack.q.net(batch.successors)[:, 0]).detach()
    expected = th.autograd.grad(smooth_l1_loss(values, target), [*attack.q.parameters()])
    found = th.autograd.grad(attack._loss(attack.q, batch, 0.0), [*attack.q.parameters()])
    th.testing.assert_close(found, expected)


def test_the_regulariser_holds_the_action_value_still() -> None:
    """The bounds of its change, at the training's own scale, are several times narrower with it."""

    def width(**settings: Any) -> float:
        attack = build(RobustSarsa, sarsa_epsilon=0.3, learning_rate=3e-3, **{"n_epochs": 40, **settings})
        attack.fit(make_envs(n_envs=4), 200)
        low, high = attack.q.bounds(batch_of(attack.q).inputs, 0.3)
        return (high - low).mean().item()

    assert width(regularization=3.0) < width(regularization=0.0) / 3
