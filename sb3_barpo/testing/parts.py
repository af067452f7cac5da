"""The contracts of the adversary's parts: objectives, balls, solvers."""

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_barpo.adversary import KL, Ball, LinfBall, Objective, Samples, Solver
from sb3_barpo.adversary.goals import ClosedForm, Goal
from sb3_barpo.testing.contract import (
    TOLERANCE,
    alike,
    demand,
    demand_independent_rows,
    demand_rows,
    pickled,
    untouched,
)
from sb3_barpo.testing.scene import FEATURES, example_observations, example_policy, example_samples

_EPSILON = 0.2


def check_objective(
    objective: Objective,
    policy: ActorCriticPolicy | None = None,
    observations: th.Tensor | None = None,
    samples: Samples | None = None,
) -> None:
    """
    The contract of an objective. Its goal returns one finite value per row, which depends on that row alone and is the
    same each time; it has a gradient with respect to the perturbed observations, and none left in the policy; a
    gradient or a gain that it states itself is that of the goal; it says so where the gradient vanishes at the clean
    observation; it draws from no global generator, leaves the policy and its arguments as they were, and survives
    pickling.

    :param objective: The objective.
    :param policy: A policy that it works on; :func:`example_policy` by default.
    :param observations: Clean observations of the policy, shape ``(B, *obs)``; eight of :func:`example_observations` by
        default.
    :param samples: The minibatch; that of :func:`example_samples` by default.
    :raises ContractError: at the first promise that is broken.
    """
    policy = example_policy() if policy is None else policy
    clean = example_observations() if observations is None else observations
    batch = example_samples(policy, clean) if samples is None else samples
    noise = th.rand(clean.shape, generator=th.Generator().manual_seed(1))
    perturbed = clean + _EPSILON * (2 * noise - 1)

    with untouched(objective, policy, observations=clean, perturbed=perturbed):
        goal = objective.prepare(policy, clean, batch)
        values = goal(perturbed)
        slope = _slope(objective, goal, perturbed)
    demand_rows(objective, "its goal's value", values, (len(clean),))
    demand(alike(values, goal(perturbed)), objective, "its goal must return the same value each time it is asked.")
    demand_independent_rows(objective, "the goal's value", goal, perturbed)
    prepared = lambda rows: objective.prepare(policy, rows, batch)(perturbed)  # noqa: E731
    demand_independent_rows(objective, "the goal's value, at given clean observations,", prepared, clean)
    demand(
        bool(slope.any()),
        objective,
        "its goal must change with the perturbed observations, but its gradient is 0 in every row. Compute it from its "
        "argument, without detach() or no_grad().",
    )
    if isinstance(goal, ClosedForm):
        demand(
            alike(goal.gradient(perturbed), slope),
            objective,
            "the gradient that its closed form states must be that of the goal, but automatic differentiation gives "
            "another one.",
        )
    if not objective.stationary_at_clean:
        demand(
            bool((_slope(objective, goal, clean).abs() > TOLERANCE * slope.abs().max()).any()),
            objective,
            "its gradient is 0 at the clean observation, where some solvers start. Set stationary_at_clean = True.",
        )
    with th.no_grad():
        rows = [policy.get_distribution(seen).log_prob(batch.actions) for seen in (clean, perturbed)]
        kl = KL().prepare(policy, clean)(perturbed)
        gain = objective.gain(th.stack(rows), kl, batch)
        demand(
            gain is None or alike(gain, goal(perturbed) - goal(clean)),
            objective,
            "its gain must be the goal at the perturbed minus the goal at the clean observations, or None.",
        )
    demand(
        alike(pickled(objective).prepare(policy, clean, batch)(perturbed), values),
        objective,
        "after pickling, its goal must have the same values.",
    )


def _slope(objective: Objective, goal: Goal, perturbed: th.Tensor) -> th.Tensor:
    at = perturbed.clone().requires_grad_()
    value = goal(at)
    demand(
        value.requires_grad,
        objective,
        "its goal must be differentiable with respect to the perturbed observations. Compute it from its argument, "
        "without detach() or no_grad().",
    )
    (slope,) = th.autograd.grad(value.sum(), at)
    demand(bool(slope.isfinite().all()), objective, "the gradient of its goal must be finite.")
    return slope


def check_ball(ball: Ball, shape: tuple[int, ...] = (FEATURES,)) -> None:
    """
    The contract of a ball. Its norm is one, and works row by row; what it projects, draws or steps to lies inside, and
    points inside stay where they are; no point of the ball goes further along a gradient than its steepest; features of
    scale 0 never move; draws come from the generator that is given; whole numbers are whole and inside; it survives
    pickling, and its own description.

    :param ball: The ball. One with scales by key is tried as it joins its keys.
    :param shape: Shape of an observation, for a ball whose scale is a number.
    :raises ContractError: at the first promise that is broken.
    """
    written = type(ball)(ball.plain_scale())
    if ball.scales is not None:
        shapes = {key: scale.shape or (2,) for key, scale in ball.scales.items() if np.any(scale > 0)}
        ball, written = (some.joined(shapes, dict.fromkeys(shapes, 1.0)) for some in (ball, written))
    rows = (64, *(ball.scale.shape or shape))
    generator = th.Generator().manual_seed(0)
    wide = 3 * th.randn(rows, generator=generator)
    gradient = th.randn(rows, generator=generator)
    still = th.as_tensor(np.broadcast_to(ball.scale == 0, rows).copy())

    demand_rows(ball, "its norm", ball.norm(wide), rows[:1])
    moving = wide.masked_fill(still, 0.0)
    demand(alike(ball.norm(2 * moving), 2 * ball.norm(moving)), ball, "the norm of twice a vector is twice its norm.")
    demand(not ball.norm(0 * wide).any(), ball, "the norm of no perturbation is 0.")
    demand(alike(written.norm(wide), ball.norm(wide)), ball, "its constructor must take what plain_scale() returns.")

    with untouched(ball, delta=wide, gradient=gradient):
        drawn = ball.sample(wide, generator)
        made = {
            "project": (ball.project(wide, _EPSILON), _EPSILON),
            "sample": (drawn, 1.0),
            "steepest": (ball.steepest(gradient), 1.0),
            "step": (ball.step(_EPSILON * drawn, gradient, _EPSILON, _EPSILON), _EPSILON),
            "within": (ball.within(wide, _EPSILON), _EPSILON),
            "whole": (th.as_tensor(ball.whole(5 * drawn.numpy(), 5.0)), 5.0),
        }
    for name, (points, radius) in made.items():
        demand_rows(ball, f"what {name} returns", points, rows)
        demand(
            _inside(ball, points, radius), ball, f"what {name} returns must lie in the ball, but some of it does not."
        )
        demand(not points[still].any(), ball, f"features of scale 0 must stay clean, but {name} moves them.")
    whole = made["whole"][0]
    demand(th.equal(whole, whole.round()), ball, "what whole returns must be whole numbers.")
    inside = 0.99 * made["project"][0]
    demand(
        alike(ball.project(inside, _EPSILON), inside), ball, "projection must leave points of the ball where they are."
    )
    along = [(gradient * points).flatten(1).sum(1) for points in (made["steepest"][0], drawn)]
    demand(
        bool((along[0] >= along[1] * (1 - TOLERANCE)).all()),
        ball,
        "no point of the ball may go further along a gradient than steepest, but some draws from it do.",
    )
    again, other = (ball.sample(wide, th.Generator().manual_seed(seed)) for seed in (3, 4))
    demand(alike(again, ball.sample(wide, th.Generator().manual_seed(3))), ball, "one seed must give one draw.")
    demand(
        not alike(again, other), ball, "draws must come from the generator that is given, but two seeds gave one draw."
    )
    demand_independent_rows(ball, "the projection", lambda delta: ball.project(delta, _EPSILON), wide)
    demand_independent_rows(ball, "the steepest direction", ball.steepest, gradient)
    demand_independent_rows(ball, "the norm", ball.norm, wide)
    demand(alike(pickled(ball).norm(wide), ball.norm(wide)), ball, "after pickling, it must be the same ball.")


def _inside(ball: Ball, delta: th.Tensor, epsilon: float) -> bool:
    return bool((ball.norm(delta) <= epsilon * (1 + TOLERANCE)).all())


def check_solver(solver: Solver, ball: Ball | None = None) -> None:
    """
    The contract of a solver. It returns a finite perturbation of each observation inside the ball, without gradient,
    also from a given start; a row's result depends on that row, and on the generator, alone; one seed gives one result;
    no global generator is drawn from; nothing it is given changes. Unless it is blind it raises its objective, and
    unless it says that it starts clean it leaves a clean observation where the gradient is 0. It survives pickling.

    :param solver: The solver.
    :param ball: Where it searches, for observations of four features; :class:`sb3_barpo.adversary.LinfBall` by default.
    :raises ContractError: at the first promise that is broken.
    """
    ball = LinfBall() if ball is None else ball
    clean = example_observations(64)
    weight = th.nn.Parameter(100 * th.tensor([1.0, -2.0, 3.0, 0.5]))

    def linear(perturbed: th.Tensor) -> th.Tensor:
        return (perturbed * weight).sum(1)

    def valley(perturbed: th.Tensor) -> th.Tensor:
        return 100 * (perturbed - clean).square().sum(1)

    def hill(perturbed: th.Tensor) -> th.Tensor:
        return -100 * perturbed.square().sum(1)

    def solve(some: Solver, goal: Goal, rows: th.Tensor, start: th.Tensor | None = None, seed: int = 0) -> th.Tensor:
        return some.solve(goal, rows, ball, _EPSILON, th.Generator().manual_seed(seed), start)

    given = _EPSILON * ball.sample(clean, th.Generator().manual_seed(9))
    with untouched(solver, observations=clean, start=given):
        found, from_start = solve(solver, linear, clean), solve(solver, linear, clean, given)
    for what, delta in (("its perturbation", found), ("its perturbation from a given start", from_start)):
        demand_rows(solver, what, delta, tuple(clean.shape))
        demand(_inside(ball, delta, _EPSILON), solver, f"{what} must lie in the ball, but it leaves it.")
        demand(not delta.requires_grad, solver, f"{what} must be without gradient: detach it.")
    demand(weight.grad is None, solver, "no gradient may stay in the policy: use torch.autograd.grad, not backward().")
    demand(alike(found, solve(solver, linear, clean)), solver, "one seed must give one result.")
    demand_independent_rows(solver, "the perturbation", lambda rows: solve(solver, hill, rows), clean)
    if not solver.blind:
        gain = (linear(clean + found) - linear(clean)).mean().item()
        demand(
            gain > 0, solver, f"it must raise a linear objective, but on average the objective changes by {gain:.3g}."
        )
        if not solver.starts_clean:
            moved = ball.norm(solve(solver, valley, clean))
            demand(
                bool((moved > 0).all()),
                solver,
                "it stays at the clean observation where the gradient is 0 there. Let it start with noise, or let "
                "starts_clean return True.",
            )
    demand(alike(solve(pickled(solver), linear, clean), found), solver, "after pickling, it must find the same.")
