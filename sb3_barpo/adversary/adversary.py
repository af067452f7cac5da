"""The adversary: an objective to raise, a ball to stay in, a solver that climbs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch as th

from sb3_barpo.adversary.balls import Ball, LinfBall
from sb3_barpo.adversary.goals import Blocks, ClosedForm, Goal, Samples
from sb3_barpo.adversary.layout import layout_of
from sb3_barpo.adversary.limits import Bounds, DictBounds
from sb3_barpo.adversary.objectives import Objective
from sb3_barpo.adversary.solvers import Solver, needs_autograd
from sb3_barpo.policies.evaluate import Policy
from sb3_barpo.policies.mlp import Prepared
from sb3_barpo.policies.networks import BLOCK
from sb3_barpo.policies.views import as_searched, as_tested


class Perturbation(NamedTuple):
    """
    What a search has found.

    :param observations: Perturbed observations without gradient, of the clean ones' shapes; of a floating type where
        they moved.
    :param delta: What was added to the clean ones, in the networks' units, shape ``(B, *obs)``; the keys of a ``Dict``
        that may move are joined, shape ``(B, features)``.
    """

    observations: Any
    delta: th.Tensor


class Draws:
    """
    A random generator of one's own, made on the device where it is first needed.

    :param seed: Its seed; ``None`` draws one from the operating system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._generator: th.Generator | None = None

    def on(self, device: th.device) -> th.Generator:
        """
        :param device: Where numbers are drawn.
        :return: The generator there.
        """
        if self._generator is None or self._generator.device != device:
            self._generator = th.Generator(device)
            if self.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.seed)
        return self._generator

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": None}  # generators do not pickle on every torch; the seed tells enough


def _with_gradient(goal: Goal, solver: Solver) -> AbstractContextManager[Any]:
    """Autograd, unless the goal states its gradient; in updates by hand all do, and the mode is on already."""
    if th.is_inference_mode_enabled():
        return nullcontext()
    stated = isinstance(goal, ClosedForm | Blocks) and not needs_autograd(solver)
    return th.inference_mode() if stated else th.enable_grad()


class Adversary:
    """
    Looks for observations near the clean ones that raise an objective of the policy.

    The policy is examined as it acts, in evaluation mode, and left as it was: no gradient stays in its parameters, no
    statistics move, and the global random generator is not touched.

    :param objective: What to raise; ``None`` for a solver that needs none (:class:`Uniform`).
    :param solver: How to climb.
    :param ball: Where to stay, :class:`LinfBall` by default.
    :param draws: Random numbers to share with other adversaries; its own by default.
    :raises ValueError: if the objective has no gradient where the solver starts, or if either part misses the other.

    Example::

        adversary = Adversary(KL(), SGLD(n_steps=10), LinfBall())
        perturbed = adversary.perturb(model.policy, observations, epsilon=0.075)
    """

    def __init__(
        self, objective: Objective | None, solver: Solver, ball: Ball | None = None, draws: Draws | None = None
    ) -> None:
        if (objective is None) != solver.blind:
            raise ValueError(
                f"The solver {solver!r} {'takes no objective' if solver.blind else 'needs an objective to raise'}, "
                f"but objective={objective!r}. Pair Uniform() with None and every other solver with an objective."
            )
        if objective is not None and objective.stationary_at_clean and solver.starts_clean:
            raise ValueError(
                f"The objective {objective!r} has no gradient at the clean observation, where {solver!r} starts: it "
                "would never move. Let the solver start with noise: SGLD(), or PGD with start_radius above 0."
            )
        self.objective = objective
        self.solver = solver
        self.ball = LinfBall() if ball is None else ball
        self._draws = Draws() if draws is None else draws

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "perturb" in cls.__dict__:
            raise TypeError(
                f"{cls.__name__} overrides perturb(), which training does not call. Override search() and return a "
                "Perturbation; perturb() returns its observations."
            )

    def seed(self, seed: int | None) -> None:
        """
        :param seed: Seed of the adversary's own random generator; ``None`` draws one from the operating system.
        """
        self._draws = Draws(seed)

    def generator(self, device: th.device) -> th.Generator:
        """
        :param device: Device of the observations.
        :return: The adversary's own random generator there.
        """
        return self._draws.on(device)

    def perturb(
        self,
        policy: Policy,
        observations: Any,
        epsilon: float,
        samples: Samples | None = None,
        bounds: Bounds | DictBounds | None = None,
        start: th.Tensor | None = None,
    ) -> Any:
        """
        :return: The perturbed observations of :meth:`search`, which takes the same arguments.
        """
        with as_tested(policy):
            return self.search(policy, observations, epsilon, samples, bounds, start).observations

    def search(
        self,
        policy: Policy,
        observations: Any,
        epsilon: float,
        samples: Samples | None = None,
        bounds: Bounds | DictBounds | None = None,
        start: th.Tensor | None = None,
    ) -> Perturbation:
        """
        Training calls this method: a subclass that searches in another way overrides it.

        :param policy: The policy under attack.
        :param observations: Clean observations, shape ``(B, *obs)``, or tensors by key of a ``Dict`` space.
        :param epsilon: Radius of the ball, in the units of the observations; at 0 nothing moves.
        :param samples: The minibatch to which the observations belong, for objectives that need it.
        :param bounds: Limits of the observation space.
        :param start: From where the solver shall start, ``delta`` of an earlier search; its own start by default.
        :return: The perturbed observations, and what was added to the clean ones.
        :raises ValueError: if the objective needs samples and there are none.
        """
        layout = layout_of(observations, self.ball)
        seen = layout.join(observations)
        if epsilon == 0:
            return Perturbation(observations, th.zeros_like(seen))
        radius, generator = epsilon / layout.unit, self.generator(seen.device)
        with as_searched(policy):
            goal = self.goal(layout.policy(policy, observations), seen, samples)
            with _with_gradient(goal, self.solver):
                delta = self.solver.solve(goal, seen, layout.ball, radius, generator, start)
        perturbed = layout.add(observations, delta)
        if bounds is not None:
            perturbed = bounds.clip(perturbed, observations)
        # Not the solver's own: added to an observation, it has been rounded, and it may have been clipped.
        return Perturbation(perturbed, layout.difference(perturbed, observations))

    def gain(self, policy: Policy, observations: Any, perturbed: Any, samples: Samples | None = None) -> th.Tensor:
        """
        :return: The objective at the perturbed minus at the clean observations, shape ``(B,)``; 0 without objective.
        """
        layout = layout_of(observations, self.ball)
        seen = layout.join(observations)
        with as_searched(policy), th.no_grad():
            goal = self.goal(layout.policy(policy, observations), seen, samples)
            return goal(layout.join(perturbed)) - goal(seen)

    def radius(self, observations: Any, delta: th.Tensor) -> th.Tensor:
        """
        :param observations: Clean observations, shape ``(B, *obs)``, or tensors by key of a ``Dict`` space.
        :param delta: What was added to them, see :class:`Perturbation`.
        :return: The radius that each row uses, shape ``(B,)``, in units of ε.
        """
        layout = layout_of(observations, self.ball)
        return layout.unit * layout.ball.norm(delta)

    def goal(self, policy: Policy, observations: th.Tensor, samples: Samples | None) -> Goal:
        """
        :param policy: The policy as it answers to joined observations.
        :param observations: Clean observations, joined, shape ``(B, *obs)``.
        :param samples: The minibatch to which they belong.
        :return: The function that the solver climbs.
        """
        if self.objective is None:
            return lambda perturbed: perturbed.new_zeros(len(perturbed))
        if isinstance(policy, Prepared) and policy.known is not None and observations.shape[0] > BLOCK:
            return self._by_blocks(policy, policy.known, samples)
        goal = self.objective.prepare(policy, observations, samples)
        mask = None if samples is None else samples.mask
        if mask is None:
            return goal
        # A sequence's memory leads from a row that does not count back to those that do.
        return lambda perturbed: goal(perturbed).where(mask, 0.0)

    def _by_blocks(self, policy: Prepared, known: tuple[th.Tensor, th.Tensor], samples: Samples | None) -> Goal:
        """The same for many rows, of an objective whose gradient is known."""
        parts: list[Goal] = []
        for begin in range(0, known[0].shape[0], BLOCK):
            rows = slice(begin, begin + BLOCK)
            policy.known = known[0][rows], known[1][rows]
            parts.append(self.goal(policy, policy.known[0], None if samples is None else samples.rows(rows)))
        policy.known = known
        return Blocks(parts, BLOCK)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_draws": Draws(state.get("_seed")), **state})  # older files hold the seed itself

    def __repr__(self) -> str:
        return f"Adversary({self.objective!r}, {self.solver!r}, {self.ball!r})"
