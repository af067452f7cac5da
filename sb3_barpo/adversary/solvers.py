"""
Solvers: how an adversary looks for the perturbation that raises its objective.

A solver works on perturbations ``delta`` of shape ``(B, *obs)``, sums the objective over the batch and takes the
gradient with respect to the perturbed observations alone: no row feels its neighbours, and the policy's parameters get
no gradient. It draws from the generator that it is given, never from the global one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch as th

from sb3_barpo.adversary.balls import Ball
from sb3_barpo.adversary.goals import Blocks, ClosedForm, Goal
from sb3_barpo.checks import require, require_count


def _climb(
    goal: Goal,
    observations: th.Tensor,
    delta: th.Tensor,
    ball: Ball,
    epsilon: float,
    step: float,
    noise: list[float],
    generator: th.Generator,
) -> th.Tensor:
    """
    Steps of size ``step`` in the ball's steepest direction, each followed by projection.

    :param noise: Standard deviation of the Gaussian noise added to the gradient at each step, for a feature of scale 1;
        it grows with the square root of the scale. Its length is the number of steps.
    :return: The last perturbation, shape ``(B, *obs)``.
    """
    scale = None if ball.is_plain else ball.like(delta).sqrt()

    def drawn(std: float) -> th.Tensor | None:
        if std == 0:
            return None
        noise = th.empty_like(delta).normal_(std=std, generator=generator)
        return noise if scale is None else noise.mul_(scale)

    def ascend(goal: Goal, observations: th.Tensor, delta: th.Tensor, noise: Iterable[th.Tensor | None]) -> th.Tensor:
        for added in noise:
            gradient = _gradient(goal, observations + delta)
            delta = ball.step(delta, gradient if added is None else added.add_(gradient), step, epsilon)
        return delta

    if not isinstance(goal, Blocks):
        return ascend(goal, observations, delta, map(drawn, noise))
    # The same noise, drawn for all rows first.
    whole = [drawn(std) for std in noise]
    found = []
    for i, part in enumerate(goal.parts):
        rows = slice(i * goal.size, (i + 1) * goal.size)
        added = (one if one is None else one[rows] for one in whole)
        found.append(ascend(part, observations[rows], delta[rows], added))
    return th.cat(found)


def _gradient(goal: Goal, perturbed: th.Tensor) -> th.Tensor:
    if isinstance(goal, ClosedForm):
        return goal.gradient(perturbed)
    perturbed = perturbed.requires_grad_()
    (gradient,) = th.autograd.grad(goal(perturbed).sum(), perturbed)
    return gradient


def _randn_like(like: th.Tensor, generator: th.Generator) -> th.Tensor:
    return th.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


class Solver(ABC):
    """Looks for the perturbation in the ball that raises the objective most."""

    #: Does not look at its objective.
    blind: ClassVar[bool] = False
    #: Wants to start where its last search for the same samples ended, if there was one.
    warm: ClassVar[bool] = False

    @property
    def starts_clean(self) -> bool:
        """Whether it begins at the clean observation itself, where some objectives have no gradient."""
        return False

    @abstractmethod
    def solve(
        self,
        goal: Goal,
        observations: th.Tensor,
        ball: Ball,
        epsilon: float,
        generator: th.Generator,
        start: th.Tensor | None = None,
    ) -> th.Tensor:
        """
        :param goal: The function to raise.
        :param observations: Clean observations, shape ``(B, *obs)``, floating point.
        :param ball: Where the perturbations must stay.
        :param epsilon: Its radius, above 0.
        :param generator: Source of randomness, on the observations' device.
        :param start: Perturbations to begin with instead of the solver's own, shape ``(B, *obs)``.
        :return: Perturbations of the ball, shape ``(B, *obs)``.
        """


def _best(goal: Goal, observations: th.Tensor, found: list[th.Tensor]) -> th.Tensor:
    """For each row the perturbation of the highest objective."""
    with th.no_grad():
        winners = th.stack([goal(observations + delta) for delta in found]).argmax(0)
    return th.stack(found)[winners, th.arange(len(observations), device=observations.device)]


@dataclass(frozen=True)
class Uniform(Solver):
    """One uniform draw from the ball: the Random attack."""

    blind: ClassVar[bool] = True

    def solve(
        self,
        goal: Goal,
        observations: th.Tensor,
        ball: Ball,
        epsilon: float,
        generator: th.Generator,
        start: th.Tensor | None = None,
    ) -> th.Tensor:
        return epsilon * ball.sample(observations, generator)


@dataclass(frozen=True)
class PGD(Solver):
    """
    Projected gradient ascent (Madry et al., ICLR 2018), the best of several random starts for each sample.

    :param n_steps: Number of gradient steps.
    :param step_size: Size of a step in units of ε. By default ``2 / n_steps``: the far corner of the ball is within
        reach from wherever the search starts. The reference code of the field takes ``1 / n_steps``.
    :param start_radius: The start is drawn uniformly from the ball of radius ``start_radius · ε``; 0 starts at the
        clean observation.
    :param restarts: Number of starts. With more than one, each sample keeps the perturbation of the highest objective.
    :raises ValueError: if a parameter is out of range.
    """

    n_steps: int = 10
    step_size: float | None = None
    start_radius: float = 1.0
    restarts: int = 1

    def __post_init__(self) -> None:
        require_count("PGD's n_steps", self.n_steps, "a search takes a whole number of steps, at least 1")
        require(
            self.step_size is None or 0 < self.step_size < math.inf,
            "PGD's step_size",
            self.step_size,
            "it must be finite and above 0, or None for 2 / n_steps",
        )
        require(0 <= self.start_radius <= 1, "PGD's start_radius", self.start_radius, "it must lie between 0 and 1")
        require_count("PGD's restarts", self.restarts, "a search takes a whole number of starts, at least 1")

    @property
    def starts_clean(self) -> bool:
        return self.start_radius == 0

    def solve(
        self,
        goal: Goal,
        observations: th.Tensor,
        ball: Ball,
        epsilon: float,
        generator: th.Generator,
        start: th.Tensor | None = None,
    ) -> th.Tensor:
        step = epsilon * (2 / self.n_steps if self.step_size is None else self.step_size)
        # A given start serves once: a search repeated from it would end where the first one ended.
        starts = [start] + [None] * (self.restarts - 1)
        found = [
            _climb(
                goal,
                observations,
                self.start_radius * epsilon * ball.sample(observations, generator) if delta is None else delta,
                ball,
                epsilon,
                step,
                [0.0] * self.n_steps,
                generator,
            )
            for delta in starts
        ]
        return found[0] if len(found) == 1 else _best(goal, observations, found)


@dataclass(frozen=True)
class SGLD(Solver):
    """
    Stochastic gradient Langevin dynamics with signed steps of ``ε / n_steps``, as in the reference code of SA-PPO
    (Zhang et al., NeurIPS 2020), on which BARPO builds. It starts one step away from the clean observation, in a
    random corner, because the KL has no gradient there; the gradient of step ``i`` gets Gaussian noise of standard
    deviation ``sqrt(2 · ε / n_steps · beta) / (i + 2)``. In a ball with a scale for each feature, steps and noise
    are those of its own radius, ``ε · scale``: a scale of 0.1 at ε = 1 is the plain ball of ε = 0.1.

    :param n_steps: Number of gradient steps.
    :param beta: Temperature of the noise: 1e-5 in training, 1 in the MAD attack.
    :raises ValueError: if a parameter is out of range.
    """

    n_steps: int = 10
    beta: float = 1e-5

    def __post_init__(self) -> None:
        require_count("SGLD's n_steps", self.n_steps, "a search takes a whole number of steps, at least 1")
        require(0 <= self.beta < math.inf, "SGLD's beta", self.beta, "a temperature is finite and at least 0")

    def solve(
        self,
        goal: Goal,
        observations: th.Tensor,
        ball: Ball,
        epsilon: float,
        generator: th.Generator,
        start: th.Tensor | None = None,
    ) -> th.Tensor:
        step = epsilon / self.n_steps
        delta = start if start is not None else step * ball.steepest(_randn_like(observations, generator))
        noise = [math.sqrt(2 * step * self.beta) / (i + 2) for i in range(self.n_steps)]
        return _climb(goal, observations, delta, ball, epsilon, step, noise, generator)


@dataclass(frozen=True)
class AutoPGD(Solver):
    """
    Projected gradient ascent without noise and without a step size to choose, after Auto-PGD (Croce and Hein, ICML
    2020), row by row: each keeps the best perturbation that it has seen, and halves its step, at first ε, whenever a
    step did not help. A start is the best of several random corners. Where there is no gradient, behind rounding or
    saturated units, a row steps to random sides, and keeps what helps.

    :param n_steps: Number of steps of each start.
    :param restarts: Number of starts; each sample keeps the perturbation of the highest objective.
    :param draws: Number of random corners from which each start is chosen.
    :raises ValueError: if a parameter is out of range.
    """

    n_steps: int = 10
    restarts: int = 2
    draws: int = 4

    def __post_init__(self) -> None:
        for name in ("n_steps", "restarts", "draws"):
            require_count(f"AutoPGD's {name}", getattr(self, name), "a search takes a whole number, at least 1")

    def solve(
        self,
        goal: Goal,
        observations: th.Tensor,
        ball: Ball,
        epsilon: float,
        generator: th.Generator,
        start: th.Tensor | None = None,
    ) -> th.Tensor:
        starts = [start] + [None] * (self.restarts - 1)
        found = [self._ascend(goal, observations, ball, epsilon, generator, one) for one in starts]
        return found[0] if len(found) == 1 else _best(goal, observations, found)

    def _ascend(
        self,
        goal: Goal,
        observations: th.Tensor,
        ball: Ball,
        epsilon: float,
        generator: th.Generator,
        start: th.Tensor | None,
    ) -> th.Tensor:
        corners = [epsilon * ball.steepest(_randn_like(observations, generator)) for _ in range(self.draws)]
        best = _best(goal, observations, corners if start is None else [start, *corners])
        row = (len(best), *[1] * (best.dim() - 1))
        step = best.new_full(row, epsilon)
        with th.no_grad():
            highest = goal(observations + best)
        for _ in range(self.n_steps):
            gradient = _gradient(goal, observations + best)
            flat = ~(gradient.flatten(1).abs().sum(1) > 0).reshape(row)  # no slope, or none that is a number
            gradient = th.where(flat, _randn_like(best, generator), gradient)
            moved = ball.project(best + step * ball.steepest(gradient), epsilon)
            with th.no_grad():
                reached = goal(observations + moved)
            better = reached > highest
            highest = th.where(better, reached, highest)
            better = better.reshape(row)
            best = th.where(better, moved, best)
            step = th.where(better | flat, step, step / 2)
        return best


@dataclass(frozen=True)
class WarmStart(Solver):
    """
    Starts where the last search for the same sample ended. In an update every sample is visited ``n_epochs`` times, and
    the policy changes little in between, so that later visits can do with fewer steps. Outside training, where nothing
    is visited twice, it is its first solver. One perturbation for each sample of a rollout is kept in memory for the
    length of an update, as floating-point numbers: for images four times what the rollout's bytes take.

    :param first: Searches at a sample's first visit.
    :param later: Searches at all later ones, from where the last one ended.
    :raises ValueError: if one of them cannot start from a given perturbation.
    """

    warm: ClassVar[bool] = True
    first: Solver = SGLD()
    later: Solver = SGLD(n_steps=1)

    def __post_init__(self) -> None:
        for name, solver in (("first", self.first), ("later", self.later)):
            remedy = "a search that is taken up again looks at its objective; take SGLD or PGD"
            require(not (solver.blind or solver.warm), f"WarmStart's {name}", solver, remedy)

    @property
    def starts_clean(self) -> bool:
        return self.first.starts_clean

    def solve(
        self,
        goal: Goal,
        observations: th.Tensor,
        ball: Ball,
        epsilon: float,
        generator: th.Generator,
        start: th.Tensor | None = None,
    ) -> th.Tensor:
        solver = self.first if start is None else self.later
        return solver.solve(goal, observations, ball, epsilon, generator, start)


def needs_autograd(solver: Solver) -> bool:
    """:return: Whether it may ask autograd for a gradient that its goal states: a solver that is not this package's."""
    parts = (solver.first, solver.later) if type(solver) is WarmStart else (solver,)
    return any(type(part) not in (Uniform, PGD, SGLD, AutoPGD) for part in parts)
