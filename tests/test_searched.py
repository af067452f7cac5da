"""Searches without noise, and pushes of the action: known optima, where slopes vanish too."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from helpers import Still, make_envs
from linear_system import controller
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from victims import linear_victim, victim

from sb3_barpo.adversary import KL, Adversary, AutoPGD, L2Ball, Limit, LinfBall, TowardsWorst, limits_of
from sb3_barpo.attacks import MAD, Critic, MaxKL, Push, Random, RobustSarsa, WorstQ
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.evaluation.members import Victim
from sb3_barpo.evaluation.search import strongest_push

CLEAN = th.randn(32, 3, generator=th.Generator().manual_seed(0))


def generator() -> th.Generator:
    return th.Generator().manual_seed(0)


# --- the solver


@pytest.mark.parametrize("ball", [LinfBall(), LinfBall([1.0, 2.0, 0.0]), L2Ball([1.0, 2.0, 0.5])], ids=repr)
def test_a_linear_function_is_raised_to_its_maximum(ball: Any) -> None:
    weights = th.tensor([1.0, -2.0, 0.5])
    found = AutoPGD().solve(lambda seen: seen @ weights, CLEAN, ball, 0.1, generator())
    best = 0.1 * ball.steepest(weights.expand(32, 3))
    th.testing.assert_close(found @ weights, best @ weights, rtol=1e-3, atol=1e-5)
    assert ball.norm(found).max() <= 0.1 + 1e-6


def test_the_best_that_was_seen_is_kept() -> None:
    """A peak within the ball, at which steps of ε overshoot: they are halved until they hit it."""
    peak = th.tensor([0.03, -0.02, 0.05])
    found = AutoPGD(n_steps=40).solve(
        lambda seen: -(seen - CLEAN - peak).abs().sum(1), CLEAN, LinfBall(), 0.1, generator()
    )
    assert (found - peak).abs().max() < 5e-3


def test_without_slopes_it_searches_at_random() -> None:
    """Steps of a staircase have none: the highest stair is at the corner, and found by nearly all."""

    def stairs(seen: th.Tensor) -> th.Tensor:
        return ((seen - CLEAN) * 20).round().sum(1) + 0 * seen.sum(1)

    found = AutoPGD(n_steps=20, restarts=3).solve(stairs, CLEAN, LinfBall(), 0.1, generator())
    assert stairs(CLEAN + found).mean() > 0.9 * 6
    random = 0.1 * LinfBall().steepest(th.randn(CLEAN.shape, generator=generator()))
    assert stairs(CLEAN + random).mean() < 2


def test_a_given_start_is_never_lost() -> None:
    """Nor one at which the slope is 0."""
    start = th.full_like(CLEAN, 0.1)
    goal = lambda seen: ((seen - CLEAN - start).abs().amax(1) < 1e-4).float() + 0 * seen.sum(1)  # noqa: E731
    found = AutoPGD(n_steps=2, restarts=1).solve(goal, CLEAN, LinfBall(), 0.1, generator(), start)
    th.testing.assert_close(found, start)


@pytest.mark.parametrize("name", ["n_steps", "restarts", "draws"])
def test_a_search_takes_whole_numbers(name: str) -> None:
    with pytest.raises(ValueError, match=f"AutoPGD's {name}"):
        AutoPGD(**{name: 0})


# --- what MAD's noise hides


def shift(model: PPO, attack: Any) -> float:
    clean = np.random.default_rng(0).normal(size=(64, *model.observation_space.shape)).astype(np.float32)
    seen = attack.perturb(clean)
    with th.no_grad():
        one, other = (model.policy.get_distribution(th.as_tensor(x)).mode() for x in (clean, seen))
    return float((one - other).abs().mean())


def test_a_nearly_flat_policy_is_moved_as_far_as_it_can_be() -> None:
    """Its slopes are far below the noise of MAD, which moves it less than a random draw does."""
    weights = [1e-6, -2e-6, 1e-6, 3e-6]
    model = linear_victim(weights, spaces.Box(-np.inf, np.inf, (4,)))
    best = 0.1 * np.abs(weights).sum()
    assert shift(model, MaxKL(model, 0.1, seed=0)) == pytest.approx(best, rel=0.02)
    assert shift(model, MAD(model, 0.1, seed=0)) < 0.8 * best
    assert shift(model, Random(model, 0.1, seed=0)) < 0.5 * best


def test_restarts_of_the_critic_s_attack_lower_the_value_more() -> None:
    model, clean = victim(), CLEAN.numpy()
    plain, more = (
        model.policy.predict_values(th.as_tensor(Critic(model, 0.5, seed=0, **settings).perturb(clean))).mean().item()
        for settings in ({}, {"restarts": 4})
    )
    assert more <= plain + 1e-6


# --- pushes


def discrete(n: int = 3) -> PPO:
    """Nearly certain of action 0 everywhere: the probabilities of the others are 0 in single precision."""
    env = Still(spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(n))
    model = PPO("MlpPolicy", env, device="cpu", policy_kwargs={"net_arch": []})
    with th.no_grad():
        model.policy.action_net.weight.copy_(th.tensor([[400.0, 0.0], [0.0, 400.0], [0.0, -400.0]])[:n])
        model.policy.action_net.bias.zero_()
    return model


@pytest.mark.parametrize("choice", [1, 2])
def test_a_nearly_certain_policy_is_pushed_to_any_choice(choice: int) -> None:
    model = discrete()
    clean = np.array([[0.5, 0.0]], np.float32)
    for attack in (Push(model, 0.4, limit=choice, seed=0), Push(model, 0.4, limit=choice, seed=1)):
        seen = attack.perturb(clean)
        assert model.predict(clean, deterministic=True)[0] == 0
        assert model.predict(seen, deterministic=True)[0] == choice


def test_each_limit_is_reached() -> None:
    model = controller()
    clean = np.ones((4, 2), np.float32)
    for limit, (index, sign) in enumerate(limits_of(model.action_space)):
        seen = Push(model, 0.2, limit=limit, seed=0).perturb(clean)
        moved, was = (model.predict(one, deterministic=True)[0] for one in (seen, clean))
        gain = [0.5, 0.8][index]
        np.testing.assert_allclose((moved - was)[:, index], sign * 0.2 * gain, rtol=1e-4)


@pytest.mark.parametrize(
    ("space", "count"),
    [
        (spaces.Box(-1, 1, (3,)), 6),
        (spaces.Discrete(4), 4),
        (spaces.MultiDiscrete([2, 3]), 5),
        (spaces.MultiBinary(2), 4),
    ],
)
def test_every_limit_can_be_pushed_to(space: Any, count: int) -> None:
    model = PPO("MlpPolicy", Still(spaces.Box(-1.0, 1.0, (2,)), space), device="cpu", seed=0)
    with th.no_grad():
        model.policy.action_net.weight.mul_(100)
    limits = limits_of(space)
    assert len(limits) == count
    seen = th.zeros(8, 2)
    for limit in limits:
        adversary = Adversary(Limit(*limit), AutoPGD())
        adversary.seed(0)
        assert (adversary.gain(model.policy, seen, adversary.perturb(model.policy, seen, 0.5)) > 0).all()


def test_limits_of_other_spaces_are_not_known() -> None:
    with pytest.raises(TypeError, match=r"The limits of Dict\(\) are not known"):
        limits_of(spaces.Dict())


class Wage(Still):
    """The second action is what pays, so lowering it harms most."""

    def __init__(self) -> None:
        super().__init__(controller().observation_space, controller().action_space)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._look(), float(3 * action[1] - action[0]), False, False, {}

    def _look(self) -> Any:
        return np.full(2, 0.5, np.float32)


def test_a_push_by_name_is_the_one_that_harms_most() -> None:
    """Whatever its number; the first limit, to lower the first action, does no harm."""
    model = controller()
    venv = DummyVecEnv([lambda: Monitor(TimeLimit(Wage(), 4))] * 2)
    pushes = [Push(model, 0.2, limit) for limit in range(4)]
    returns = [evaluate_robustness(model, venv, [push], n_eval_episodes=4, warn=False).worst_case for push in pushes]
    named = evaluate_robustness(model, venv, "push", [0.1, 0.2], n_eval_episodes=4, warn=False)
    assert named.at(0.2)["return"].where(named.at(0.2)["attack"] == "push").mean() == min(returns) == returns[2]
    assert returns[0] > returns[2] + 1
    assert strongest_push(Victim(model, venv), 0.2).settings == {"limit": 2}


def test_there_is_no_such_limit() -> None:
    with pytest.raises(ValueError, match=r"The limits of Box.* are 0 to 3, but limit=4"):
        Push(controller(), 0.1, limit=4)


# --- by an action value


class Ridge(th.nn.Module):
    """An action value that is flat but for one corner far away, where it is worst."""

    n_actions = None

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return -(actions - 2).clamp(min=0).sum(1)


def test_the_worst_action_is_pushed_to_though_the_value_is_flat_on_the_way() -> None:
    model = controller()
    space = spaces.Box(-3.0, 3.0, (2,))
    adversary = Adversary(TowardsWorst(Ridge(), space), AutoPGD())  # type: ignore[arg-type]
    seen = th.ones(4, 2)
    perturbed = adversary.perturb(model.policy, seen, 0.2)
    th.testing.assert_close(perturbed, seen - 0.2)  # the mean action is -gain · s: both go up


@pytest.mark.parametrize("n", [2, 7])
def test_corners_of_large_spaces_are_drawn(n: int) -> None:
    objective = TowardsWorst(Ridge(), spaces.Box(-1.0, np.inf, (n,)))  # type: ignore[arg-type]
    corners = objective._corners(th.full((3, n), 5.0))
    assert corners.shape == (4 if n == 2 else 32, 3, n)
    assert {value.item() for value in corners.unique()} == {-1.0, 6.0}


def test_worst_q_does_not_less_than_robust_sarsa_by_its_own_value() -> None:
    sarsa = RobustSarsa(victim(), 0.3, seed=0, n_epochs=2).fit(make_envs(n_envs=2), 256)
    worst = WorstQ.from_sarsa(sarsa)
    clean = CLEAN.numpy()
    values = []
    for attack in (sarsa, worst):
        attack.seed(0)
        seen = th.as_tensor(attack.perturb(clean))
        with th.no_grad():
            values.append(sarsa.q.forward(CLEAN, victim().policy.get_distribution(seen).mode()).mean().item())
    assert values[1] <= values[0] + 1e-3
    with pytest.raises(ValueError, match="RobustSarsa must learn before it can attack"):
        WorstQ.from_sarsa(RobustSarsa(victim(), 0.3))


def test_a_nearly_certain_policy_that_becomes_more_certain_has_not_moved() -> None:
    """Though a probability falls to 0 in single precision."""
    model = discrete()
    clean = th.tensor([[0.12, 0.0]])
    surer, other = th.tensor([[0.5, 0.0]]), th.tensor([[0.05, 0.1]])
    judge = Adversary(KL(), AutoPGD())
    assert judge.gain(model.policy, clean, surer).item() == pytest.approx(0, abs=1e-6)
    assert judge.gain(model.policy, clean, other).item() == pytest.approx(20, rel=1e-3)  # 400 · (0.1 - 0.05)


def test_max_kl_raises_the_divergence_at_least_as_far_as_mad() -> None:
    model, clean = victim(), CLEAN.numpy()
    judge = Adversary(KL(), AutoPGD())
    one, other = (
        judge.gain(model.policy, CLEAN, th.as_tensor(kind(model, 0.2, seed=0).perturb(clean))).mean()
        for kind in (MaxKL, MAD)
    )
    assert one >= other


def test_the_worst_action_needs_a_space_that_has_one() -> None:
    with pytest.raises(TypeError, match=r"of a Box or a Discrete space, but the actions are MultiBinary\(2\)"):
        TowardsWorst(Ridge(), spaces.MultiBinary(2))  # type: ignore[arg-type]
