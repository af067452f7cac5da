"""What the checks have in common: their error, and what a part must leave as it was."""

import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch as th

Part = TypeVar("Part")

#: Results of the same computation may differ by so much, relative to their size: rounding, not meaning.
TOLERANCE = 1e-4


class ContractError(AssertionError):
    """A part breaks its contract. The message names the part, what it promises, and what was seen."""


def demand(rule: bool, part: object, promise: str) -> None:
    """
    :param rule: Whether the promise is kept.
    :param part: The part under test.
    :param promise: What it promises and what was seen, a sentence that follows on the part's name.
    :raises ContractError: if it is not kept.
    """
    if not rule:
        raise ContractError(f"{part!r} breaks its contract: {promise}")


def alike(left: Any, right: Any) -> bool:
    """:return: Whether two tensors, arrays, or either by key, are of one shape and equal up to rounding."""
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(alike(left[key], right[key]) for key in left)
    one, other = (th.as_tensor(np.asarray(side) if not isinstance(side, th.Tensor) else side) for side in (left, right))
    if one.shape != other.shape:
        return False
    return bool(th.allclose(one.double(), other.double(), rtol=TOLERANCE, atol=TOLERANCE * 1e-2))


def demand_rows(part: object, what: str, values: th.Tensor, shape: tuple[int, ...]) -> None:
    """
    :param part: The part under test.
    :param what: What the values are, for the message.
    :param values: What it returned.
    :param shape: Shape that it promises.
    :raises ContractError: if they are no finite floating-point tensor of this shape.
    """
    demand(isinstance(values, th.Tensor), part, f"{what} must be a tensor, not {type(values).__name__}.")
    demand(tuple(values.shape) == shape, part, f"{what} must have the shape {shape}, not {tuple(values.shape)}.")
    demand(values.is_floating_point(), part, f"{what} must be of a floating type, not {values.dtype}.")
    demand(bool(values.isfinite().all()), part, f"{what} must be finite, but there are NaN or infinite values.")


def demand_independent_rows(part: object, what: str, values: Callable[[th.Tensor], th.Tensor], rows: th.Tensor) -> None:
    """
    :param part: The part under test.
    :param what: What the values are, for the message.
    :param values: Maps rows ``(B, ...)`` to values ``(B, ...)``.
    :param rows: What to try it on.
    :raises ContractError: if a row's value changes with the other rows.
    """
    kept = len(rows) // 2
    others = rows.flip(0) * 0.5 + 0.1
    others[kept] = rows[kept]
    demand(
        alike(values(rows)[kept], values(others)[kept]),
        part,
        f"{what} of a row must depend on that row alone, but it changes with its neighbours in the batch. "
        "Compute one value per row; no mean, maximum or norm over the batch.",
    )


def pickled(part: Part) -> Part:
    """
    :return: The part from its pickle.
    :raises ContractError: if it cannot be pickled.
    """
    try:
        copy: Part = pickle.loads(pickle.dumps(part))
    except Exception as error:  # pickling runs the part's own code
        raise ContractError(
            f"{part!r} breaks its contract: it must survive pickling, since it is saved with the agent and sent to "
            f"other processes, but: {error}. Define its class at the top of a module, and keep no open resources."
        ) from error
    return copy


@contextmanager
def untouched(part: object, policy: th.nn.Module | None = None, **tensors: Any) -> Iterator[None]:
    """
    :param part: The part under test.
    :param policy: A policy that must stay as it is: weights, buffers, modes and gradients.
    :param tensors: Tensors and arrays, or either by key, that must stay as they are, by their names.
    :raises ContractError: if one of them, or a global random generator, is another one afterwards.
    """
    generators, state, inputs = _generators(), _state(policy), pickle.dumps(tensors)
    before = pickle.loads(inputs)
    yield
    for name, value in _generators().items():
        demand(
            value == generators[name],
            part,
            f"it must not draw from {name}'s global random generator: one draw changes the actions that a rollout "
            "samples. Draw from the generator that it is given, or from one of its own.",
        )
    for name, value in _state(policy).items():
        demand(value == state[name], part, f"it must leave the policy as it was, but its {name} changed.")
    for name, value in tensors.items():
        demand(_same(value, before[name]), part, f"it must not change its argument {name} in place.")


def _generators() -> dict[str, bytes]:
    return {
        "PyTorch": th.get_rng_state().numpy().tobytes(),
        "NumPy": pickle.dumps(np.random.get_state()),
        "Python": pickle.dumps(random.getstate()),
    }


def _state(policy: th.nn.Module | None) -> dict[str, bytes]:
    if policy is None:
        return {}
    return {
        "state_dict": pickle.dumps([value.cpu().numpy() for value in policy.state_dict().values()]),
        "training mode": pickle.dumps([module.training for module in policy.modules()]),
        "gradients": pickle.dumps([None if p.grad is None else p.grad.cpu().numpy() for p in policy.parameters()]),
    }


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Mapping):
        return all(_same(left[key], right[key]) for key in left)
    return bool(th.equal(left, right)) if isinstance(left, th.Tensor) else np.array_equal(left, right)
