"""What every outer loss is: what it sees, what it returns, and when it is asked."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer

from sb3_barpo.adversary import DEFAULT_SOLVER, Adversary, Objective, Samples, Solver
from sb3_barpo.certify import OutputBounds
from sb3_barpo.policies.by_hand import Slopes
from sb3_barpo.schedules import KINDS, ScheduleLike, as_schedule

SelfLoss = TypeVar("SelfLoss", bound="OuterLoss")


class Rows(NamedTuple):
    """
    All that a loss sees of a minibatch: one number for each sample, never means.

    :param log_prob: Log-probabilities of the samples' actions at the clean and at the perturbed observations, shape
        ``(2, B)``, with gradient. For a loss that needs bounds, shape ``(3, B)``: at the clean observations, and bounds
        of the lowest and the highest within the ball.
    :param kl: Returns ``D_KL(π(·|s) ‖ π(·|s'))`` of each row, shape ``(B,)``, with gradient; for a loss that needs
        bounds, one of the largest within the ball. It is computed when it is asked for.
    :param notes: What :meth:`OuterLoss.begin` noted of each sample, shape ``(notes, B)``; ``None`` if nothing.
    """

    log_prob: th.Tensor
    kl: Callable[[], th.Tensor]
    notes: th.Tensor | None = None


class Rollout(NamedTuple):
    """
    What a loss sees of a rollout, before the update on it.

    :param buffer: The rollout.
    :param policy: The policy.
    :param box: Maps observations ``(N, *obs)`` to the box of all perturbed ones.
    :param generator: The only source of randomness that a loss may use.
    :param memory: What the loss keeps from rollout to rollout. It is not saved with the model.
    """

    buffer: RolloutBuffer
    policy: Any
    box: Callable[[th.Tensor], OutputBounds]
    generator: th.Generator
    memory: dict[str, Any]


class Terms(NamedTuple):
    """
    What a loss returns.

    :param loss: The scalar that replaces PPO's ``-mean surr(s)``.
    :param logs: What to log under ``adversary/``, scalars without gradient.
    """

    loss: th.Tensor
    logs: Mapping[str, th.Tensor]


@dataclass(frozen=True)
class OuterLoss(ABC):
    """
    What the policy descends on what the adversary found: the outer problem of a defence. It replaces PPO's policy loss
    ``-mean surr(s)`` and nothing else; value loss and entropy bonus stay on clean observations.

    Losses are frozen dataclasses. Their fields are the arguments that an algorithm takes by the same names: numbers or
    schedules, or anything else for a field with ``metadata={"schedule": False}``. A loss is asked at a strength above 0
    only.

    A row's share of a loss depends on that row alone, unless the loss says otherwise.
    """

    #: What is asked about the ball: ``"perturbed"`` observations, found by an objective and a solver, or ``"bounds"``
    #: of what the policy does anywhere in it.
    needs: ClassVar[Literal["perturbed", "bounds"]] = "perturbed"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """What is known of a loss is not known of a child's that is another one."""
        super().__init_subclass__(**kwargs)
        if "__call__" in cls.__dict__:
            for name in {"slopes", "is_ppo"} - cls.__dict__.keys():
                setattr(cls, name, vars(OuterLoss)[name])

    def __post_init__(self) -> None:
        for name in self.schedules():
            as_schedule(getattr(self, name))  # raises for what is none

    @classmethod
    def schedules(cls) -> list[str]:
        """:return: Names of the fields that are numbers or schedules."""
        return [field.name for field in dataclasses.fields(cls) if field.metadata.get("schedule", True)]

    def at(self: SelfLoss, progress_remaining: float) -> SelfLoss:
        """
        :param progress_remaining: From 1 at the beginning of training to 0 at its end.
        :return: The loss with numbers in the places of its schedules.
        :raises ValueError: if a schedule returns a negative or not finite number.
        """
        values: dict[str, Any] = {
            name: strength_at(name, getattr(self, name), progress_remaining) for name in self.schedules()
        }
        return dataclasses.replace(self, **values)

    @property
    def is_ppo(self) -> bool:
        """Whether this loss, with numbers in the places of its schedules, is PPO's own: then no adversary is asked."""
        return False

    def check(self, policy: Any, adversary: Adversary) -> None:  # noqa: B027  # a hook
        """
        Refuse what does not fit. By default all does.

        :param policy: The model's policy.
        :param adversary: The model's adversary.
        :raises TypeError: if the policy does not fit.
        :raises ValueError: if the adversary does not fit.
        """

    def begin(self, rollout: Rollout) -> th.Tensor | None:
        """
        Prepare for the update on a rollout. By default there is nothing to prepare.

        :param rollout: The rollout and what belongs to it.
        :return: Numbers to note of each sample, shape ``(notes, N)`` in the order of ``buffer.values.ravel()``; the
            loss sees them as :attr:`Rows.notes`.
        """
        return None

    @abstractmethod
    def __call__(self, rows: Rows, samples: Samples) -> Terms:
        """
        :param rows: The minibatch as the policy evaluates it.
        :param samples: Actions, old log-probabilities and advantages.
        :return: The loss and what to log.
        """

    def slopes(self, rows: Rows, samples: Samples) -> Slopes:
        """
        The loss with its gradient, for updates by hand. By default the gradient is found by autograd on the rows, which
        is right for every loss; one that writes it out is faster.

        :param rows: The minibatch, without gradient.
        :param samples: The rest of it.
        :return: The loss and its gradient. One that leaves the loss out (``None``) is called for all minibatches of an
            epoch at once, to be logged: then rows have the shape ``(2, minibatches, B)`` and no divergence, advantages
            and old log-probabilities ``(minibatches, B)``, and what it returns ``(minibatches,)``.
        """
        with th.inference_mode(False), th.enable_grad():
            log_prob = rows.log_prob.clone().requires_grad_()
            asked: list[th.Tensor] = []

            def kl() -> th.Tensor:
                if not asked:
                    asked.append(rows.kl().clone().requires_grad_())
                return asked[0]

            plain = samples._replace(old_log_prob=samples.old_log_prob.clone(), advantages=samples.advantages.clone())
            terms = self(rows._replace(log_prob=log_prob, kl=kl), plain)
            to_log_prob, *to_kl = th.autograd.grad(
                terms.loss, [log_prob, *asked], allow_unused=True, materialize_grads=True
            )
        return Slopes(terms.loss.detach(), named(terms.logs), to_log_prob, to_kl[0] if to_kl else None)

    def spec(self) -> dict[str, Any]:
        """:return: Its settings as YAML and JSON can hold them, by name."""
        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def named(logs: Mapping[str, th.Tensor]) -> dict[str, th.Tensor]:
    """:return: What a loss logs, by whole names."""
    return {f"adversary/{name}": value for name, value in logs.items()}


def plain(value: Any) -> Any:
    """:return: A setting as plain data: our own schedules as strings, all else as it is."""
    return str(value) if type(value) in KINDS.values() else value


def strength_at(name: str, value: ScheduleLike, progress_remaining: float) -> float:
    """
    :param name: Name of the setting, for the error.
    :param value: A number or a schedule.
    :param progress_remaining: From 1 at the beginning of training to 0 at its end.
    :return: The number at this time.
    :raises ValueError: if it is negative or not finite: a callable of the user's can return anything.
    """
    returned: Any = as_schedule(value)(progress_remaining)
    found = float(np.asarray(returned, dtype=np.float64).item())  # an array of one number would not mix with tensors
    if not 0 <= found < float("inf"):
        raise ValueError(f"{name} must be finite and at least 0, but its schedule gave {found}. Fix the schedule.")
    return found


@dataclass(frozen=True)
class Defence:
    """
    An adversary together with the loss that the policy descends on what the adversary found.

    :param objective: What the adversary raises, ``None`` for a solver that needs none.
    :param loss: The outer loss.
    :param solver: How the adversary climbs: by default ten steps of SGLD at the first visit of a sample and one at
        later ones.
    :raises TypeError: if the loss is no :class:`OuterLoss`.
    :raises ValueError: if objective and solver do not fit, see :class:`sb3_barpo.adversary.Adversary`.
    """

    objective: Objective | None
    loss: OuterLoss
    solver: Solver = DEFAULT_SOLVER

    def __post_init__(self) -> None:
        if not isinstance(self.loss, OuterLoss):
            raise TypeError(f"A defence needs an outer loss, WorstCase(kappa=1.0) for example, not {self.loss!r}.")
        self.adversary()

    def adversary(self) -> Adversary:
        """:return: The adversary, a new one each time."""
        return Adversary(self.objective, self.solver)
