"""The closed-form gradients equal autograd's, and serve only the policies that they fit."""

from collections.abc import Callable

import pytest
import torch as th
from gymnasium import spaces
from helpers import General
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_barpo.adversary import KL, PGD, SGLD, Adversary, LinfBall, Objective, Samples, Surrogate, Value
from sb3_barpo.adversary.goals import ClosedForm

BATCH, FEATURES = 64, 5
BOX = spaces.Box(-1, 1, (3,))
DISCRETE = spaces.Discrete(4)


def make_policy(
    action_space: spaces.Space, kind: type[ActorCriticPolicy] = ActorCriticPolicy, **kwargs: object
) -> ActorCriticPolicy:
    th.manual_seed(0)
    space = spaces.Box(-float("inf"), float("inf"), (FEATURES,))
    policy = kind(space, action_space, lambda _: 1e-3, **kwargs)
    with th.no_grad():  # SB3 begins with a policy that is almost constant
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    return policy


def make_samples(policy: ActorCriticPolicy, observations: th.Tensor) -> Samples:
    with th.no_grad():
        actions = policy.get_distribution(observations).sample()
        old_log_prob = policy.get_distribution(observations + 0.1).log_prob(actions)  # so that some ratios are clipped
    return Samples(actions, old_log_prob, th.randn(len(observations)), 0.2)


def by_autograd(goal: Callable[[th.Tensor], th.Tensor], perturbed: th.Tensor) -> th.Tensor:
    perturbed = perturbed.clone().requires_grad_()
    return th.autograd.grad(goal(perturbed).sum(), perturbed)[0]


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["Box", "Discrete"])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("net_arch", [[], [64, 64], [16, 32, 8]], ids=str)
@pytest.mark.parametrize("objective", [KL(), Surrogate(), Value()], ids=repr)
def test_gradient_equals_autograd(
    objective: Objective, net_arch: list[int], activation: type[nn.Module], action_space: spaces.Space, dtype: th.dtype
) -> None:
    policy = make_policy(action_space, net_arch=net_arch, activation_fn=activation, log_std_init=-0.5)
    observations = th.randn(BATCH, FEATURES, dtype=dtype)
    goal = objective.prepare(policy, observations, make_samples(policy, observations))
    perturbed = observations + 0.3 * th.randn(BATCH, FEATURES, dtype=dtype)

    assert isinstance(goal, ClosedForm)
    gradient = goal.gradient(perturbed)
    assert gradient.dtype == dtype
    assert gradient.abs().max() > 1e-3
    th.testing.assert_close(gradient, by_autograd(goal, perturbed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_features", [1, 15, 16, 17, 40])
def test_networks_of_every_width_of_input(n_features: int) -> None:
    """Narrow ones are filled up with columns of zeros."""
    th.manual_seed(0)
    space = spaces.Box(-float("inf"), float("inf"), (n_features,))
    policy = ActorCriticPolicy(space, BOX, lambda _: 1e-3, ortho_init=False)
    observations = th.randn(BATCH, n_features)
    goal = KL().prepare(policy, observations)
    assert isinstance(goal, ClosedForm)
    perturbed = observations + 0.3 * th.randn(BATCH, n_features)
    gradient = goal.gradient(perturbed)
    assert gradient.abs().max() > 1e-5
    th.testing.assert_close(gradient, by_autograd(goal, perturbed), rtol=1e-4, atol=1e-6)


def test_clipped_samples_have_no_gradient() -> None:
    policy = make_policy(BOX)
    observations = th.randn(BATCH, FEATURES)
    samples = make_samples(policy, observations)._replace(advantages=th.ones(BATCH))
    ratio = th.exp(policy.get_distribution(observations).log_prob(samples.actions) - samples.old_log_prob)
    goal = Surrogate().prepare(policy, observations, samples)
    assert isinstance(goal, ClosedForm)
    still = goal.gradient(observations).abs().sum(1) == 0
    assert 0 < (ratio > 1.2).sum() < BATCH
    assert th.equal(still, ratio > 1.2)


class Halved(ActorCriticPolicy):
    def extract_features(self, obs: th.Tensor, features_extractor: object = None) -> th.Tensor:  # type: ignore[override]
        return super().extract_features(obs, features_extractor) / 2  # type: ignore[arg-type,operator,return-value]


def unserved() -> list[tuple[str, ActorCriticPolicy]]:
    space = spaces.Box(-1, 1, (FEATURES,))
    hooked = make_policy(BOX)
    hooked.action_net.register_forward_hook(lambda module, args, output: 2 * output)
    return [
        ("another activation", make_policy(BOX, activation_fn=nn.ELU)),
        ("gSDE", make_policy(BOX, use_sde=True)),
        ("MultiDiscrete", make_policy(spaces.MultiDiscrete([2, 3]))),
        ("MultiBinary", make_policy(spaces.MultiBinary(3))),
        ("a policy with a method of its own", Halved(space, BOX, lambda _: 1e-3)),
        ("a forward hook", hooked),
    ]


@pytest.mark.parametrize(("why", "policy"), unserved(), ids=[why for why, _ in unserved()])
def test_other_policies_take_the_general_path(why: str, policy: ActorCriticPolicy) -> None:
    observations = th.randn(8, FEATURES)
    assert not isinstance(KL().prepare(policy, observations), ClosedForm)
    perturbed = Adversary(KL(), SGLD()).perturb(policy, observations, 0.1)
    assert 0 < LinfBall().norm(perturbed - observations).max() <= 0.1 * (1 + 1e-4)


@pytest.mark.parametrize("solver", [SGLD(), PGD()], ids=repr)
@pytest.mark.parametrize("objective", [KL(), Surrogate(), Value()], ids=repr)
def test_a_search_ends_where_autograd_would_end(objective: Objective, solver: SGLD | PGD) -> None:
    policy, general = make_policy(BOX), make_policy(BOX, kind=General)
    observations = th.randn(BATCH, FEATURES, dtype=th.float64)
    samples = make_samples(policy, observations)

    def search(some: ActorCriticPolicy) -> th.Tensor:
        adversary = Adversary(objective, solver)
        adversary.seed(0)
        return adversary.perturb(some, observations, 0.1, samples)

    assert isinstance(objective.prepare(policy, observations, samples), ClosedForm)
    assert not isinstance(objective.prepare(general, observations, samples), ClosedForm)
    # A sign may tip on rounding where a gradient crosses 0, and a row with it; hardly ever more than that.
    assert (search(policy) - search(general)).abs().amax(1).lt(1e-6).double().mean() > 0.95
