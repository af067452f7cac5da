"""The checks of the contracts find what is broken, each with a part that breaks one promise alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_barpo.adversary import KL, PGD, SGLD, LinfBall, Objective, Value
from sb3_barpo.adversary.goals import ClosedForm
from sb3_barpo.losses import OuterLoss, Regularised, Terms, WorstCase
from sb3_barpo.schedules import ScheduleLike
from sb3_barpo.testing import ContractError, check_ball, check_loss, check_objective, check_solver


def goal_of(change: Callable[..., Any], **attributes: Any) -> Objective:
    """``-V(s')`` with its goal changed: ``change(value, perturbed, policy, observations)``."""

    class Broken(Value):
        def prepare(self, policy: Any, observations: Any, samples: Any = None) -> Any:
            honest = super().prepare(policy, observations).goal
            return lambda perturbed: change(honest(perturbed), perturbed, policy, observations)

    for name, value in attributes.items():
        setattr(Broken, name, value)
    globals()["Broken"] = Broken
    Broken.__qualname__ = "Broken"  # so that it can be pickled
    return Broken()


def disturbing(act: Callable[[Any], Any]) -> Objective:
    def change(value: th.Tensor, perturbed: th.Tensor, policy: Any, observations: th.Tensor) -> th.Tensor:
        act(policy)
        return value

    return goal_of(change)


def scribble(value: th.Tensor, perturbed: th.Tensor, *_: Any) -> th.Tensor:
    perturbed.data.mul_(1.5)
    return value


def fill_gradients(policy: Any) -> None:
    policy.value_net.bias.grad = th.ones(1)


class WrongSlope(Value):
    def prepare(self, policy: Any, observations: th.Tensor, samples: Any = None) -> Any:
        goal: Any = super().prepare(policy, observations)
        return ClosedForm(goal.goal, goal.network, th.ones_like)


class Silent(KL):
    stationary_at_clean = False


class Boasting(Value):
    def gain(self, log_prob: th.Tensor, kl: th.Tensor, samples: Any) -> th.Tensor:
        return kl


class WithLambda(Value):
    def __init__(self) -> None:
        self.own = lambda: 0


OBJECTIVES: list[tuple[Objective, str]] = [
    (goal_of(lambda v, p, *_: v.sum()), r"must have the shape \(8,\), not \(\)"),
    (goal_of(lambda v, p, *_: v / 0), "must be finite"),
    (goal_of(lambda v, p, *_: v + v.mean()), "depend on that row alone"),
    (goal_of(lambda v, p, policy, clean: v + p.sum(1) * clean.mean()), "at given clean observations, of a row"),
    (goal_of(lambda v, p, *_: v.cumsum(0)), "depend on that row alone"),
    (goal_of(lambda v, p, *_: v.detach()), "must be differentiable"),
    (goal_of(lambda v, p, *_: 0 * v), "its gradient is 0 in every row"),
    (goal_of(lambda v, p, *_: v + p.sum(1) * th.rand(())), "PyTorch's global random generator"),
    (goal_of(lambda v, p, *_: v * np.random.random()), "NumPy's global random generator"),
    (goal_of(scribble), "must not change its argument perturbed in place"),
    (disturbing(lambda policy: policy.set_training_mode(True)), "its training mode changed"),
    (disturbing(lambda policy: policy.value_net.bias.data.add_(1)), "its state_dict changed"),
    (disturbing(fill_gradients), "its gradients changed"),
    (WrongSlope(), "automatic differentiation gives another one"),
    (Boasting(), "its gain must be the goal at the perturbed"),
    (Silent(), "Set stationary_at_clean = True"),
    (WithLambda(), "must survive pickling"),
]


@pytest.mark.parametrize(("part", "match"), OBJECTIVES, ids=[match for _, match in OBJECTIVES])
def test_objectives(part: Objective, match: str) -> None:
    globals()["Broken"] = type(part)
    with pytest.raises(ContractError, match=match):
        check_objective(part)


def test_a_goal_of_moods() -> None:
    moods = iter(range(1000))
    with pytest.raises(ContractError, match="the same value each time"):
        check_objective(goal_of(lambda v, p, *_: v + next(moods)))


# Balls


class Signed(LinfBall):
    def norm(self, delta: th.Tensor) -> th.Tensor:
        return super().norm(delta).square()


class Loose(LinfBall):
    def project(self, delta: th.Tensor, epsilon: float) -> th.Tensor:
        return super().project(delta, 1.1 * epsilon)


class Shrinking(LinfBall):
    def project(self, delta: th.Tensor, epsilon: float) -> th.Tensor:
        return 0.9 * super().project(delta, epsilon)


class Lazy(LinfBall):
    def steepest(self, gradient: th.Tensor) -> th.Tensor:
        return 0.3 * super().steepest(gradient)


class Gambler(LinfBall):
    def sample(self, like: th.Tensor, generator: th.Generator) -> th.Tensor:
        return 2 * th.rand_like(like) - 1


class Stuck(LinfBall):
    def sample(self, like: th.Tensor, generator: th.Generator) -> th.Tensor:
        return super().sample(like, th.Generator().manual_seed(0))


class Halves(LinfBall):
    def whole(self, delta: np.ndarray, epsilon: float, key: str = "") -> np.ndarray:
        return np.trunc(delta) / 2


class Crowd(LinfBall):
    def steepest(self, gradient: th.Tensor) -> th.Tensor:
        return super().steepest(gradient) * gradient.abs().mean().clamp(max=1)


class Forgetful(LinfBall):
    def plain_scale(self) -> Any:
        return 1.0


class Leaking(LinfBall):
    def sample(self, like: th.Tensor, generator: th.Generator) -> th.Tensor:
        return super().sample(like, generator) + 1e-7


BALLS: list[tuple[LinfBall, str]] = [
    (Signed(), "twice a vector is twice its norm"),
    (Loose(), "what project returns must lie in the ball"),
    (Shrinking(), "leave points of the ball where they are"),
    (Lazy(), "no point of the ball may go further"),
    (Gambler(), "PyTorch's global random generator"),
    (Stuck(), "two seeds gave one draw"),
    (Halves(), "must be whole numbers"),
    (Crowd(), "no point of the ball|depend on that row alone"),
    (Forgetful([1, 2, 0, 1]), "must take what plain_scale"),
    (Leaking([1, 2, 0, 1]), "features of scale 0 must stay clean, but sample moves them"),
]


@pytest.mark.parametrize(("part", "match"), BALLS, ids=[type(part).__name__ for part, _ in BALLS])
def test_balls(part: LinfBall, match: str) -> None:
    with pytest.raises(ContractError, match=match):
        check_ball(part)


# Solvers


@dataclass(frozen=True)
class Solving(SGLD):
    """SGLD, whose result is changed."""

    how: str = ""

    @property
    def starts_clean(self) -> bool:
        return False

    def solve(self, goal: Any, observations: Any, ball: Any, epsilon: Any, generator: Any, start: Any = None) -> Any:
        found = super().solve(goal, observations, ball, epsilon, generator, start)
        if self.how == "in place":
            observations += 1e-3
        if self.how == "backward":
            goal((observations + found).requires_grad_()).sum().backward()
        if self.how == "clean":
            return PGD(start_radius=0).solve(goal, observations, ball, epsilon, generator, start)
        if self.how == "global":
            found = ball.project(found + 1e-3 * th.randn(found.shape), epsilon)
        return {"far": 2 * found, "down": -found, "one": found[:1], "crowd": found * found.mean()}.get(self.how, found)


SOLVERS = {
    "far": "must lie in the ball",
    "down": "must raise a linear objective",
    "one": r"must have the shape \(64, 4\)",
    "crowd": "depend on that row alone",
    "in place": "must not change its argument observations",
    "backward": "no gradient may stay in the policy",
    "clean": "stays at the clean observation",
    "global": "PyTorch's global random generator",
}


@pytest.mark.parametrize("how", SOLVERS)
def test_solvers(how: str) -> None:
    with pytest.raises(ContractError, match=SOLVERS[how]):
        check_solver(Solving(how=how))


def test_the_solver_that_is_broken_in_no_way() -> None:
    check_solver(Solving())


# Losses


@dataclass(frozen=True)
class Losing(WorstCase):
    """WorstCase, whose result is changed."""

    how: ScheduleLike = 0.0

    def __call__(self, rows: Any, samples: Any) -> Terms:
        terms = super().__call__(rows, samples)
        if self.how == 1:
            return Terms(terms.loss.detach(), terms.logs)
        if self.how == 2:
            return Terms(-rows.log_prob[1], terms.logs)
        if self.how == 3:
            return Terms(terms.loss, {"loss": terms.loss})
        if self.how == 4:
            return Terms(terms.loss + rows.log_prob.mean(), terms.logs)
        if self.how == 5:
            return Terms(terms.loss * terms.loss, terms.logs)
        if self.how == 6:
            return Terms(terms.loss * th.rand(()), terms.logs)
        return terms


LOSSES = {
    1: "must have a gradient",
    2: "must return a finite scalar tensor",
    3: "what it logs must be scalar tensors without gradient, but 'loss'",
    4: "rows that do not count",
    5: "a row's share must depend on that row alone",
    6: "PyTorch's global random generator",
}


@pytest.mark.parametrize("how", LOSSES)
def test_losses(how: int) -> None:
    with pytest.raises(ContractError, match=LOSSES[how]):
        check_loss(Losing(how=how))


def test_a_child_s_own_loss_has_its_own_slopes() -> None:
    """Its parent's would train it to another loss wherever updates are by hand."""
    assert WorstCase.slopes is not OuterLoss.slopes
    assert Losing.slopes is OuterLoss.slopes
    assert Flat.slopes is not OuterLoss.slopes
    assert Regularised(0.0).is_ppo
    assert not Heavier(0.0).is_ppo
    assert WrongSlope.gain is Objective.gain
    assert Silent.gain is KL.gain


def test_rows_may_share_something_where_the_loss_says_so() -> None:
    check_loss(Losing(how=5), rows_independent=False)
    check_loss(Losing())


class Undecorated(WorstCase):
    weight: float = 1.0


@dataclass(frozen=True)
class Unwritten(WorstCase):
    def spec(self) -> dict[str, Any]:
        return {"kappa": 7.0}


@dataclass(frozen=True)
class Unwritable(WorstCase):
    def spec(self) -> dict[str, Any]:
        return {"strength": 1.0}


@dataclass(frozen=True)
class Flat(WorstCase):
    def slopes(self, rows: Any, samples: Any) -> Any:
        right = super().slopes(rows, samples)
        return right._replace(log_prob=0.5 * right.log_prob)


@dataclass(frozen=True)
class Heavier(Regularised):
    def __call__(self, rows: Any, samples: Any) -> Terms:
        return Terms(super().__call__(rows, samples).loss + samples.mean(rows.kl()), {})


@dataclass(frozen=True)
class Other(Regularised):
    def slopes(self, rows: Any, samples: Any) -> Any:
        right = super().slopes(rows, samples)
        return right._replace(loss=2 * right.loss)


@dataclass(frozen=True)
class Blind(WorstCase):
    def slopes(self, rows: Any, samples: Any) -> Any:
        return super().slopes(rows, samples)._replace(clean=False)


@dataclass(frozen=True)
class Timeless(WorstCase):
    def at(self, progress_remaining: float) -> Any:
        return self


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (Undecorated(), "must be a frozen dataclass"),
        (Unwritten(), "must make the same loss of what spec"),
        (Flat(), r"slopes\(\) must return the gradient of the loss"),
        (Other(), r"slopes\(\) must return the same loss"),
        (Blind(), r"slopes\(\) must return the gradient of the loss"),
        (Unwritable(), "its constructor must take what spec"),
        (Timeless("ramp_1"), "numbers in the places of its schedules"),
    ],
)
def test_losses_whose_methods_are_wrong(loss: OuterLoss, match: str) -> None:
    with pytest.raises(ContractError, match=match):
        check_loss(loss)
