"""The inner problem of an update: the adversary's answer to a minibatch, and the outer loss on it."""

from collections.abc import Iterator
from functools import partial
from typing import Any, TypeAlias

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from torch.nn import functional as F

from sb3_barpo.adversary import KL, Adversary, Bounds, DictBounds, Perturbation, Samples, Surrogate, Value
from sb3_barpo.adversary.solvers import needs_autograd
from sb3_barpo.certify import box_around
from sb3_barpo.certify.answers import answers_in
from sb3_barpo.losses import OuterLoss, Rows
from sb3_barpo.losses.base import Rollout
from sb3_barpo.policies.evaluate import Evaluated, action_distributions, evaluate_actions, kl_divergence
from sb3_barpo.policies.spaces import is_finite
from sb3_barpo.policies.views import evaluation_mode
from sb3_barpo.training.minibatches import LastVisits, knows_rows

#: What was seen in an update, by the names under which its means are logged.
Logs: TypeAlias = dict[str, list[th.Tensor]]


class Inner:
    """
    The adversary and the outer loss for the length of one update, at a strength above 0.

    :param adversary: Who looks for perturbed observations.
    :param loss: What the policy descends on, its schedules replaced by numbers.
    :param epsilon: The strength.
    :param bounds: Limits of the observations.
    :param buffer: The rollout.
    :param visits: Tells which samples a minibatch holds and where their searches ended, ``None`` where nobody asks.
    :param notes: What the loss noted of each sample, shape ``(notes, N)``; needs ``visits``.
    """

    def __init__(
        self,
        adversary: Adversary,
        loss: OuterLoss,
        epsilon: float,
        bounds: Bounds | DictBounds | None,
        buffer: RolloutBuffer,
        visits: LastVisits | None,
        notes: th.Tensor | None = None,
    ) -> None:
        self.adversary = adversary
        self.loss = loss
        self.epsilon = epsilon
        self.bounds = bounds
        self._buffer = buffer
        self._visits = visits
        # As for the visits, row 0 is what sequences are padded with.
        self._notes = None if notes is None else F.pad(notes, (1, 0))

    @classmethod
    def begin(
        cls, model: Any, adversary: Adversary, loss: OuterLoss, epsilon: float, bounds: Bounds | DictBounds | None
    ) -> "Inner":
        """
        Look at the rollout before the update on it.

        :param model: The algorithm, with a full rollout.
        :param adversary: Who looks for perturbed observations.
        :param loss: What the policy descends on, its schedules replaced by numbers.
        :param epsilon: The strength.
        :param bounds: Limits of the observations.
        :return: The inner problem of this update.
        :raises ValueError: if an observation of the rollout is NaN or infinite.
        :raises TypeError: if the loss notes numbers of each sample, and the buffer is of a kind that does not tell
            which samples a minibatch holds.
        """
        buffer = model.rollout_buffer
        if not is_finite(buffer.observations):
            raise ValueError(
                "An observation of this rollout is NaN or infinite, so it cannot be perturbed. Find the environment's "
                "fault, with stable_baselines3's VecCheckNan for example."
            )
        box = partial(box_around, epsilon=epsilon, ball=adversary.ball, limits=bounds)
        generator = adversary.generator(model.device)
        notes = loss.begin(Rollout(buffer, model.policy, box, generator, model._memory_of_loss))
        known = knows_rows(buffer)
        if notes is not None and not known:
            raise TypeError(
                f"{type(loss).__name__} notes numbers of each sample, which it finds again in the rollout buffers of "
                f"SB3 and sb3-contrib only, not in {type(buffer).__name__}. Leave rollout_buffer_class out."
            )
        again = model.n_epochs > 1 and adversary.solver.warm
        visits = LastVisits(buffer) if known and (again or notes is not None) else None
        return cls(adversary, loss, epsilon, bounds, buffer, visits, notes)

    def get(self, batch_size: int) -> Iterator[Any]:
        """:return: The minibatches of the rollout, each sample once."""
        return self._buffer.get(batch_size) if self._visits is None else self._visits.get(batch_size)

    def __call__(
        self, policy: Any, observations: Any, samples: Samples, logs: Logs, record: bool
    ) -> tuple[Evaluated, th.Tensor]:
        """
        :param policy: The policy as it answers to the minibatch's observations.
        :param observations: The clean observations, shape ``(B, *obs)`` or by key.
        :param samples: The rest of the minibatch.
        :param logs: Where to log.
        :param record: Whether to log how well the adversary did: on all minibatches it would cost what it tells.
        :return: The evaluated minibatch, and the outer loss.
        """
        if self.loss.needs == "bounds":
            seen, rows = self._enclosed(policy, observations, samples, logs)
        else:
            seen, rows = self._searched(policy, observations, samples, logs, record)
        terms = self.loss(rows, samples)
        for name, value in terms.logs.items():
            logs[f"adversary/{name}"].append(value)
        return seen, terms.loss

    def _enclosed(self, policy: Any, observations: Any, samples: Samples, logs: Logs) -> tuple[Evaluated, Rows]:
        """What the policy does anywhere in the ball."""
        box = box_around(observations, self.epsilon, self.adversary.ball, self.bounds)
        share: float = self.loss.intervals  # type: ignore[attr-defined]  # a number, after `at`
        answers = answers_in(policy, observations, box, samples.actions, share)
        logs["adversary/width"].append(answers.width)
        return answers.evaluated, Rows(answers.evaluated.log_prob, answers.kl)

    def _searched(
        self, policy: Any, observations: Any, samples: Samples, logs: Logs, record: bool
    ) -> tuple[Evaluated, Rows]:
        """What the policy does where the adversary has led it."""
        found = self._visit(policy, observations, samples)
        perturbed = found.observations
        if record:
            self.record(policy, observations, found, samples, logs)
        seen = evaluate_actions(policy, observations, perturbed, samples.actions)

        def kl() -> th.Tensor:
            clean, moved = (action_distributions(policy, some) for some in (observations, perturbed))
            return kl_divergence(clean, moved)

        notes = None if self._notes is None or self._visits is None else self._notes[:, self._visits.rows]
        return seen, Rows(seen.log_prob, kl, notes)

    def _visit(self, policy: Any, observations: Any, samples: Samples) -> Perturbation:
        """The adversary's answer, remembered if its solver will want to start from it."""
        visits = self._visits if self.adversary.solver.warm else None
        start = None if visits is None else visits.ended()
        found = self.search(policy, observations, samples, start)
        if visits is not None:
            visits.end(found.delta)
        return found

    @property
    def is_plain(self) -> bool:
        """
        Whether the loss sees its rows alone and all of the search is this package's: in updates by hand there is no
        autograd, on which objectives and solvers of others may rely.
        """
        adversary = self.adversary
        return (
            self.loss.needs == "perturbed"
            and self._notes is None
            and type(adversary) is Adversary
            and not {"search", "perturb"} & vars(adversary).keys()
            and type(adversary.objective) in (type(None), KL, Surrogate, Value)
            and not needs_autograd(adversary.solver)
        )

    def search(self, policy: Any, observations: Any, samples: Samples, start: th.Tensor | None) -> Perturbation:
        """
        :param policy: The policy.
        :param observations: Clean observations, shape ``(B, *obs)`` or by key.
        :param samples: The rest of the minibatch.
        :param start: Where the search starts, ``delta`` of an earlier one; its own start by default.
        :return: The adversary's answer.
        """
        return self.adversary.search(policy, observations, self.epsilon, samples, self.bounds, start)

    def record_rows(
        self,
        policy: Any,
        observations: th.Tensor,
        delta: th.Tensor,
        log_prob: th.Tensor,
        kl: th.Tensor,
        samples: Samples,
        logs: Logs,
    ) -> None:
        """
        The same as :meth:`record`, from what an update by hand knows.

        :param policy: The policy.
        :param observations: Clean observations, shape ``(B, features)``.
        :param delta: What was added to them, of the same shape.
        :param log_prob: Shape ``(2, B)``, clean and perturbed.
        :param kl: Shape ``(B,)``.
        :param samples: The rest of the minibatch.
        :param logs: Where to log.
        """
        adversary = self.adversary
        gain = None if adversary.objective is None else adversary.objective.gain(log_prob, kl, samples)
        if gain is None:
            gain = adversary.gain(policy, observations, observations + delta, samples)
        for name, values in (("gain", gain), ("kl", kl), ("radius_used", adversary.ball.norm(delta))):
            logs[f"adversary/{name}"].append(values.mean())

    def record(self, policy: Any, observations: Any, found: Perturbation, samples: Samples, logs: Logs) -> None:
        """Log how well the adversary did."""
        gain = self.adversary.gain(policy, observations, found.observations, samples)
        with evaluation_mode(policy), th.no_grad():
            kl = KL().prepare(policy, observations)(found.observations)
        radius = self.adversary.radius(observations, found.delta)
        for name, values in (("gain", gain), ("kl", kl), ("radius_used", radius)):
            logs[f"adversary/{name}"].append(samples.mean(values))
