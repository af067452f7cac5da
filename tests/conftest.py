"""Shared settings and parts of the tests. Policies are built, not trained: that is cheap."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import HealthCheck, settings
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_barpo.adversary import LinfBall, Samples
from sb3_barpo.testing import example_observations, example_policy, example_samples

th.set_num_threads(1)
settings.register_profile(
    "sb3_barpo", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sb3_barpo")

ACTION_SPACES: dict[str, spaces.Space] = {
    "box": spaces.Box(-1.0, 1.0, (2,)),
    "gsde": spaces.Box(-1.0, 1.0, (2,)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(2),
}


class NoisyFeatures(BaseFeaturesExtractor):
    """Features with state: batch normalisation keeps statistics, dropout draws from the global generator."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=4)
        self.layers = th.nn.Sequential(th.nn.BatchNorm1d(4), th.nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


def build_policy(kind: str, **kwargs: object) -> ActorCriticPolicy:
    """The example policy with a kind of action space."""
    return example_policy(ACTION_SPACES[kind], use_sde=kind == "gsde", **kwargs)


@pytest.fixture(scope="session")
def policy_of() -> Callable[..., ActorCriticPolicy]:
    """Gives the policy of a kind of action space. Shared: nothing here may change it."""
    return cache(build_policy)


@pytest.fixture(scope="session", params=ACTION_SPACES)
def policy(request: pytest.FixtureRequest, policy_of: Callable[..., ActorCriticPolicy]) -> ActorCriticPolicy:
    """The policy of each kind of action space in turn."""
    return policy_of(request.param)


@pytest.fixture
def noisy_policy() -> ActorCriticPolicy:
    """A policy whose training mode shows: batch normalisation and dropout."""
    return build_policy("box", features_extractor_class=NoisyFeatures)


@pytest.fixture(scope="session")
def observations_of() -> Callable[..., th.Tensor]:
    """Draws a batch of clean observations, given the number of rows and a seed."""
    return example_observations


@pytest.fixture
def observations() -> th.Tensor:
    """A batch of clean observations."""
    return example_observations()


@pytest.fixture(scope="session")
def samples_of() -> Callable[[ActorCriticPolicy, th.Tensor], Samples]:
    """Makes a minibatch of a policy and observations."""
    return example_samples


@pytest.fixture(scope="session")
def inside() -> Callable[..., bool]:
    """Tells whether perturbed observations are in the ball, up to rounding of the sum."""

    def check(perturbed: th.Tensor, clean: th.Tensor, epsilon: float, ball: LinfBall | None = None) -> bool:
        norms = (ball or LinfBall()).norm((perturbed - clean).double())
        return bool(norms.max() <= epsilon * (1 + 1e-5) + np.finfo(np.float32).eps)

    return check
