"""The adversary: it examines a policy and leaves it as it was, and stays within ball and bounds."""

import copy
import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from sb3_barpo.adversary import (
    KL,
    PGD,
    SGLD,
    Adversary,
    Bounds,
    Draws,
    L2Ball,
    LinfBall,
    Surrogate,
    Uniform,
    Value,
    check_observation_space,
    observation_bounds,
)

PAIRS = [
    (KL(), SGLD(n_steps=3)),
    (KL(), PGD(n_steps=3, restarts=2)),
    (Surrogate(), SGLD(n_steps=3)),
    (Value(), PGD(n_steps=3, start_radius=0)),
    (None, Uniform()),
]
BALLS = [LinfBall(), LinfBall([1.0, 0.0, 0.5, 2.0]), L2Ball(), L2Ball([1.0, 0.0, 0.5, 2.0])]
KINDS = ["box", "gsde", "discrete", "multi_discrete", "multi_binary"]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=repr)


def seeded(pair, ball=None, seed=0):
    adversary = Adversary(*pair, ball)
    adversary.seed(seed)
    return adversary


# Where the perturbed observations are


@each_pair
@given(
    kind=st.sampled_from(KINDS),
    ball=st.sampled_from(BALLS),
    epsilon=st.floats(1e-3, 2.0),
    rows=st.integers(1, 9),
    seed=st.integers(0, 2**31),
    bounded=st.booleans(),
)
def test_perturbed_observations_lie_in_ball_and_bounds(
    pair, policy_of, observations_of, samples_of, inside, kind, ball, epsilon, rows, seed, bounded
):
    policy, clean = policy_of(kind), observations_of(rows, seed)
    bounds = observation_bounds(spaces.Box(-1.0, 1.0, (4,))) if bounded else None
    perturbed = seeded(pair, ball, seed).perturb(policy, clean, epsilon, samples_of(policy, clean), bounds)
    assert perturbed.shape == clean.shape
    assert perturbed.dtype == clean.dtype
    assert not perturbed.requires_grad
    assert inside(perturbed, clean, epsilon, ball)
    assert not bounded or (perturbed.abs() <= 1).all()
    frozen = th.as_tensor(ball.scale == 0).expand(4)
    assert th.equal(perturbed[:, frozen], clean[:, frozen])


def test_every_feature_uses_its_radius_against_the_critic(policy_of, observations):
    policy = policy_of("box")
    perturbed = seeded((Value(), PGD())).perturb(policy, observations, 0.01)
    th.testing.assert_close((perturbed - observations).abs(), th.full((8, 4), 0.01), rtol=1e-4, atol=0)
    assert (policy.predict_values(perturbed) < policy.predict_values(observations)).all()


@each_pair
def test_at_strength_zero_the_very_observations_come_back(pair, policy_of, observations):
    assert seeded(pair).perturb(policy_of("box"), observations, 0) is observations


def test_an_objective_that_needs_samples_says_so(policy_of, observations):
    with pytest.raises(ValueError, match="needs the actions and advantages"):
        seeded((Surrogate(), SGLD())).perturb(policy_of("box"), observations, 0.1)


# The policy stays as it was


@each_pair
def test_no_gradient_is_left_in_the_policy_and_none_of_it_moves(pair, policy, observations_of, samples_of):
    clean = observations_of(8)
    before = copy.deepcopy(policy.state_dict())
    seeded(pair).perturb(policy, clean, 0.1, samples_of(policy, clean))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in policy.parameters())
    assert all(th.equal(before[name], value) for name, value in policy.state_dict().items())


@each_pair
def test_it_works_where_gradients_are_switched_off(pair, policy, observations_of, samples_of):
    clean = observations_of(8)
    samples = samples_of(policy, clean)
    usual = seeded(pair).perturb(policy, clean, 0.1, samples)
    with th.no_grad():
        assert th.equal(seeded(pair).perturb(policy, clean, 0.1, samples), usual)
        assert not th.is_grad_enabled()


@each_pair
@pytest.mark.parametrize("ball", [LinfBall(), L2Ball([1.0, 0.0, 2.0, 1.0])], ids=["linf", "l2"])
def test_a_search_tells_what_was_added(pair, ball, policy, observations_of, samples_of):
    """Within the bounds, and in total at most ε; ``perturb`` returns the same observations."""
    clean, bounds = observations_of(8), observation_bounds(spaces.Box(-1.0, 1.0, (4,)))
    asked = policy, clean, 0.3, samples_of(policy, clean), bounds
    found = seeded(pair, ball).search(*asked)
    assert th.equal(found.observations, seeded(pair, ball).perturb(*asked))
    assert th.equal(found.delta, found.observations - clean)
    radius = seeded(pair, ball).radius(clean, found.delta)
    assert 0 < radius.max() <= 0.3 * (1 + 1e-4)
    nothing = seeded(pair, ball).search(policy, clean, 0.0)
    assert nothing.observations is clean
    assert th.equal(nothing.delta, th.zeros(8, 4))


def test_adversaries_that_share_their_draws(policy):
    """Two that draw in turns draw what one would."""
    clean, draws = th.zeros(3, 4), Draws(7)
    turns = [Adversary(None, Uniform(), draws=draws).perturb(policy, clean, 0.1) for _ in range(2)]
    alone = Adversary(None, Uniform(), draws=Draws(7))
    assert all(th.equal(turn, alone.perturb(policy, clean, 0.1)) for turn in turns)
    assert not th.equal(*turns)


def examine(adversary, how, policy, clean, samples):
    if how == "perturb":
        adversary.perturb(policy, clean, 0.1, samples)
    else:
        adversary.gain(policy, clean, clean + 0.1, samples)


@pytest.mark.parametrize("how", ["perturb", "gain"])
@pytest.mark.parametrize("training", [True, False])
@each_pair
def test_batch_norm_dropout_and_the_global_generator_are_untouched(
    pair, training, how, noisy_policy, observations, samples_of
):
    samples = samples_of(noisy_policy, observations)
    noisy_policy.set_training_mode(training)
    before, generator = copy.deepcopy(noisy_policy.state_dict()), th.get_rng_state()
    examine(seeded(pair), how, noisy_policy, observations, samples)
    assert all(th.equal(before[name], value) for name, value in noisy_policy.state_dict().items())
    assert th.equal(th.get_rng_state(), generator)
    assert all(module.training == training for module in noisy_policy.modules())


@pytest.mark.parametrize("how", ["perturb", "gain"])
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back_when_the_objective_fails(how, training, noisy_policy, observations):
    class Broken(Value):
        def prepare(self, policy, observations, samples=None):
            assert not policy.training
            raise ZeroDivisionError("broken")

    noisy_policy.set_training_mode(training)
    with pytest.raises(ZeroDivisionError, match="broken"):
        examine(seeded((Broken(), SGLD())), how, noisy_policy, observations, None)
    assert noisy_policy.training == training


# Pairing


@pytest.mark.parametrize("solver", [PGD(start_radius=0), PGD(start_radius=0, restarts=3)], ids=repr)
def test_a_search_that_starts_where_the_gradient_is_zero_is_refused(solver):
    with pytest.raises(ValueError, match=r"has no gradient at the clean observation, where .* starts"):
        Adversary(KL(), solver)
    Adversary(Value(), solver)  # others have one there


def test_uniform_with_an_objective_is_refused():
    with pytest.raises(ValueError, match=r"The solver Uniform\(\) takes no objective, but objective=KL\(\)"):
        Adversary(KL(), Uniform())


@pytest.mark.parametrize("solver", [PGD(), SGLD()], ids=repr)
def test_a_climber_without_an_objective_is_refused(solver):
    with pytest.raises(ValueError, match="needs an objective to raise, but objective=None"):
        Adversary(None, solver)


def test_the_box_is_the_default_ball_and_repr_tells_all_parts():
    assert repr(Adversary(KL(), SGLD())) == "Adversary(KL(), SGLD(n_steps=10, beta=1e-05), LinfBall(scale=1.0))"


# Randomness


@each_pair
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))], ids=["deepcopy", "pickle"])
def test_a_copy_begins_again_from_the_seed(pair, twin, policy_of, observations, samples_of):
    policy = policy_of("box")
    samples = samples_of(policy, observations)
    adversary = seeded(pair, L2Ball([1.0, 0.5, 0.0, 2.0]), seed=3)
    first = adversary.perturb(policy, observations, 0.1, samples)
    assert th.equal(twin(adversary).perturb(policy, observations, 0.1, samples), first)


@pytest.mark.parametrize("solver", [PGD(), SGLD()], ids=repr)
def test_the_generator_goes_on_and_seed_takes_it_back(solver, policy_of, observations):
    policy, adversary = policy_of("discrete"), seeded((KL(), solver))
    first, second = (adversary.perturb(policy, observations, 0.1) for _ in range(2))
    assert not th.equal(first, second)
    adversary.seed(0)
    assert th.equal(adversary.perturb(policy, observations, 0.1), first)


def test_without_a_seed_two_adversaries_differ(policy_of, observations):
    policy = policy_of("box")
    first, second = (Adversary(None, Uniform()).perturb(policy, observations, 0.1) for _ in range(2))
    assert not th.equal(first, second)


# Gain


def test_the_gain_of_kl_is_the_kl_and_grows_with_the_square_of_the_radius(policy, observations_of):
    clean = observations_of(64)
    adversary = seeded((KL(), SGLD()))
    small, large = (adversary.perturb(policy, clean, epsilon) for epsilon in (0.02, 0.04))
    gain = adversary.gain(policy, clean, small)
    assert gain.shape == (64,)
    assert (gain >= -1e-6).all()
    with th.no_grad():
        th.testing.assert_close(gain, KL().prepare(policy, clean)(small), atol=1e-6, rtol=1e-3)
    assert adversary.gain(policy, clean, large).mean() / gain.mean() == pytest.approx(4, rel=0.25)


def test_sgld_finds_more_kl_than_chance(policy, observations_of):
    clean = observations_of(64)
    climber, chance = seeded((KL(), SGLD())), seeded((None, Uniform()))
    found, drawn = (adversary.perturb(policy, clean, 0.1) for adversary in (climber, chance))
    assert climber.gain(policy, clean, found).mean() > 2 * climber.gain(policy, clean, drawn).mean()


def test_the_gain_without_an_objective_is_zero(policy_of, observations):
    assert th.equal(seeded((None, Uniform())).gain(policy_of("box"), observations, observations + 1), th.zeros(8))


# Bounds


def test_bounds_are_those_of_the_space():
    bounds = observation_bounds(spaces.Box(np.float32([-1, -np.inf]), np.float32([2, 3])))
    th.testing.assert_close(bounds.low, th.tensor([-1.0, -th.inf]))
    th.testing.assert_close(bounds.high, th.tensor([2.0, 3.0]))


def test_a_space_without_limits_has_no_bounds():
    assert observation_bounds(spaces.Box(-np.inf, np.inf, (3,))) is None


def test_bounds_are_in_units_of_what_the_policy_sees():
    space = spaces.Box(np.float32([-1, -np.inf]), np.float32([2, np.inf]))
    bounds = observation_bounds(space, normalize=lambda raw: np.clip((raw - 1) / 2, -10, 10))
    th.testing.assert_close(bounds.low, th.tensor([-1.0, -th.inf]))  # no limit stays none, whatever is clipped
    th.testing.assert_close(bounds.high, th.tensor([0.5, th.inf]))


def test_clipping_keeps_a_clean_observation_that_lies_outside():
    bounds = Bounds(th.full((3,), -1.0), th.full((3,), 1.0))
    clean = th.tensor([[0.9, -3.0, 3.0]])
    out, back = bounds.clip(clean + th.tensor([[0.5, -0.5, 0.5]]), clean), bounds.clip(clean * 0.9, clean)
    th.testing.assert_close(out, th.tensor([[1.0, -3.0, 3.0]]))
    th.testing.assert_close(back, clean * 0.9)


@given(seed=st.integers(0, 2**31), spread=st.floats(0.1, 10))
def test_clipping_never_leads_further_from_the_clean_observation(seed, spread):
    clean, perturbed = spread * th.randn((2, 16, 3), generator=th.Generator().manual_seed(seed))
    clipped = Bounds(th.full((3,), -1.0), th.full((3,), 1.0)).clip(perturbed, clean)
    assert ((clipped - clean).abs() <= (perturbed - clean).abs()).all()
    assert ((clipped.abs() <= 1) | (clean.abs() > 1)).all()


def test_bounds_of_a_double_precision_space_keep_the_type_of_the_observations():
    bounds = observation_bounds(spaces.Box(-1.0, 1.0, (3,), dtype=np.float64))
    clipped = bounds.clip(th.full((2, 3), 5.0), th.zeros(2, 3))
    th.testing.assert_close(clipped, th.ones(2, 3))


# Spaces


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_floating_box_is_given_back(dtype):
    space = spaces.Box(-1.0, 1.0, (2, 3), dtype=dtype)
    assert check_observation_space(space) is space


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiBinary(3),
        spaces.Dict({"mode": spaces.Discrete(3)}),
    ],
    ids=repr,
)
def test_other_spaces_are_refused(space):
    with pytest.raises(TypeError, match="no neighbours at a small distance"):
        check_observation_space(space)
