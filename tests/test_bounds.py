"""Bounds of networks over boxes: sound, nested, exact where they must be, and as tight as is said."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make_envs
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_barpo.adversary import L2Ball, LinfBall, observation_bounds
from sb3_barpo.certify import OutputBounds, actor_bounds, box_around, crown, enclose, intervals
from sb3_barpo.certify.relaxations import relax
from sb3_barpo.policies import mlp

ACTIVATIONS = pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU], ids=["tanh", "relu"])


def network(activation: type[nn.Module], sizes: tuple[int, ...] = (3, 16, 12, 2), seed: int = 0) -> list[nn.Module]:
    """Weights of all sizes, so that units saturate, cross zero, and stay linear."""
    with th.random.fork_rng(devices=[]):
        th.manual_seed(seed)
        modules: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            modules += [nn.Linear(n_in, n_out), activation()]
        for module in modules[::2]:
            nn.init.normal_(module.weight, std=float(np.exp(seed % 5 - 2)))
    return modules[:-1]


def boxes(n: int, seed: int, width: float) -> OutputBounds:
    draw = th.Generator().manual_seed(seed)
    centre, reach = 2 * th.randn(n, 3, generator=draw), width * th.rand(n, 3, generator=draw)
    return OutputBounds(centre - reach, centre + reach)


def inside(modules: list[nn.Module], box: OutputBounds, tries: int) -> th.Tensor:
    """Outputs at random points and at corners of the boxes, shape ``(tries, B, out)``."""
    draw = th.Generator().manual_seed(1)
    places = th.rand(tries, *box.low.shape, generator=draw)
    places[: tries // 2] = places[: tries // 2].round()
    return nn.Sequential(*modules)(box.low + places * (box.high - box.low))


@ACTIVATIONS
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("width", [1e-6, 1e-3, 0.1, 3.0])
def test_sound_and_nested(activation: type[nn.Module], seed: int, width: float) -> None:
    """300 boxes each, 64 points in each: nothing leaves CROWN's bounds, and those never leave the intervals'."""
    modules, box = network(activation, seed=seed), boxes(300, seed, width)
    outputs = inside(modules, box, 64)
    slack = 2e-5 * (1 + outputs.abs().amax())
    tight, loose = crown(modules, box), intervals(modules, box)
    for bounds in (tight, loose, enclose(modules, box, 0.3)):
        assert (bounds.low <= outputs + slack).all()
        assert (outputs <= bounds.high + slack).all()
    assert (tight.low >= loose.low - slack).all()
    assert (tight.high <= loose.high + slack).all()


@ACTIVATIONS
def test_a_search_stays_inside(activation: type[nn.Module]) -> None:
    """Gradient ascent from 200 starts finds no more than the bound, and comes near it in a small box."""
    modules, box = network(activation, seed=2), boxes(200, 0, 0.02)
    bounds = crown(modules, box)
    point = (box.low + box.high) / 2
    for _ in range(40):
        point = point.detach().requires_grad_()
        (gradient,) = th.autograd.grad(nn.Sequential(*modules)(point)[:, 0].sum(), point)
        point = th.minimum(th.maximum(point + 0.002 * gradient.sign(), box.low), box.high)
    found = nn.Sequential(*modules)(point)[:, 0]
    assert (found <= bounds.high[:, 0] + 1e-5).all()
    reach = (bounds.high - bounds.low)[:, 0]
    assert ((bounds.high[:, 0] - found) / reach).median() < 0.05


@pytest.mark.parametrize("seed", range(5))
def test_lines_around_activations(seed: int) -> None:
    """2000 intervals of all widths, 50 points in each."""
    draw = th.Generator().manual_seed(seed)
    low = 4 * th.randn(2000, 1, generator=draw, dtype=th.float64)
    high = low + 10 ** (6 * th.rand(2000, 1, generator=draw, dtype=th.float64) - 5)
    x = low + (high - low) * th.linspace(0, 1, 50, dtype=th.float64)
    for activation in (nn.Tanh(), nn.ReLU()):
        lines = relax(activation, low, high)
        assert (lines.lower * x + lines.lower_bias <= activation(x) + 1e-12).all()
        assert (lines.upper * x + lines.upper_bias >= activation(x) - 1e-12).all()
        narrow = (high - low < 0.1).squeeze(1)
        gap = (lines.upper - lines.lower) * x + lines.upper_bias - lines.lower_bias
        assert (gap[narrow].amax(1) <= 0.5 * (high - low)[narrow, 0]).all()


@ACTIVATIONS
def test_a_point_is_a_point(activation: type[nn.Module]) -> None:
    modules, box = network(activation), boxes(50, 0, 0.0)
    output = nn.Sequential(*modules)(box.low)
    for bounds in (crown(modules, box), intervals(modules, box)):
        th.testing.assert_close(bounds, OutputBounds(output, output), rtol=1e-4, atol=1e-5)


def test_one_layer_is_exact() -> None:
    """``w · x + b`` over a box: the sign of each weight tells the corner."""
    modules, box = network(nn.Tanh, (3, 2)), boxes(20, 0, 1.0)
    weight, bias = modules[0].weight, modules[0].bias
    high = th.where(weight > 0, weight * box.high[:, None], weight * box.low[:, None]).sum(2) + bias
    low = th.where(weight > 0, weight * box.low[:, None], weight * box.high[:, None]).sum(2) + bias
    for bounds in (crown(modules, box), intervals(modules, box)):
        th.testing.assert_close(bounds, OutputBounds(low, high))


def test_where_crown_is_exact_and_intervals_are_not() -> None:
    """``relu(x) - relu(x)`` and, above 0, ``relu(x) + x``: intervals forget that both are the same x."""
    first, second = nn.Linear(1, 2), nn.Linear(2, 1)
    with th.no_grad():
        first.weight.fill_(1.0)
        first.bias.zero_()
        second.weight.copy_(th.tensor([[1.0, -1.0]]))
        second.bias.fill_(0.5)
    modules, box = [first, nn.ReLU(), second], OutputBounds(th.tensor([[1.0]]), th.tensor([[3.0]]))
    assert [end.item() for end in crown(modules, box)] == [0.5, 0.5]
    assert [end.item() for end in intervals(modules, box)] == [-1.5, 2.5]


@ACTIVATIONS
def test_gradients_reach_all_weights(activation: type[nn.Module]) -> None:
    """And agree with differences, where no bound stands at a kink."""
    modules = [module.double() for module in network(activation, seed=1)]
    box = OutputBounds(*(end.double() for end in boxes(20, 0, 0.05)))
    parameters = [p for module in modules for p in module.parameters()]

    def mean_width() -> th.Tensor:
        bounds = crown(modules, box)
        return (bounds.high - bounds.low).mean()

    gradients = th.autograd.grad(mean_width(), parameters, allow_unused=True, materialize_grads=True)
    step = 1e-6
    with th.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter += step * gradient
        up = mean_width()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= 2 * step * gradient
        down = mean_width()
    slope = sum(gradient.square().sum() for gradient in gradients)
    assert ((up - down) / (2 * step)).item() == pytest.approx(slope.item(), rel=0.02)


def test_mixtures() -> None:
    modules, box = network(nn.Tanh), boxes(20, 0, 0.5)
    tight, loose = crown(modules, box), intervals(modules, box)
    th.testing.assert_close(enclose(modules, box, 1.0), loose)
    th.testing.assert_close(enclose(modules, box, 0.0), tight)
    th.testing.assert_close(enclose(modules, box, 0.25).high, 0.25 * loose.high + 0.75 * tight.high)


def test_as_tight_as_is_said() -> None:
    """An untrained 64-64 tanh actor in PyTorch's own initialisation, 11 features, three actions, ε = 0.075."""
    th.manual_seed(0)
    space = spaces.Box(-10, 10, (11,))
    policy = ActorCriticPolicy(space, spaces.Box(-1, 1, (3,)), lambda _: 3e-4, ortho_init=False)
    modules = mlp.modules(policy, "actor")
    box = box_around(th.randn(256, 11), 0.075)
    loose, tight = ((b.high - b.low).mean().item() for b in (intervals(modules, box), crown(modules, box)))
    assert 2 < loose < 3.5
    assert tight < 0.08
    corners = box.low + (box.high - box.low) * th.rand(200, 256, 11).round()
    seen = nn.Sequential(*modules)(corners)
    assert tight < 2 * (seen.amax(0) - seen.amin(0)).mean()


def test_boxes_around_observations() -> None:
    space = spaces.Box(np.float32([-1, -np.inf, -1]), np.float32([1, np.inf, 1]))
    seen = th.tensor([[0.95, 5.0, 1.5]])
    limits = observation_bounds(space)
    box = box_around(seen, 0.1, LinfBall([1, 2, 0]), limits)
    th.testing.assert_close(box.low, th.tensor([[0.85, 4.8, 1.5]]))
    th.testing.assert_close(box.high, th.tensor([[1.0, 5.2, 1.5]]))
    th.testing.assert_close(box_around(seen, 0.1, L2Ball()), box_around(seen, 0.1))


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_actors(env_id: str) -> None:
    model = PPO("MlpPolicy", make_envs(env_id), device="cpu", seed=0)
    seen = th.as_tensor(model.env.reset())
    box = box_around(seen, 0.2)
    bounds = actor_bounds(model.policy, box, share=0.5)
    with th.no_grad():
        output = model.policy.action_net(model.policy.mlp_extractor.forward_actor(seen))
    assert (bounds.low < output).all()
    assert (output < bounds.high).all()
    assert bounds.low.requires_grad


@pytest.mark.parametrize("others", [{"use_sde": True}, {"policy_kwargs": {"activation_fn": nn.GELU}}], ids=str)
def test_other_policies_are_refused(others: dict[str, Any]) -> None:
    model = PPO("MlpPolicy", make_envs(), device="cpu", **others)
    with pytest.raises(TypeError, match="Bounds are computed for SB3's MLP policies"):
        actor_bounds(model.policy, box_around(th.zeros(1, 3), 0.1))
