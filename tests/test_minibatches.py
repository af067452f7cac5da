"""What an update does faster at strength above 0 changes its rounding and nothing else."""

import copy
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import TINY, General, learn, make_envs, same, spy, weights
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_barpo import ARPO, BARPO
from sb3_barpo.adversary import KL, PGD, SGLD, Adversary, LinfBall, Perturbation, Uniform, WarmStart
from sb3_barpo.policies.evaluate import evaluate_actions
from sb3_barpo.training.minibatches import LastVisits
from sb3_barpo.training.optim import fused, has_fused

SPACES = pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
BOTH = pytest.mark.parametrize("algorithm", [ARPO, BARPO])


def make_policy(kind: type[ActorCriticPolicy], action_space: spaces.Space[Any], **kwargs: Any) -> ActorCriticPolicy:
    th.manual_seed(0)
    policy = kind(spaces.Box(-np.inf, np.inf, (5,), np.float64), action_space, lambda _: 1e-3, **kwargs)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * th.randn_like(parameter))
    return policy


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("action_space", [spaces.Box(-1, 1, (3,)), spaces.Discrete(4)], ids=["Box", "Discrete"])
def test_one_pass_says_what_two_calls_say(action_space: spaces.Space[Any], activation: type[nn.Module]) -> None:
    observations = th.randn(16, 5, dtype=th.float64)
    perturbed = observations + 0.1
    seen = []
    for kind in (ActorCriticPolicy, General):
        policy = make_policy(kind, action_space, activation_fn=activation, log_std_init=-0.7)
        th.manual_seed(1)
        actions = policy.get_distribution(observations).sample().detach()
        values, log_prob, entropy = evaluate_actions(policy, observations, perturbed, actions)
        assert log_prob.shape == (2, 16)
        assert entropy is not None
        loss = (log_prob * th.tensor([[1.0], [3.0]])).mean() + 0.1 * entropy.mean() + values.square().mean()
        gradients = th.autograd.grad(loss, list(policy.parameters()))
        seen.append((values, log_prob, entropy.mean(), gradients))
    assert not th.equal(seen[0][1][0], seen[0][1][1])
    th.testing.assert_close(*seen, rtol=1e-4, atol=1e-5)


def update(algorithm: type[PPO], env_id: str, policy: Any, **optimizer: Any) -> PPO:
    """One whole update of ten epochs, from one and the same rollout, against one and the same noise."""
    settings = {**TINY, "n_steps": 128, "batch_size": 32, "n_epochs": 10}
    adversary = Adversary(None, Uniform())  # a search could tip to another corner on rounding
    settings["policy_kwargs"] = {"optimizer_kwargs": {"eps": 1e-5, **optimizer}}
    model = algorithm(policy, make_envs(env_id), epsilon=0.1, adversary=adversary, **settings)
    learn(model, 128)
    return model


@BOTH
@SPACES
def test_a_whole_update_ends_where_the_slow_one_ends(algorithm: type[PPO], env_id: str) -> None:
    fast = weights(update(algorithm, env_id, ActorCriticPolicy))
    slow = weights(update(algorithm, env_id, General, foreach=True))  # an implementation that is chosen stays
    start = weights(algorithm(General, make_envs(env_id), **TINY))
    moved = max((slow[name] - start[name]).abs().max() for name in slow)
    apart = max((slow[name] - fast[name]).abs().max() for name in slow)
    assert moved > 3e-3
    assert apart < 1e-3 * moved


@BOTH
def test_an_update_leaves_the_optimiser_as_ppo_has_it(algorithm: type[PPO]) -> None:
    robust = algorithm("MlpPolicy", make_envs(), epsilon=0.1, **TINY)
    ppo = PPO("MlpPolicy", make_envs(), **TINY)
    for model in (robust, ppo):
        learn(model, 64)
    state, ppo_state = robust.policy.optimizer.state_dict(), ppo.policy.optimizer.state_dict()
    assert state["param_groups"] == ppo_state["param_groups"]
    shapes = [
        {i: {k: (v.shape, v.dtype) for k, v in s.items()} for i, s in got["state"].items()}
        for got in (state, ppo_state)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "kwargs", [{"foreach": True}, {"fused": False}, {"fused": True}, {"capturable": True}], ids=str
)
def test_an_implementation_that_the_user_chose_stays(kwargs: dict[str, bool]) -> None:
    if kwargs == {"fused": True} and not has_fused():
        pytest.skip("this PyTorch has no fused Adam on CPUs")
    optimizer = th.optim.Adam([nn.Parameter(th.zeros(2))], **kwargs)
    before = dict(optimizer.param_groups[0])
    with fused(optimizer):
        assert optimizer.param_groups[0] == before


def test_adam_is_fused_for_a_while() -> None:
    optimizer = th.optim.Adam([nn.Parameter(th.zeros(2))])
    with fused(optimizer):
        assert optimizer.param_groups[0]["fused"] is (True if has_fused() else None)
    assert optimizer.param_groups[0]["fused"] is None


def test_a_pytorch_without_a_fused_adam_on_cpus_takes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As 2.3, whose Adam refuses parameters on a CPU."""
    own = th.optim.Adam.__init__

    def refuses(self: th.optim.Adam, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("fused"):
            raise RuntimeError("`fused=True` requires all the params to be floating point Tensors of supported devices")
        own(self, *args, **kwargs)

    monkeypatch.setattr(th.optim.Adam, "__init__", refuses)
    has_fused.cache_clear()
    try:
        parameter = nn.Parameter(th.zeros(2))
        optimizer = th.optim.Adam([parameter])
        parameter.grad = th.ones(2)
        with fused(optimizer):
            assert optimizer.param_groups[0]["fused"] is None
            optimizer.step()
        assert (parameter < 0).all()
    finally:
        has_fused.cache_clear()


def test_other_optimisers_are_left_alone() -> None:
    optimizer = th.optim.SGD([nn.Parameter(th.zeros(2))], fused=None)
    with fused(optimizer):
        assert optimizer.param_groups[0]["fused"] is None


# The warm start


def warm(later: SGLD | PGD | None = None) -> Adversary:
    return Adversary(KL(), WarmStart(SGLD(3), SGLD(1) if later is None else later))


@SPACES
@pytest.mark.parametrize("batch_size", [16, 12])
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_each_search_starts_where_the_last_one_of_its_samples_ended(env_id: str, batch_size: int) -> None:
    settings = {**TINY, "batch_size": batch_size, "n_epochs": 3}
    model = BARPO("MlpPolicy", make_envs(env_id, 2), epsilon=0.1, adversary=warm(), **settings)
    starts: list[th.Tensor | None] = []
    search = model._adversary.search

    def listen(*args: Any) -> Perturbation:
        starts.append(args[5])
        return search(*args)

    model._adversary.search = listen
    calls = spy(model)
    model.learn(64)
    visits = -(-64 // batch_size)
    assert len(calls) == 3 * visits
    ended: dict[bytes, th.Tensor] = {}
    for i, (call, start) in enumerate(zip(calls, starts, strict=True)):
        assert (start is None) == (i < visits)
        for row, (observation, perturbed) in enumerate(zip(call.observations, call.perturbed, strict=True)):
            key = observation.numpy().tobytes()
            if start is not None:
                assert th.equal(start[row], ended[key])
            ended[key] = (perturbed - observation).float()
    assert len(ended) == 64
    assert max(delta.abs().max() for delta in ended.values()) > 0.05


class Backwards(RolloutBuffer):
    """Shuffles in a way of its own."""

    def get(self, batch_size: int | None = None) -> Any:
        yield from [*super().get(batch_size)][::-1]


@pytest.mark.parametrize("buffer_class", [RolloutBuffer, Backwards])
def test_minibatches_stay_those_of_the_buffer(buffer_class: Any) -> None:
    fresh = buffer_class(16, spaces.Box(-1, 1, (3,)), spaces.Discrete(4), n_envs=2)
    rng = np.random.default_rng(0)
    for _ in range(16):
        rows = rng.random((2, 3)), rng.integers(4, size=(2, 1)), rng.random(2), np.zeros(2)
        fresh.add(*rows, th.rand(2), th.rand(2))
    seen, values = [], []
    for buffer in (fresh, copy.deepcopy(fresh)):
        np.random.seed(0)
        get = buffer.get if buffer is fresh else LastVisits(buffer).get
        for _ in range(2):
            seen.append([[column.tolist() for column in batch] for batch in get(12)])
        seen.append(np.random.random())
        values.append(buffer.values)
    assert seen[:3] == seen[3:]
    assert seen[0] != seen[1]
    assert np.array_equal(*values)
    assert values[0].dtype == values[1].dtype


def test_an_early_stop_leaves_the_buffer_as_it_was() -> None:
    model = BARPO("MlpPolicy", make_envs(), epsilon=0.1, adversary=warm(), target_kl=1e-9, **TINY)
    model.learn(32)
    buffer = model.rollout_buffer
    assert model._n_updates == 1
    np.testing.assert_allclose(buffer.values + buffer.advantages, buffer.returns, rtol=1e-5)


@BOTH
def test_training_with_a_warm_start_is_repeatable(algorithm: type[PPO]) -> None:
    runs = [
        weights(learn_and_keep(algorithm("MlpPolicy", make_envs(), epsilon=0.1, adversary=warm(), **TINY)))
        for _ in range(2)
    ]
    cold = Adversary(KL(), SGLD(3))
    assert same(*runs)
    other = learn_and_keep(algorithm("MlpPolicy", make_envs(), epsilon=0.1, adversary=cold, **TINY))
    assert not same(runs[0], weights(other))


def learn_and_keep(model: PPO) -> PPO:
    model.learn(64)
    return model


def linear(perturbed: th.Tensor) -> th.Tensor:
    return (perturbed * th.tensor([1.0, -2.0, 0.5])).sum(1)


def solve(solver: Any, start: th.Tensor | None = None) -> th.Tensor:
    found: th.Tensor = solver.solve(linear, th.zeros(8, 3), LinfBall(), 0.3, th.Generator().manual_seed(0), start)
    return found


def test_a_warm_start_is_its_first_solver_and_then_its_second() -> None:
    solver = WarmStart(SGLD(4), PGD(2, step_size=0.5))
    assert th.equal(solve(solver), solve(SGLD(4)))
    start = th.full((8, 3), 0.1)
    assert th.equal(solve(solver, start), solve(PGD(2, step_size=0.5), start))
    assert not th.equal(solve(solver, start), solve(solver))
    th.testing.assert_close(start, th.full((8, 3), 0.1))


@pytest.mark.parametrize("wrong", [Uniform(), WarmStart()], ids=repr)
@pytest.mark.parametrize("place", ["first", "later"])
def test_a_warm_start_needs_searches(place: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"WarmStart's {place} is .*; take SGLD or PGD\."):
        WarmStart(**{place: wrong})


def test_a_warm_start_at_the_clean_observation_does_not_suit_the_kl() -> None:
    with pytest.raises(ValueError, match=r"has no gradient at the clean observation"):
        Adversary(KL(), WarmStart(first=PGD(start_radius=0)))


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("adversary", [None, warm()], ids=["cold", "warm"])
def test_training_on_a_gpu(adversary: Adversary | None) -> None:
    model = BARPO("MlpPolicy", make_envs(), epsilon=0.1, adversary=adversary, **{**TINY, "device": "cuda"})
    before, calls = weights(model), spy(model)
    book = learn(model, 64)
    assert not same(before, weights(model))
    for call in calls:
        assert call.perturbed.device.type == "cuda"
        assert 0 < (call.perturbed - call.observations).abs().max() <= 0.1 * (1 + 1e-4)
    assert np.isfinite(book.column("adversary/gain")).all()
