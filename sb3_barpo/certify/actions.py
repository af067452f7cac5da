"""Certificates of actions: what an agent does at an observation, whatever an attack of strength ε makes of it."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_barpo.adversary import Ball, HeldLimits, is_finite
from sb3_barpo.certify.bounds import OutputBounds, box_around, crown, intervals
from sb3_barpo.certify.rounding import UNIT, rounding, widened
from sb3_barpo.checks import require_model, require_strength
from sb3_barpo.policies import mlp
from sb3_barpo.policies.views import is_recurrent, uncompiled

#: Observations that are bounded at a time.
_ROWS = 256
#: Up to how many times of ε the certified ε of a state is searched for, and in how many halvings.
_FURTHEST, _HALVINGS = 64, 20


@dataclass(frozen=True)
class CertifiedMean:
    """
    Of continuous actions: where the deterministic action must stay, as the environment takes it.

    :param epsilon: Strength.
    :param actions: At the clean observations, shape ``(B, actions)``.
    :param low: Lower bounds at all observations within ε, shape ``(B, actions)``.
    :param high: Upper bounds, shape ``(B, actions)``.
    """

    epsilon: float
    actions: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def shift(self) -> np.ndarray:
        """How far each action can move at most, in the units of the action space, shape ``(B, actions)``."""
        shift: np.ndarray = np.maximum(self.high - self.actions, self.actions - self.low)
        return shift


@dataclass(frozen=True)
class CertifiedChoice:
    """
    Of discrete actions: whether the greedy action can change.

    :param epsilon: Strength.
    :param actions: Greedy actions at the clean observations, shape ``(B,)``.
    :param margin: By how much the greedy action's logit exceeds all others at least, at all observations within ε,
        shape ``(B,)``. Above 0 the action cannot change.
    :param radius: The certified ε of each observation, shape ``(B,)``: no attack of this strength changes the action;
        0 where nothing can be said. It is searched for up to 64 times of ε.
    """

    epsilon: float
    actions: np.ndarray
    margin: np.ndarray
    radius: np.ndarray

    @property
    def certified(self) -> np.ndarray:
        """At which observations the greedy action cannot change, shape ``(B,)``."""
        return self.margin > 0

    @property
    def share(self) -> float:
        """The share of the observations at which the greedy action cannot change."""
        return float(self.certified.mean())


def certify_actions(
    model: OnPolicyAlgorithm,
    observations: np.ndarray,
    epsilon: float,
    ball: Ball | None = None,
    venv: VecEnv | None = None,
    method: str = "crown",
) -> CertifiedMean | CertifiedChoice:
    """
    Bound what the agent does at all observations within ε of the given ones, by CROWN (Zhang et al., NeurIPS 2018) in
    double precision. The bounds include the rounding errors of the policy in single precision: an attack that leaves
    them is a bug.

    :param model: The agent, with one of SB3's feed-forward MLP policies and deterministic Gaussian or categorical
        actions.
    :param observations: As the policy sees them (after ``VecNormalize``), shape ``(B, *obs)``.
    :param epsilon: Strength, in the units of the observations.
    :param ball: Where attacks stay, :class:`sb3_barpo.adversary.LinfBall` by default; of any other one, the smallest
        box around it counts.
    :param venv: The environments as the policy sees them, by default the model's own. They tell the limits of
        observations, which no attack exceeds; without any, there are no limits.
    :param method: ``"crown"``, or ``"intervals"``, which is looser.
    :return: :class:`CertifiedMean` for continuous actions, :class:`CertifiedChoice` for discrete ones.
    :raises TypeError: for a policy without bounds.
    :raises ValueError: for observations of another shape, or not finite ones; for a negative or infinite ε; for a
        ball that does not fit; for an unknown method.
    """
    if method not in _METHODS:
        raise ValueError(f"Unknown method {method!r}. Choose from {', '.join(_METHODS)}; crown is the tighter one.")
    require_strength("epsilon", epsilon)
    require_model(model)
    model = uncompiled(model)
    check_certifiable(model)
    observations = np.asarray(observations)
    space: Any = model.observation_space
    if observations.shape[1:] != space.shape or not len(observations) or not is_finite(observations):
        raise ValueError(
            f"Observations must be finite, of shape (B, {', '.join(map(str, space.shape))}), but their shape is "
            f"{observations.shape}. Pass a batch of what the policy sees."
        )
    if ball is not None:
        ball.check(space)
    known = model.get_env() if venv is None else venv
    limits = None if known is None else HeldLimits(model).behind(space, known, observations)
    network = _Actor(model, method)
    parts = []
    with th.no_grad():
        for rows in th.split(th.as_tensor(observations, device=model.device), _ROWS):

            def around(radius: float | th.Tensor, rows: th.Tensor = rows) -> OutputBounds:
                return widened(box_around(rows, radius, ball, limits))

            parts.append(tuple(part.cpu().numpy() for part in network.certify(rows, float(epsilon), around)))
    kind = CertifiedMean if isinstance(model.action_space, spaces.Box) else CertifiedChoice
    return kind(float(epsilon), *(np.concatenate(column) for column in zip(*parts, strict=True)))


def check_certifiable(model: OnPolicyAlgorithm) -> None:
    """
    :param model: An agent.
    :raises TypeError: if its actions cannot be bounded, with the reason.
    """
    policy = getattr(model, "policy", None)
    if mlp.modules(policy, "actor") is None:
        reason = next(_reasons(policy))
        raise TypeError(
            "Certificates need one of SB3's feed-forward MLP policies on Box observations, with tanh or ReLU and "
            f"Gaussian or categorical actions, but {reason}. Search for attacks instead: evaluate_robustness."
        )


def _reasons(policy: Any) -> Iterator[str]:
    """Why a policy has no bounds, the most telling reason first."""
    if not isinstance(policy, ActorCriticPolicy):
        yield f"this is {type(policy).__name__}"
    if is_recurrent(policy):
        yield "this one is recurrent: what it does depends on all that it was shown before"
    if not isinstance(policy.observation_space, spaces.Box):
        yield f"its observations are {policy.observation_space}"
    if is_image_space(policy.observation_space):
        yield "its observations are images"
    if policy.use_sde:
        yield f"this one uses gSDE{', squashed by a tanh' if policy.squash_output else ''}"
    if type(policy.action_dist) not in (DiagGaussianDistribution, CategoricalDistribution):
        yield f"its actions are {policy.action_space}"
    yield f"the layers or methods of {type(policy).__name__} are others than SB3's"


_METHODS = {"crown": crown, "intervals": intervals}


class _Actor:
    """The actor of a policy, in double precision."""

    def __init__(self, model: OnPolicyAlgorithm, method: str) -> None:
        self.policy: Any = model.policy
        self.space: Any = model.action_space
        self.bound = _METHODS[method]
        modules = mlp.modules(model.policy, "actor")
        assert modules is not None  # as `check_certifiable` has found; for the types' sake
        self.modules = [copy.deepcopy(module).double() for module in modules]

    def certify(self, observations: th.Tensor, epsilon: float, around: Any) -> tuple[th.Tensor, ...]:
        actions = self.policy.get_distribution(observations).mode()
        if isinstance(self.space, spaces.Box):
            return self._mean(actions.double(), around(epsilon))
        margin = self._margin(actions, around(epsilon))
        return actions, margin, self._radius(actions, epsilon, around, margin > 0)

    def _mean(self, actions: th.Tensor, box: OutputBounds) -> tuple[th.Tensor, ...]:
        bounds, slack = self.bound(self.modules, box), rounding(self.modules, box)
        limits = [
            th.as_tensor(end, device=actions.device).double().flatten() for end in (self.space.low, self.space.high)
        ]
        # Clipped as the environment takes them: clipping is monotone.
        ends = (actions, bounds.low - slack, bounds.high + slack)
        taken, low, high = (th.maximum(th.minimum(end, limits[1]), limits[0]) for end in ends)
        return taken, low, high

    def _margin(self, actions: th.Tensor, box: OutputBounds) -> th.Tensor:
        """
        Bounds of the difference of two logits, which is a linear layer too: tighter than the difference of bounds.
        """
        *body, last = self.modules
        head: Any = last
        error = rounding(self.modules, box)
        # What a softmax may round away: a probability is compared, not a logit.
        logits = intervals(self.modules, box)
        error = error + 8 * UNIT * (1 + th.maximum(logits.low.abs(), logits.high.abs())).amax(1, keepdim=True)
        margin = th.full((len(actions),), th.inf, dtype=th.float64, device=actions.device)
        for action in sorted(set(actions.tolist())):
            rows = actions == action
            others = [other for other in range(head.out_features) if other != action]
            difference = nn.Linear(head.in_features, len(others), dtype=th.float64, device=actions.device)
            difference.weight.copy_(head.weight[action] - head.weight[others])
            difference.bias.copy_(head.bias[action] - head.bias[others])
            low = self.bound([*body, difference], OutputBounds(box.low[rows], box.high[rows])).low
            found = low - error[rows][:, [action]] - error[rows][:, others]
            margin[rows] = found.amin(1) if others else th.inf
        return margin

    def _radius(self, actions: th.Tensor, epsilon: float, around: Any, holds: th.Tensor) -> th.Tensor:
        """Bisection between an ε that was found to hold and a larger one: sound wherever it ends."""
        proven = th.where(holds, epsilon, 0.0).double()
        beyond = th.where(holds, _FURTHEST * epsilon, epsilon).double()
        for _ in range(_HALVINGS):
            tried = (proven + beyond) / 2
            holds = self._margin(actions, around(tried)) > 0
            proven, beyond = th.where(holds, tried, proven), th.where(holds, beyond, tried)
        return proven
