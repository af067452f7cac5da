"""ATLA: agent and attacker in turns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from alternation import check_discrete_actions, check_help, check_life
from gymnasium import spaces
from helpers import TINY, Still, assert_same_training, learn, make_envs, same, weights
from linear_system import COST, DRIFT, HORIZON, PUSH, systems
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_barpo import ATLA

BOTH = pytest.mark.parametrize("attacker", ["sarl", "paad"])


def build(env: Any = None, **own: Any) -> Any:
    return ATLA("MlpPolicy", make_envs() if env is None else env, **{"epsilon": 0.2, **TINY, **own})


@BOTH
@pytest.mark.parametrize("n_envs", [1, 3])
def test_strength_zero_is_ppo(attacker: str, n_envs: int) -> None:
    runs = []
    for kind, own in ((ATLA, {"epsilon": 0, "attacker": attacker}), (PPO, {})):
        model = kind("MlpPolicy", make_envs(n_envs=n_envs, normalized=True), **TINY, **own)
        runs += [model, learn(model, 96 * n_envs)]
    assert_same_training(*runs)


def test_the_first_rollout_of_a_ramp_is_ppo_s() -> None:
    """The attacker's networks and draws leave PPO's where they were."""
    runs = []
    for kind, own in ((ATLA, {"epsilon": "step_0_0.5_0.2"}), (PPO, {})):
        model = kind("MlpPolicy", make_envs(n_envs=2), **TINY, **own)
        states: list[Any] = []
        train = model.train

        def listen(model: Any = model, states: list[Any] = states, train: Any = train) -> None:
            train()
            states.append((weights(model), th.get_rng_state(), np.random.get_state()[1].tolist()))

        model.train = listen
        model.learn(256)
        runs.append(states)
    assert len(runs[0]) == len(runs[1]) == 4
    assert same(runs[0][0], runs[1][0])
    # Actions and shuffles take the same draws, whoever else draws beside them.
    assert same(runs[0][-1][1:], runs[1][-1][1:])
    assert not same(runs[0][-1][0], runs[1][-1][0])


@BOTH
def test_the_agent_sees_the_ball_and_no_more(attacker: str) -> None:
    """What is stored lies within ε of what the environment has said, and the stream of episodes has no gap."""
    envs, shown, clean = make_envs(n_envs=2), [], []
    model = build(envs, attacker=attacker)
    step_wait = envs.step_wait

    def listen() -> Any:
        out = step_wait()
        clean.append(out[0].copy())
        return out

    envs.step_wait = listen
    train = model.train

    def keep() -> None:
        shown.append(model.rollout_buffer.observations.copy())
        train()

    model.train = keep
    model.learn(3 * 64)
    assert len(clean) == 3 * 2 * 32  # both turns step the environments
    for turn, observations in enumerate(shown):
        begin = turn * 64
        for t in range(1, 32):
            distance = np.abs(observations[t] - clean[begin + t - 1]).max()
            assert distance <= 0.2 + 1e-6
    moved = np.concatenate([shown[i][1:] - np.stack(clean[i * 64 : i * 64 + 31]) for i in range(3)])
    assert np.abs(moved).max() > 0.15
    # The agent's second rollout begins where the attacker's turn has ended.
    assert np.abs(shown[1][0] - clean[63]).max() <= 0.2 + 1e-6


@BOTH
def test_both_learn_in_turns(attacker: str) -> None:
    model = build(make_envs(n_envs=2, normalized=True), attacker=attacker, epsilon=0.2)
    book = learn(model, 64)
    adversary = model.learned_attack().adversary_model
    first = weights(adversary)
    assert adversary.num_timesteps == 64
    assert model.num_timesteps == 64
    model.learn(64, reset_num_timesteps=False)
    assert adversary is model.learned_attack().adversary_model
    assert adversary.num_timesteps == 128  # it goes on, it does not begin anew
    assert not same(weights(adversary), first)
    assert book.column("adversary/epsilon") == [0.2]
    model.learn(64)  # from the beginning, with the same attacker
    assert adversary.num_timesteps == 192


def test_the_attacker_has_the_agent_s_rates_unless_told() -> None:
    model = build(learning_rate=lambda left: 0.004 * left, gamma=0.9, attacker_kwargs={"n_epochs": 3})
    model.learn(32)
    attacker = model.learned_attack().adversary_model
    assert (attacker.gamma, attacker.n_epochs, attacker.lr_schedule(0.5)) == (0.9, 3, 0.002)
    assert attacker.env.gamma == 0.9  # by which rewards are scaled


def test_the_statistics_rest_in_the_attacker_s_turn() -> None:
    envs = make_envs(n_envs=2, normalized=True)
    model = build(envs)
    counts = []
    turn = model._attackers_turn

    def listen() -> None:
        counts.append(envs.obs_rms.count)
        turn()
        counts.append(envs.obs_rms.count)
        assert envs.training
        assert envs.norm_reward

    model._attackers_turn = listen
    model.learn(128)
    assert counts[0] == counts[1] < counts[2] == counts[3]


def test_training_is_reproducible() -> None:
    first, second = (build(make_envs(n_envs=2)).learn(192) for _ in range(2))
    assert same(weights(first), weights(second))
    assert same(weights(first._attack.adversary_model), weights(second._attack.adversary_model))


def test_the_penalty_of_sa_ppo() -> None:
    book = learn(build(weight=0.3), 32)
    assert book.column("adversary/regulariser")[0] > 0
    assert "adversary/regulariser" not in learn(build(), 32).dumps[-1]


@BOTH
def test_a_model_s_life(attacker: str, tmp_path: Path) -> None:
    check_life(build, ATLA, PPO, attacker, tmp_path)


def test_discrete_actions() -> None:
    check_discrete_actions(build)


def test_help_shows_all_arguments() -> None:
    check_help(ATLA, PPO)


def test_no_attacker_yet() -> None:
    with pytest.raises(ValueError, match="There is no attacker yet"):
        build().learned_attack()


def test_unknown_attackers() -> None:
    with pytest.raises(ValueError, match="Unknown attacker 'mad'"):
        build(attacker="mad")


def test_images_are_refused_by_sarl() -> None:
    env = DummyVecEnv([lambda: Still(spaces.Box(0, 255, (36, 36, 3), np.uint8))])
    with pytest.raises(TypeError, match="pixels by one action each"):
        ATLA("CnnPolicy", env, epsilon=1.0, **TINY)


def worst_return(model: PPO, epsilon: float) -> float:
    """
    Against the attack that moves the system furthest at each step, in any corner of the ball. For a controller that
    treats the coordinates apart and has no bias, which is what is learned here but for a little, there is none worse.
    """
    weight, bias = (part.detach().numpy() for part in model.policy.action_net.parameters())
    draw = np.random.default_rng(0)
    state, total = draw.uniform(0.5, 1, (64, 2)) * draw.choice([-1.0, 1.0], (64, 2)), np.zeros(64)
    corners = epsilon * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])[:, None]
    for _ in range(HORIZON):
        following = DRIFT * state + PUSH * ((state + corners) @ weight.T + bias)
        costs = following**2 @ COST
        state, total = following[costs.argmax(0), np.arange(64)], total - costs.max(0)
    return float(total.mean())


@pytest.mark.slow
def test_atla_beats_ppo_on_the_linear_system() -> None:
    """
    At ε = 1, wider than the starts, who trusts what it sees is led about: PPO's controller loses 14.3, one that leaves
    the first state alone 11.4.
    """
    network = {"net_arch": {"pi": [], "vf": [32]}, "log_std_init": -1.0}
    common = {"n_steps": 64, "batch_size": 128, "learning_rate": lambda left: 0.005 * left, "policy_kwargs": network}
    opponent = {"learning_rate": lambda left: 0.003 * left, "policy_kwargs": {"net_arch": [16]}}
    found = []
    for kind, own in ((PPO, {}), (ATLA, {"epsilon": 1.0, "attacker_kwargs": opponent})):
        model = kind("MlpPolicy", systems(8), seed=0, device="cpu", **common, **own)
        found.append(worst_return(model.learn(12_000), 1.0))
    ppo, atla = found
    assert ppo < -14
    assert atla > -13
