"""A small policy, observations of it, and what a rollout says of them: what parts are tried on by default."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_barpo.adversary import Samples

#: Rows of a batch.
ROWS = 8
#: Features of an observation.
FEATURES = 4


def example_policy(action_space: spaces.Space[Any] | None = None, **kwargs: Any) -> ActorCriticPolicy:
    """
    A policy that reacts to what it sees: SB3's own initialisation makes nearly the same of every observation.

    :param action_space: Its actions; two-dimensional ``Box`` by default.
    :param kwargs: Arguments of ``ActorCriticPolicy``.
    :return: An untrained ``ActorCriticPolicy`` on a ``Box`` of four features, in evaluation mode, the same each time.
    """
    with th.random.fork_rng(devices=[]):
        th.manual_seed(0)
        policy = ActorCriticPolicy(
            spaces.Box(-1.0, 1.0, (FEATURES,)),
            spaces.Box(-1.0, 1.0, (2,)) if action_space is None else action_space,
            lambda _: 3e-4,
            **{"net_arch": [16], "ortho_init": False, "log_std_init": -0.5, **kwargs},
        )
        with th.no_grad():
            for weight in policy.action_net.parameters():
                weight.mul_(3.0)
    policy.set_training_mode(False)
    return policy


def example_observations(rows: int = ROWS, seed: int = 0) -> th.Tensor:
    """
    :param rows: Number B of observations.
    :param seed: Seed of the draw.
    :return: Observations of :func:`example_policy`, off the edge of their space, shape ``(B, 4)``.
    """
    return 0.9 * (2 * th.rand((rows, FEATURES), generator=th.Generator().manual_seed(seed)) - 1)


def example_samples(policy: ActorCriticPolicy, observations: th.Tensor) -> Samples:
    """
    :param policy: A policy.
    :param observations: Shape ``(B, *obs)``.
    :return: A minibatch: actions that the policy has drawn, ratios a little off 1, advantages of both signs; the same
        each time.
    """
    with th.no_grad(), th.random.fork_rng(devices=[]):
        th.manual_seed(1)
        distribution = policy.get_distribution(observations)
        actions = distribution.get_actions()
        log_prob = distribution.log_prob(actions)
    rows = len(observations)
    return Samples(actions, log_prob + th.linspace(-0.1, 0.1, rows), th.linspace(-1.0, 1.0, rows), clip_range=0.2)


def example_rollout(policy: ActorCriticPolicy) -> RolloutBuffer:
    """:return: A rollout of :func:`example_policy`, full, with advantages and returns."""
    steps = 4
    buffer = RolloutBuffer(steps, policy.observation_space, policy.action_space, "cpu", n_envs=2)
    for step in range(steps):
        observations = example_observations(2, seed=step)
        with th.no_grad():
            distribution = policy.get_distribution(observations)
            actions, values = distribution.mode(), policy.predict_values(observations)
        rewards = observations.numpy().sum(1)
        starts = (observations.numpy()[:, 0] > 0.5).astype(float)
        buffer.add(observations.numpy(), actions.numpy(), rewards, starts, values, distribution.log_prob(actions))
    buffer.compute_returns_and_advantage(values, starts)
    return buffer
