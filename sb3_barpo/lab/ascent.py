"""Policy optimisation without samples: exact gradients against an adversary, followed to where they end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from sb3_barpo.controllers import Controller, Measured
from sb3_barpo.lab.adversaries import Adversary, acting, clean, divergences, kl, strongest
from sb3_barpo.lab.mdp import TabularMDP
from sb3_barpo.lab.policies import Policy, Strength
from sb3_barpo.schedules import ScheduleLike, as_schedule


@dataclass(frozen=True)
class Problem:
    """
    An MDP together with the policies that are tried on it and what an adversary may show them.

    :param name: Its name in tables and pictures.
    :param mdp: The MDP.
    :param policy: The policies.
    :raises ValueError: if MDP and policies differ in their numbers of states or actions.
    """

    name: str
    mdp: TabularMDP
    policy: Policy

    def __post_init__(self) -> None:
        n_states, _, n_actions = self.policy.probabilities(self.policy.starts(1, seed=0)).shape[1:]
        if self.mdp.rewards.shape != (n_states, n_actions):
            raise ValueError(
                f"The policies have {n_states} states and {n_actions} actions, but the MDP's rewards have shape "
                f"{self.mdp.rewards.shape}. Make both for the same."
            )

    def value(self, theta: np.ndarray, adversary: Adversary = clean, strength: Strength = 1.0) -> np.ndarray:
        """
        :param theta: Parameters of M policies, shape ``(M, n_params)``.
        :param adversary: The adversary, by default none.
        :param strength: Its strength, as a share of the full one.
        :return: ``V^{π∘ν}`` at the start distribution, shape ``(M,)``.
        """
        seen = self.policy.probabilities(theta, strength)
        return self.mdp.value(acting(seen, adversary(self.mdp, seen)))

    def natural(self, theta: np.ndarray) -> np.ndarray:
        """:return: The values without an adversary, shape ``(M,)``."""
        return self.value(theta)

    def robust(self, theta: np.ndarray) -> np.ndarray:
        """:return: The values under the strongest adversary, shape ``(M,)``."""
        return self.value(theta, strongest)


@dataclass(frozen=True)
class Method:
    """
    A way to optimise: ascent on ``(V^{π∘ν} + κ V^π) / (1 + κ)`` with the adversary ν held fixed in each step.

    :param adversary: The adversary.
    :param kappa: Weight of the guidance; a number, or any schedule or controller that training takes too.
    :param strength: Of the adversary, as a share of its full one; a number, a schedule or a controller, which then
        listens to the natural value, the mean divergence, and the natural value minus the attacked one.
    :param clean_visits: Whether states count as often as the policy that nobody attacks visits them. By default they
        count as often as ``π∘ν`` does, which, with its advantages, makes the gradient that of a value.
    :param clean_advantages: Whether the advantages are those of the policy that nobody attacks. In training, where
        rollouts are clean, visits and advantages both are.
    :raises ValueError: if a schedule is wrong.
    """

    adversary: Adversary
    kappa: ScheduleLike = 0.0
    strength: ScheduleLike = 1.0
    clean_visits: bool = False
    clean_advantages: bool = False

    def __post_init__(self) -> None:
        self.at(0.0)

    def at(self, time: float, states: "States | None" = None) -> tuple[Strength, Strength]:
        """
        :param time: Between 0 and 1.
        :param states: Of the controllers; without, they answer as at the end of training.
        :return: κ and the strength, where there is a controller one of each policy.
        """
        kappa, strength = (
            setting.strength(states[name])
            if states is not None and isinstance(setting, Controller)
            else setting(1 - time)
            for name, setting in self._settings().items()
        )
        return kappa, strength

    def begin(self, n_policies: int) -> "States":
        """:return: The states of its controllers, by setting, before anything has been measured."""
        controlled = {name: setting for name, setting in self._settings().items() if isinstance(setting, Controller)}
        return {name: np.full(n_policies, setting.begin()) for name, setting in controlled.items()}

    def step(self, states: "States", measured: Measured) -> "States":
        """:return: The states after a step, of which this was measured."""
        settings: dict[str, Any] = self._settings()
        return {
            name: settings[name].step(state, getattr(measured, settings[name].measures))
            for name, state in states.items()
        }

    def _settings(self) -> dict[str, Callable[[float], float]]:
        return {"kappa": as_schedule(self.kappa), "strength": as_schedule(self.strength)}


#: States of controllers by setting, each of shape ``(M,)``.
States: TypeAlias = dict[str, np.ndarray]


#: The methods that the pictures and the table compare.
METHODS: dict[str, Method] = {
    "SPO": Method(clean),
    "ARPO": Method(strongest),
    "ARPO κ = 1": Method(strongest, kappa=1.0),
    "BARPO κ = 0": Method(kl),
    "BARPO κ = 1": Method(kl, kappa=1.0),
    "ARPO, ramp to 75 %": Method(strongest, strength="ramp_1"),
    "ARPO, ramp from 40 to 80 %": Method(strongest, strength="ramp_1_0.8_0.4"),
    "BARPO κ = 1, clean rollouts": Method(kl, kappa=1.0, clean_visits=True, clean_advantages=True),
    "BARPO κ = 1, clean rollouts, ramp from 40 to 80 %": Method(
        kl, kappa=1.0, strength="ramp_1_0.8_0.4", clean_visits=True, clean_advantages=True
    ),
}


def gradient(
    problem: Problem, theta: np.ndarray, method: Method, time: float = 1.0, states: States | None = None
) -> np.ndarray:
    """
    :param problem: The problem.
    :param theta: Parameters of M policies, shape ``(M, n_params)``.
    :param method: Adversary and guidance.
    :param time: Fraction of training done, for schedules.
    :param states: Of the controllers.
    :return: The direction that the method ascends along, exactly, shape ``(M, n_params)``.
    """
    kappa, strength = method.at(time, states)
    kappa = np.asarray(kappa)[..., None, None, None]
    seen = problem.policy.probabilities(theta, strength)
    unattacked = clean(problem.mdp, seen)
    shown = method.adversary(problem.mdp, seen)
    natural = problem.mdp.evaluate(acting(seen, unattacked))
    attacked = problem.mdp.evaluate(acting(seen, shown))
    visits = natural.visits if method.clean_visits else attacked.visits
    advantages = natural.advantages if method.clean_advantages else attacked.advantages
    # Policy gradient theorem: dV/dπ(a|s) = visits(s) A(s, a)
    slopes = (visits[..., None] * advantages)[:, :, None] * shown[..., None]
    slopes += kappa * (natural.visits[..., None] * natural.advantages)[:, :, None] * unattacked[..., None]
    return problem.policy.pull_back(theta, slopes / (1 + kappa), strength)


def measure(problem: Problem, theta: np.ndarray, method: Method, time: float, states: States) -> Measured:
    """:return: What a controller is told of each policy; see :func:`gradient` for the parameters."""
    _, strength = method.at(time, states)
    seen = problem.policy.probabilities(theta, strength)
    shown = method.adversary(problem.mdp, seen)
    natural, attacked = (problem.mdp.evaluate(acting(seen, how)) for how in (clean(problem.mdp, seen), shown))
    moved = np.einsum("ms,msk,msk->m", natural.visits, shown, divergences(seen)) / natural.visits.sum(-1)
    values: Any = natural.values @ problem.mdp.start
    return Measured(values, moved, values - attacked.values @ problem.mdp.start)


def objective(problem: Problem, theta: np.ndarray, method: Method, time: float = 1.0) -> np.ndarray:
    """
    :return: ``(V^{π∘ν} + κ V^π) / (1 + κ)``, shape ``(M,)``; see :func:`gradient` for the parameters. Where ν is the
        KL adversary, which the ascent holds fixed, this jumps where ν does, and the ascent need not raise it.
    """
    kappa, strength = method.at(time)
    attacked = problem.value(theta, method.adversary, strength)
    return (attacked + kappa * problem.natural(theta)) / (1 + kappa)


def ascend(
    problem: Problem, starts: np.ndarray, method: Method, steps: int = 800, step_size: float = 0.05
) -> np.ndarray:
    """
    Projected gradient ascent with steps of one length, which follows the paths of the gradient flow at a speed of its
    own. The length falls to 0 over the last 30 % of the steps, so that paths come to rest where the flow zigzags.

    :param problem: The problem.
    :param starts: First parameters of M policies, shape ``(M, n_params)``.
    :param method: What is ascended.
    :param steps: Number of steps. Schedules span all of them.
    :param step_size: Length of the steps, in eighths of the width of the box of parameters.
    :return: The paths, shape ``(steps + 1, M, n_params)``; the last row is where they end.
    :raises ValueError: if there is no step, or no length.
    """
    if steps < 1 or not step_size > 0:
        raise ValueError(f"steps and step_size must be above 0, but they are {steps!r} and {step_size!r}.")
    low, high = problem.policy.low, problem.policy.high
    theta = np.clip(np.asarray(starts, dtype=float), low, high)
    path = [theta]
    states = method.begin(len(theta))
    for step in range(steps):
        time = step / steps
        slope = gradient(problem, theta, method, time, states)
        if states:
            states = method.step(states, measure(problem, theta, method, time, states))
        slope = np.where(((theta <= low) & (slope < 0)) | ((theta >= high) & (slope > 0)), 0.0, slope)
        length = step_size * (high - low) / 8 * min(1.0, (1 - time) / 0.3)
        # A slope of the size of rounding errors is none.
        theta = theta + length * slope / (np.linalg.norm(slope, axis=-1, keepdims=True) + 1e-6)
        theta = np.clip(theta, low, high)
        path.append(theta)
    return np.array(path)
