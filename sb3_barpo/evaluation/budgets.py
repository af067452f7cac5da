"""
How hard a learned attack is searched for: the members of its grid.

``paper`` is the published grid (Zhang et al., 2020 and 2021). ``standard`` is far smaller and trains its attackers in
other ways; the documentation's page on attacks compares the two. ``quick`` is a subset of ``standard``.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from sb3_barpo.attacks import PAAD, SARL, RobustSarsa, SarsaMAD, WorstQ


@dataclass(frozen=True)
class Member:
    """
    One attacker to fit.

    :param attack: Its name.
    :param total_timesteps: Environment steps of its fit.
    :param settings: Arguments of its class, such as JSON can hold. A ``learning_rate`` ``"lin_0.001"`` falls linearly
        to 0, as in the RL Zoo; ``value_rate`` is the learning rate of the value network relative to the policy's.
    :param seed: Tells members of the same settings apart.
    """

    attack: str
    total_timesteps: int
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Budget:
    """
    :param members: What is fitted for each attack.
    :param n_episodes: Episodes by which members are compared, others than those of the report.
    """

    members: dict[str, list[Member]]
    n_episodes: int


#: Shares of MAD in RS+MAD: the published grid. They cost nothing but the comparison.
_RHOS = [1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]


@dataclass(frozen=True)
class _Rates:
    """
    Published learning rates.

    :param sarsa: Robust Sarsa's.
    :param ordinary: Those of SA-RL's policy and of its value network for ordinary victims.
    :param robust: The same for victims that were trained to be robust.
    """

    sarsa: float
    ordinary: tuple[list[float], list[float]]
    robust: tuple[list[float], list[float]]


_LOW, _MIDDLE, _HIGH = [3e-5, 1e-4, 3e-4], [1e-4, 3e-4, 1e-3], [3e-4, 1e-3, 3e-3]
_RATES = {
    "Hopper": _Rates(2.5e-4, (_HIGH, _HIGH), (_MIDDLE, _MIDDLE)),
    "Walker2d": _Rates(3e-4, (_MIDDLE, _MIDDLE), (_MIDDLE, _MIDDLE)),
    "HalfCheetah": _Rates(1e-4, (_HIGH, [1e-5, 3e-5, 1e-4]), (_MIDDLE, _LOW)),
    "Ant": _Rates(1e-5, (_LOW, _LOW), ([1e-5, 3e-5, 1e-4], [1e-5, 3e-5, 1e-4])),
}


def make_budget(budget: str | Budget, env_id: str, robust_victim: bool, n_envs: int) -> Budget:
    """
    :param budget: ``"quick"``, ``"standard"`` or ``"paper"``; a :class:`Budget` is returned unchanged.
    :param env_id: Id of the environment: the published grids differ between tasks, others take Hopper's.
    :param robust_victim: Whether the victim was trained to be robust: the published grids differ.
    :param n_envs: Number of environments that step together.
    :return: The members of each learned attack.
    :raises ValueError: for an unknown budget.
    """
    check_budget(budget)
    if isinstance(budget, Budget):
        return budget
    task = env_id.split("-")[0]
    return BUDGETS[budget](task, robust_victim, n_envs)


def check_budget(budget: str | Budget) -> None:
    """
    :raises ValueError: for an unknown budget.
    """
    if not isinstance(budget, Budget) and budget not in BUDGETS:
        raise ValueError(f"Unknown budget {budget!r}. Choose from {', '.join(BUDGETS)}, or pass a Budget.")


def _quick(task: str, robust_victim: bool, n_envs: int) -> Budget:
    sarl, paad = [adversary(n_envs, 6.0, **COHERENT)], [adversary(n_envs, 3.0)]
    return _budget([_sarsa(0.05, 0.3), _sarsa(0.1, 1.0)], 100_000, sarl, paad, 10)


def _standard(task: str, robust_victim: bool, n_envs: int) -> Budget:
    # Each setting works on agents on which the other fails.
    sarsa = [_sarsa(radius, weight) for radius, weight in itertools.product([0.05, 0.1, 0.2], [0.3, 1.0])]
    sarl = [adversary(n_envs, 6.0, **COHERENT), adversary(n_envs, 1.0, **QUIET)]
    paad = [adversary(n_envs, 3.0), adversary(n_envs, 6.0, **FARSIGHTED)]
    return _budget(sarsa, 200_000, sarl, paad, 20)


#: Exploration by gSDE, whose noise depends on the state and stays for some steps. Independent noise of each step and
#: feature averages out before it harms the victim.
COHERENT: dict[str, Any] = {"use_sde": True, "sde_sample_freq": 8, "policy_kwargs": {"log_std_init": -1.0}}
#: Little noise at first: the adversary starts from the victim's own failures, if it has any.
QUIET: dict[str, Any] = {"policy_kwargs": {"log_std_init": -2.0}}
#: For victims that fail late.
FARSIGHTED: dict[str, Any] = {"gamma": 0.999, "gae_lambda": 0.99}


def adversary(n_envs: int, curriculum: float, rollout: int = 2048, **changes: Any) -> dict[str, Any]:
    """
    Settings of an adversary that learns in few steps.

    :param n_envs: Number of environments.
    :param curriculum: Multiple of ε with which it begins. At ε itself the victim may never fail by chance, and the
        adversary settles for slowing it down.
    :param rollout: Steps of all environments together between two updates, roughly.
    :param changes: Further settings.
    """
    sizes = {"n_steps": _rollout(n_envs, 256, rollout), "batch_size": 256}
    return {"curriculum": curriculum, "learning_rate": 1e-3, "clip_range": 0.4, **sizes, **changes}


def _rollout(n_envs: int, batch_size: int, steps: int = 2048) -> int:
    """Steps of each environment, so that all make about so many together, in whole minibatches."""
    whole = batch_size // math.gcd(batch_size, n_envs)
    return max(round(steps / (n_envs * whole)), 1) * whole


def _paper(task: str, robust_victim: bool, n_envs: int) -> Budget:
    rates = _RATES.get(task, _RATES["Hopper"])
    sarsa = [
        _sarsa(radius, weight, rates.sarsa)
        for radius, weight in itertools.product([0.02, 0.05, 0.1, 0.15, 0.2, 0.3], [0.1, 0.3, 1.0, 3.0, 10.0])
    ]
    steps = 2048 * (2441 if task == "Ant" else 488)
    policy_rates, value_rates = rates.robust if robust_victim else rates.ordinary
    adversaries = [
        {
            "learning_rate": f"lin_{rate:g}" if anneal else rate,
            "value_rate": value_rate / rate,
            "clip_range": clip,
            "ent_coef": entropy,
            "n_steps": _rollout(n_envs, 64),
            "batch_size": 64,
            "max_grad_norm": 1e9,  # published without a limit
        }
        for anneal, clip, entropy, rate, value_rate in itertools.product(
            [True, False], [0.2, 0.4], [0.0, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3], policy_rates, value_rates
        )
    ]
    return _budget(sarsa, steps, adversaries, adversaries, 50)  # no grid is published for PA-AD


def _budget(
    sarsa: list[Member], steps: int, sarl: list[dict[str, Any]], paad: list[dict[str, Any]], n_episodes: int
) -> Budget:
    members = {
        RobustSarsa.name: sarsa,
        SarsaMAD.name: [Member(SarsaMAD.name, 0, {"rho": rho}) for rho in _RHOS],
        WorstQ.name: [Member(WorstQ.name, 0)],
        SARL.name: [Member(SARL.name, steps, settings) for settings in sarl],
        PAAD.name: [Member(PAAD.name, steps, settings) for settings in paad],
    }
    return Budget(members, n_episodes)


def _sarsa(radius: float, weight: float, learning_rate: float = 2.5e-4) -> Member:
    settings = {"sarsa_epsilon": radius, "regularization": weight, "learning_rate": learning_rate}
    return Member(RobustSarsa.name, 61_440, settings)


BUDGETS = {"quick": _quick, "standard": _standard, "paper": _paper}
