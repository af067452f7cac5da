"""The contract of attacks."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor

from sb3_barpo.adversary import observation_bounds
from sb3_barpo.adversary.layout import layout_of
from sb3_barpo.attacks import Attack, LearnedAttack, Memory
from sb3_barpo.policies.spaces import by_key, by_parts
from sb3_barpo.testing.contract import TOLERANCE, alike, demand, untouched
from sb3_barpo.testing.scene import ROWS


def check_attack(attack: Attack, observations: Any = None) -> None:
    """
    The contract of an attack. It shows observations of the same shapes and types, within ε of the clean ones, and
    within the limits that it is given; at strength 0 the clean ones; one seed gives one result; a row's result depends
    on that row, and on its generator, alone; no global generator is drawn from; the victim and the clean observations
    stay as they were; another strength is another attack. A learned attack is the same after it was stored.

    :param attack: The attack, at a strength above 0, fitted if it learns.
    :param observations: Clean observations, arrays ``(B, *obs)`` or by key; eight of the space's own by default.
    :raises ContractError: at the first promise that is broken.
    """
    demand(attack.epsilon > 0, attack, "this check needs a strength above 0.")
    clean = _drawn(attack.observation_space) if observations is None else observations
    rows = len(next(iter(by_parts(clean).values())))
    limits = observation_bounds(attack.observation_space, device=attack.model.device)

    def shown(by: Attack, seen: Any = clean, bounds: Any = None) -> Any:
        by.seed(5)
        return by.perturb(seen, bounds, Memory.of(attack.model, rows))

    with untouched(attack, attack.model.policy, observations=clean):
        perturbed, limited = shown(attack), shown(attack, bounds=limits)
    _check_kind(attack, perturbed, clean)
    _check_kind(attack, limited, clean)
    demand(_radius(attack, perturbed, clean) <= attack.epsilon, attack, "it must stay within ε, but it goes further.")
    demand(_radius(attack, limited, clean) <= attack.epsilon, attack, "it must stay within ε under limits too.")
    if limits is not None:
        clipped: Any = limits
        tensors = (obs_as_tensor(some, attack.model.device) for some in (limited, clean))
        demand(alike(clipped.clip(*tensors), limited), attack, "it must keep to the limits that it is given.")
    demand(alike(shown(attack), perturbed), attack, "one seed must give one result.")
    demand(alike(shown(attack.at(0.0)), clean), attack, "at strength 0 it must show the clean observations.")
    half = attack.at(attack.epsilon / 2)
    demand(
        half is not attack and _radius(attack, shown(half), clean) <= half.epsilon,
        attack,
        "at() must return another attack, which stays within the strength that it is given.",
    )
    kept = rows // 2
    others = by_key(lambda part: _others(part, kept), clean)
    result, beside = (by_key(lambda part: part[kept], some) for some in (perturbed, shown(attack, others)))
    demand(alike(result, beside), attack, "a row's result must depend on that row alone, but it feels its neighbours.")
    if isinstance(attack, LearnedAttack):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "attack.zip"
            attack.save(file)
            stored = type(attack).load(file, attack.model, attack.transfer)
        demand(alike(shown(stored), perturbed), attack, "after it was stored and loaded, it must do the same.")


def _drawn(space: spaces.Space[Any]) -> Any:
    """Observations of the space; the first and the last of them at its limits, where it has some."""
    own = copy.deepcopy(space)
    own.seed(0)
    drawn = [own.sample() for _ in range(ROWS)]
    if not isinstance(own, spaces.Dict):
        return _stretched(np.stack(drawn), own)
    return {key: _stretched(np.stack([one[key] for one in drawn]), part) for key, part in own.items()}


def _stretched(drawn: np.ndarray, space: spaces.Space[Any]) -> np.ndarray:
    if isinstance(space, spaces.Box):
        for row, limit in ((0, space.low), (-1, space.high)):
            drawn[row] = np.where(np.isfinite(limit), limit, drawn[row])
    return drawn


def _others(part: np.ndarray, kept: int) -> np.ndarray:
    others = part[::-1].copy()
    others[kept] = part[kept]
    return others


def _check_kind(attack: Attack, perturbed: Any, clean: Any) -> None:
    parts = by_parts(perturbed)
    for key, part in by_parts(clean).items():
        found: Any = parts.get(key)
        demand(
            isinstance(found, np.ndarray) and found.shape == part.shape and found.dtype == part.dtype,
            attack,
            f"it must return arrays of the clean ones' shapes and types, {part.dtype} {part.shape}, but returned "
            f"{getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}.",
        )
        demand(bool(np.isfinite(found).all()), attack, "what it shows must be finite.")


def _radius(attack: Attack, perturbed: Any, clean: Any) -> float:
    """The largest radius that a row uses, less what rounding may add."""
    layout = layout_of(by_key(lambda part: th.as_tensor(np.asarray(part)), clean), attack.ball)
    seen, moved = (by_key(lambda part: th.as_tensor(np.asarray(part)).double(), some) for some in (clean, perturbed))
    radius = layout.unit * layout.ball.norm(layout.difference(moved, seen))
    return float(radius.max()) * (1 - TOLERANCE) - 1e-6
