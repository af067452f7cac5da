"""The gradients of a flat policy against finite differences."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_barpo.policies.flat import FlatPolicy
from sb3_barpo.policies.heads import head_of


def double_policy(action_space: spaces.Space[Any], activation: type[nn.Module], n_features: int) -> ActorCriticPolicy:
    th.manual_seed(0)
    space = spaces.Box(-np.inf, np.inf, (n_features,), np.float64)
    policy = ActorCriticPolicy(space, action_space, lambda _: 1e-3, net_arch=[5, 4], activation_fn=activation).double()
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    return policy


@pytest.mark.parametrize("n_features", [3, 17])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("action_space", [spaces.Box(-1, 1, (2,)), spaces.Discrete(3)], ids=["Box", "Discrete"])
def test_gradients_against_finite_differences(
    action_space: spaces.Space[Any], activation: type[nn.Module], n_features: int
) -> None:
    """Of an arbitrary function of rows, divergences, entropy and values, in double precision."""
    policy = double_policy(action_space, activation, n_features)
    observations = th.randn(6, n_features, dtype=th.float64)
    moved = observations + 0.2 * th.randn_like(observations)
    discrete = isinstance(action_space, spaces.Discrete)
    taken = th.randint(3, (6,)) if discrete else th.randn(6, 2, dtype=th.float64)
    actions = taken.view(6, 1) if discrete else taken
    pull = [th.randn(2, 6, dtype=th.float64), th.randn(6, dtype=th.float64), th.randn(6, dtype=th.float64)]

    def distribution(seen: th.Tensor) -> th.distributions.Distribution:
        output = policy.action_net(policy.mlp_extractor.forward_actor(seen))
        if discrete:
            return th.distributions.Categorical(logits=output)
        return th.distributions.Independent(th.distributions.Normal(output, policy.log_std.exp()), 1)

    def total() -> float:
        with th.no_grad():
            clean, perturbed = distribution(observations), distribution(moved)
            values = policy.value_net(policy.mlp_extractor.forward_critic(observations)).flatten()
            log_prob = th.stack([clean.log_prob(taken), perturbed.log_prob(taken)])
            kl = th.distributions.kl_divergence(clean, perturbed)
            bonus = -0.1 * clean.entropy().mean()
            return float((pull[0] * log_prob).sum() + (pull[1] * kl).sum() + (pull[2] * values).sum() + bonus)

    parameters = list(policy.parameters())
    numeric = []
    for parameter in parameters:
        slope = th.zeros_like(parameter)
        for i in range(parameter.numel()):
            ends = []
            for step in (1e-6, -1e-6):
                parameter.data.view(-1)[i] += step
                ends.append(total())
                parameter.data.view(-1)[i] -= step
            slope.view(-1)[i] = (ends[0] - ends[1]) / 2e-6
        numeric.append(slope)

    whole = FlatPolicy(policy, rows=6)
    head = head_of(whole)
    inputs = th.zeros(12, whole.actor.width, dtype=th.float64)
    inputs[:6, :n_features], inputs[6:, :n_features] = observations, moved
    with th.no_grad():
        head.rows(whole.actor.forward(inputs), actions)
        head.kl()
        whole.actor.to_parameters(inputs, head.to_output(pull[0], pull[1], ent_coef=0.1))
        whole.critic.forward(inputs[:6])
        whole.critic.to_parameters(inputs[:6], pull[2][:, None])
        whole.actor.finish()
        whole.critic.finish()
        whole.put_back()
    for parameter, expected in zip(parameters, numeric, strict=True):
        found = whole.gradients[parameter] * whole.factors[parameter]
        th.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
