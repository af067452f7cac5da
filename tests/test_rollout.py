"""A rollout by bare operations is SB3's, bit for bit."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import TINY, make_envs, same
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from test_minibatches import make_policy
from torch import nn

from sb3_barpo import BARPO
from sb3_barpo.policies.rollout import BareForward, bare_forward

SPACES = pytest.mark.parametrize(
    "action_space", [spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2, 2)), spaces.Discrete(4)], ids=str
)


@SPACES
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("net_arch", [[], [16, 8], {"pi": [4], "vf": [32]}], ids=str)
def test_it_says_what_the_policy_says(
    action_space: spaces.Space[Any], activation: type[nn.Module], deterministic: bool, net_arch: Any
) -> None:
    policy = make_policy(ActorCriticPolicy, action_space, activation_fn=activation, net_arch=net_arch)
    said = []
    for bare in (False, True):
        th.manual_seed(5)
        with th.no_grad():
            for n in (1, 8, 1):
                observations = th.randn(n, 5, dtype=th.float64)
                if bare:
                    with bare_forward(policy):
                        assert isinstance(policy.forward, BareForward)
                        said.append(policy(observations, deterministic=deterministic))
                else:
                    said.append(policy(observations, deterministic=deterministic))
        said.append(th.get_rng_state())
    assert same(said[:4], said[4:])
    assert "forward" not in vars(policy)


def test_it_reads_the_weights_of_the_time() -> None:
    policy = make_policy(ActorCriticPolicy, spaces.Box(-1, 1, (3,)))
    observations = th.randn(4, 5)
    with th.no_grad(), bare_forward(policy):
        policy(observations)
        for parameter in policy.parameters():
            parameter.mul_(0.5)
        now = policy(observations, deterministic=True)
        assert same(now, type(policy).forward(policy, observations, deterministic=True))
        policy.value_net = nn.Linear(64, 1)
        assert th.equal(policy(observations)[1], policy.predict_values(observations))


def test_a_copy_answers_by_its_own_weights() -> None:
    policy = make_policy(ActorCriticPolicy, spaces.Discrete(4))
    observations = th.randn(4, 5)
    with th.no_grad(), bare_forward(policy):
        before = policy(observations, deterministic=True)
        other = copy.deepcopy(policy)
        for parameter in policy.parameters():
            parameter.zero_()
        assert same(other(observations, deterministic=True), before)
        assert not same(policy(observations, deterministic=True), before)


class Loud(ActorCriticPolicy):
    def forward(self, obs: th.Tensor, deterministic: bool = False) -> Any:
        actions, values, log_prob = super().forward(obs, deterministic)
        return actions, values + 100, log_prob


def test_a_forward_of_ones_own_is_heard() -> None:
    model = BARPO(Loud, make_envs(), epsilon=0, **TINY)
    model.learn(32)
    assert model.rollout_buffer.values.min() > 50


class CopiesThePolicy(BaseCallback):
    def _on_step(self) -> bool:
        self.kept = copy.deepcopy(self.model.policy)
        return True


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("n_envs", [1, 4])
def test_the_first_rollout_is_ppos_at_any_strength(env_id: str, n_envs: int) -> None:
    rollouts = []
    for algorithm, own in ((PPO, {}), (BARPO, {"epsilon": 0.1})):
        model = algorithm("MlpPolicy", make_envs(env_id, n_envs), **TINY, **own)
        model.learn(32 * n_envs, callback=(callback := CopiesThePolicy()))
        buffer = model.rollout_buffer
        rollouts.append(
            [np.sort(getattr(buffer, name).ravel()) for name in ("actions", "values", "log_probs", "returns")]
        )
        assert "forward" not in vars(model.policy)
        callback.kept(th.zeros(1, *model.observation_space.shape))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(*rollouts, strict=True))
