"""The contract of outer losses."""

import json
from functools import partial

import torch as th

from sb3_barpo.adversary import LinfBall, Samples
from sb3_barpo.certify import box_around
from sb3_barpo.losses import OuterLoss, Rows
from sb3_barpo.losses.base import Rollout, named
from sb3_barpo.testing.contract import ContractError, alike, demand, demand_rows, pickled, untouched
from sb3_barpo.testing.scene import example_observations, example_policy, example_rollout, example_samples

_TIMES = (1.0, 0.5, 0.0)


def check_loss(loss: OuterLoss, rows_independent: bool = True) -> None:
    """
    The contract of an outer loss. It is a frozen dataclass whose settings can be written as JSON and read again; it
    returns a finite scalar with a gradient, and logs scalars without one; it is the same each time; a gradient that it
    states itself is that of the loss; rows that do not count do not change it; a row's share depends on that row alone,
    unless the loss says otherwise; what it notes before an update is finite, one column a sample; it draws from no
    global generator, leaves the policy and its arguments as they were, and survives pickling.

    :param loss: The loss.
    :param rows_independent: ``False`` for a loss whose docstring says that rows share something, such as weights that
        sum to 1.
    :raises ContractError: at the first promise that is broken.
    """
    _check_settings(loss)
    policy = example_policy()
    samples = example_samples(policy, example_observations())
    clean, apart = samples.old_log_prob + 0.05, 0.03 * th.arange(1.0, 9.0)
    log_prob = th.stack([clean, clean - apart] if loss.needs == "perturbed" else [clean, clean - apart, clean + apart])
    now = loss.at(0.5)

    with untouched(loss, policy):
        box = partial(box_around, epsilon=0.1, ball=LinfBall(), limits=None)
        notes = now.begin(Rollout(example_rollout(policy), policy, box, th.Generator().manual_seed(0), {}))
    if notes is not None:
        demand_rows(loss, "what begin() notes", notes, (len(notes), len(clean)))
        notes = notes.detach()
    evaluated = partial(_evaluated, notes=notes)
    with untouched(loss, policy, log_prob=log_prob, advantages=samples.advantages, actions=samples.actions):
        value, slope = evaluated(now, log_prob, samples)
    demand(alike(evaluated(now, log_prob, samples)[0], value), loss, "it must return the same value each time.")

    if loss.needs == "perturbed" and notes is None:  # as updates by hand need it
        _check_slopes(now, log_prob, samples)
    masked = samples._replace(mask=th.arange(len(samples.actions)) < 6)
    filled = log_prob.clone()
    filled[:, 6:] += 0.3
    value, slope = evaluated(now, log_prob, masked)
    demand(
        alike(evaluated(now, filled, masked)[0], value) and not slope[:, 6:].any(),
        loss,
        "rows that do not count (samples.mask is False there) must not change it. Take means by samples.mean.",
    )
    if rows_independent:
        others = log_prob + 0.04
        others[:, 3] = log_prob[:, 3]
        demand(
            alike(evaluated(now, others, samples)[1][:, 3], evaluated(now, log_prob, samples)[1][:, 3]),
            loss,
            "a row's share must depend on that row alone, but its gradient changes with the other rows. If that is "
            "meant, say so in its docstring and check it by rows_independent=False.",
        )
    demand(
        alike(evaluated(pickled(loss).at(0.5), log_prob, samples)[0], evaluated(now, log_prob, samples)[0]),
        loss,
        "after pickling, it must return the same value.",
    )


def _check_settings(loss: OuterLoss) -> None:
    demand(
        "__dataclass_fields__" in vars(type(loss)),  # its own: those of its parent do not know its settings
        loss,
        "its class must be a frozen dataclass, @dataclass(frozen=True), so that its fields are its settings.",
    )
    for time in _TIMES:
        numbers = loss.at(time)
        demand(
            type(numbers) is type(loss) and all(isinstance(getattr(numbers, name), float) for name in loss.schedules()),
            loss,
            "at() must return the same loss with numbers in the places of its schedules.",
        )
    try:
        again = type(loss)(**json.loads(json.dumps(loss.spec())))
    except TypeError as error:
        raise ContractError(
            f"{loss!r} breaks its contract: its constructor must take what spec() returns, also from JSON, but: {error}"
        ) from error
    demand(
        all(again.at(time) == loss.at(time) for time in _TIMES),
        loss,
        f"its constructor must make the same loss of what spec() returns, but that makes {again!r}.",
    )


def _check_slopes(loss: OuterLoss, log_prob: th.Tensor, samples: Samples) -> None:
    """The gradient that a loss writes out, against automatic differentiation."""
    apart = (log_prob[0] - log_prob[1]).square() / 2
    stated = loss.slopes(Rows(log_prob, apart.clone), samples)
    leaves = [log_prob.clone().requires_grad_(), apart.clone().requires_grad_()]
    terms = loss(Rows(leaves[0], lambda: leaves[1]), samples)
    found = th.autograd.grad(terms.loss, leaves, allow_unused=True, materialize_grads=True)
    demand(
        stated.loss is None or (alike(stated.loss, terms.loss.detach()) and alike(stated.logs, named(terms.logs))),
        loss,
        "slopes() must return the same loss and the same logs as a call, or None for the loss.",
    )
    to_kl = th.zeros_like(apart) if stated.kl is None else stated.kl
    demand(
        alike(stated.log_prob, found[0]) and alike(to_kl, found[1]) and (stated.clean or not found[0][0].any()),
        loss,
        "slopes() must return the gradient of the loss, but automatic differentiation gives another one.",
    )


def _evaluated(
    loss: OuterLoss, log_prob: th.Tensor, samples: Samples, notes: th.Tensor | None
) -> tuple[th.Tensor, th.Tensor]:
    """The loss, and its gradient with respect to the log-probabilities."""
    leaf = log_prob.clone().requires_grad_()
    terms = loss(Rows(leaf, lambda: (leaf[0] - leaf[1]).square() / 2, notes), samples)
    value = terms.loss
    scalar = isinstance(value, th.Tensor) and value.shape == () and bool(value.isfinite())
    demand(scalar, loss, f"it must return a finite scalar tensor, Terms(loss, logs), but the loss is {value!r}.")
    demand(
        value.requires_grad, loss, "it must have a gradient with respect to the policy. Use no detach() or no_grad()."
    )
    for name, log in terms.logs.items():
        plain = isinstance(log, th.Tensor) and log.shape == () and not log.requires_grad
        demand(plain, loss, f"what it logs must be scalar tensors without gradient, but {name!r} is {log!r}.")
    (slope,) = th.autograd.grad(value, leaf)
    demand(
        bool(slope.isfinite().all()) and bool(slope.any()),
        loss,
        "its gradient with respect to the log-probabilities must be finite, and not 0 everywhere.",
    )
    return value.detach(), slope
