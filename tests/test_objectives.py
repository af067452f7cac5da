"""Objectives: against torch, against formulas written by hand, and their gradients against finite differences."""

import pytest
import torch as th
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    MultiCategoricalDistribution,
)

from sb3_barpo.adversary import KL, Samples, Surrogate, Value, clipped_surrogate
from sb3_barpo.policies.evaluate import action_distributions

HEADS = {
    "gaussian": (2, lambda x: DiagGaussianDistribution(2).proba_distribution(x, th.tensor([-0.5, 0.3]).double())),
    "categorical": (3, CategoricalDistribution(3).proba_distribution),
    "multi_categorical": (5, MultiCategoricalDistribution([2, 3]).proba_distribution),
    "bernoulli": (2, BernoulliDistribution(2).proba_distribution),
}


class Float64Policy:
    """All that objectives ask of a policy, in double precision: finite differences need it, SB3's casts to single."""

    training = False

    def __init__(self, head):
        outputs, self.distribution = HEADS[head]
        generator = th.Generator().manual_seed(0)
        self.weight = th.randn((4, outputs), generator=generator, dtype=th.float64, requires_grad=True)
        self.critic = th.randn((4, 1), generator=generator, dtype=th.float64, requires_grad=True)

    def get_distribution(self, obs):
        return self.distribution(th.tanh(obs @ self.weight))

    def predict_values(self, obs):
        return th.tanh(obs @ self.critic)

    def set_training_mode(self, mode):
        self.training = mode


def parameters_of(policy, observations):
    """The numbers behind the policy's distribution, copied: SB3 refills the same object."""
    with th.no_grad():
        return [
            (d.mean.clone(), d.stddev.clone()) if isinstance(d, th.distributions.Normal) else d.probs.clone()
            for d in action_distributions(policy, observations)
        ]


def gaussian_kl(p, q):
    (mean_p, std_p), (mean_q, std_q) = p, q
    return (th.log(std_q / std_p) + (std_p**2 + (mean_p - mean_q) ** 2) / (2 * std_q**2) - 0.5).sum(1)


def categorical_kl(p, q):
    return (p * (p.log() - q.log())).sum(1)


def bernoulli_kl(p, q):
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)


HAND_WRITTEN = {
    "box": gaussian_kl,
    "gsde": gaussian_kl,
    "discrete": categorical_kl,
    "multi_discrete": categorical_kl,
    "multi_binary": bernoulli_kl,
}


# KL


@pytest.mark.parametrize("kind", HAND_WRITTEN)
def test_kl_is_the_closed_form(kind, policy_of, observations_of):
    policy, clean, perturbed = policy_of(kind), observations_of(16), observations_of(16, seed=1)
    pairs = zip(parameters_of(policy, clean), parameters_of(policy, perturbed), strict=True)
    expected = sum(HAND_WRITTEN[kind](p, q) for p, q in pairs)
    assert expected.min() > 1e-3  # the policy does react
    th.testing.assert_close(KL().prepare(policy, clean)(perturbed), expected, rtol=1e-3, atol=1e-6)


def test_kl_with_one_standard_deviation_is_half_the_squared_distance_of_means(policy_of, observations_of):
    policy, clean, perturbed = policy_of("box"), observations_of(16), observations_of(16, seed=1)
    ((mean, std),), ((mean_perturbed, _),) = parameters_of(policy, clean), parameters_of(policy, perturbed)
    expected = 0.5 * (((mean_perturbed - mean) / std) ** 2).sum(1)
    th.testing.assert_close(KL().prepare(policy, clean)(perturbed), expected)


@pytest.mark.parametrize("kind", ["box", "gsde", "discrete"])
def test_kl_is_that_of_torch(kind, policy_of, observations_of):
    policy, clean, perturbed = policy_of(kind), observations_of(16), observations_of(16, seed=1)
    (p,), (q,) = parameters_of(policy, clean), parameters_of(policy, perturbed)
    if kind == "discrete":
        first, second = (th.distributions.Categorical(probs=probs) for probs in (p, q))
    else:
        first, second = (th.distributions.Independent(th.distributions.Normal(*pair), 1) for pair in (p, q))
    expected = th.distributions.kl_divergence(first, second)
    th.testing.assert_close(KL().prepare(policy, clean)(perturbed), expected, rtol=1e-4, atol=1e-6)


def test_kl_has_a_direction(policy_of, observations_of):
    policy, a, b = policy_of("discrete"), observations_of(16), observations_of(16, seed=1)
    assert not th.allclose(KL().prepare(policy, a)(b), KL().prepare(policy, b)(a), rtol=1e-2)


def test_kl_is_one_value_per_row_zero_to_itself_and_never_negative(policy, observations_of):
    clean = observations_of(16)
    goal = KL().prepare(policy, clean)
    assert goal(clean).shape == (16,)
    th.testing.assert_close(goal(clean), th.zeros(16), atol=1e-6, rtol=0)
    for seed in range(1, 20):
        assert (goal(observations_of(16, seed=seed)) >= -1e-6).all()


def test_kl_remembers_the_clean_distribution_although_the_policy_refills_its_own(policy, observations_of):
    clean, perturbed = observations_of(8), observations_of(8, seed=1)
    goal = KL().prepare(policy, clean)
    first = goal(perturbed)
    policy.get_distribution(observations_of(3, seed=2))
    assert th.equal(goal(perturbed), first)


# Surrogate and value


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.5, 1.0, 1.2), (1.5, -1.0, -1.5), (0.5, 1.0, 0.5), (0.5, -1.0, -0.8), (1.1, 2.0, 2.2), (0.9, -2.0, -1.8)],
)
def test_clipped_surrogate_known_answers(ratio, advantage, expected):
    samples = Samples(th.zeros(1), th.tensor([-1.3]), th.tensor([advantage]), clip_range=0.2)
    log_prob = samples.old_log_prob + th.tensor([ratio]).log()
    th.testing.assert_close(clipped_surrogate(log_prob, samples), th.tensor([expected]))


def test_surrogate_is_the_hand_written_one(policy, observations_of, samples_of):
    clean, perturbed = observations_of(32), observations_of(32, seed=1)
    samples = samples_of(policy, clean)
    with th.no_grad():
        _, log_prob, _ = policy.evaluate_actions(perturbed, samples.actions)
        value = Surrogate().prepare(policy, clean, samples)(perturbed)
    ratio, advantages = (log_prob - samples.old_log_prob).exp(), samples.advantages
    assert ((ratio - 1).abs() > 0.2).any()
    assert ((ratio - 1).abs() < 0.2).any()
    rewarded = advantages * ratio.clamp(max=1.2)
    punished = advantages * ratio.clamp(min=0.8)
    th.testing.assert_close(value, -th.where(advantages > 0, rewarded, punished))


def test_surrogate_has_no_gradient_where_it_is_clipped(policy_of, observations_of, samples_of):
    policy, clean = policy_of("box"), observations_of(2).requires_grad_()
    samples = samples_of(policy, clean.detach())
    far_and_near = Samples(samples.actions, samples.old_log_prob + th.tensor([-1.0, 0.0]), th.ones(2), clip_range=0.2)
    # Away from the mode, where the log-probability is flat.
    far_and_near = far_and_near._replace(actions=samples.actions + 0.05)
    (gradient,) = th.autograd.grad(Surrogate().prepare(policy, clean, far_and_near)(clean).sum(), clean)
    assert not gradient[0].any()
    assert gradient[1].all()


def test_surrogate_without_samples_is_refused(policy_of, observations):
    with pytest.raises(ValueError, match="needs the actions and advantages of a rollout, but got samples=None"):
        Surrogate().prepare(policy_of("box"), observations)


def test_value_is_minus_the_critic(policy, observations_of):
    goal = Value().prepare(policy, observations_of(8))
    perturbed = observations_of(8, seed=1)
    assert th.equal(goal(perturbed), -policy.predict_values(perturbed)[:, 0])


# Gradients with respect to what is seen


def double_goal(objective, head, clean):
    policy = Float64Policy(head)
    distribution = policy.get_distribution(clean)
    actions = distribution.mode()
    if head == "gaussian":
        actions = actions + 0.1  # off the mode, where the log-probability is flat
    # Ratios about 1.05, with both signs of the advantage: off the kinks, where there is no derivative.
    old_log_prob = distribution.log_prob(actions).detach() - 0.05
    advantages = th.linspace(-1.0, 2.0, len(clean), dtype=th.float64)
    return objective.prepare(policy, clean, Samples(actions.detach(), old_log_prob, advantages, 0.2))


@pytest.mark.parametrize("objective", [KL(), Surrogate(), Value()], ids=repr)
@pytest.mark.parametrize("head", HEADS)
def test_gradient_is_that_of_finite_differences(objective, head):
    generator = th.Generator().manual_seed(1)
    clean = th.randn((4, 4), generator=generator, dtype=th.float64)
    perturbed = clean + 0.02 * th.randn((4, 4), generator=generator, dtype=th.float64)
    goal = double_goal(objective, head, clean)
    (gradient,) = th.autograd.grad(goal(perturbed.requires_grad_()).sum(), perturbed)
    step = 1e-6
    for row, column in th.cartesian_prod(th.arange(4), th.arange(4)).tolist():
        shift = th.zeros_like(clean)
        shift[row, column] = step
        with th.no_grad():
            difference = (goal(perturbed + shift) - goal(perturbed - shift)) / (2 * step)
        assert difference[row].item() == pytest.approx(gradient[row, column].item(), rel=1e-4, abs=1e-8)
        assert difference.count_nonzero() <= 1  # the other rows do not feel it


@pytest.mark.parametrize("objective", [KL(), Surrogate(), Value()], ids=repr)
@pytest.mark.parametrize("head", ["gaussian", "categorical"])
def test_only_what_says_so_is_stationary_at_the_clean_observation(objective, head):
    clean = th.randn((4, 4), generator=th.Generator().manual_seed(1), dtype=th.float64)
    goal = double_goal(objective, head, clean)
    (gradient,) = th.autograd.grad(goal(clean.requires_grad_()).sum(), clean)
    assert (gradient.abs().max() < 1e-12) == objective.stationary_at_clean
