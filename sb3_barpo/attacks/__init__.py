"""Attacks on observations, and their three wrappers."""

from collections.abc import Sequence

from sb3_barpo.attacks.attack import Attack, GradientAttack
from sb3_barpo.attacks.gradient import MAD, Critic, Random
from sb3_barpo.attacks.learned import LearnedAttack, Origin
from sb3_barpo.attacks.memory import Memory
from sb3_barpo.attacks.paad import PAAD
from sb3_barpo.attacks.reversed_roles import PolicyAttack, RoleReversedVecEnv
from sb3_barpo.attacks.sarl import SARL
from sb3_barpo.attacks.sarsa import RobustSarsa, SarsaMAD
from sb3_barpo.attacks.searched import MaxKL, Push, WorstQ
from sb3_barpo.attacks.wrappers import AttackObservation, UnderAttack, VecAttackObservation

#: The attacks by name.
ATTACKS: dict[str, type[Attack]] = {
    kind.name: kind for kind in (Random, Critic, MAD, MaxKL, Push, RobustSarsa, SarsaMAD, WorstQ, SARL, PAAD)
}
#: The six on which the field's tables rest: ``"standard"`` or ``"all"``.
SIX = [Random.name, Critic.name, MAD.name, RobustSarsa.name, SARL.name, PAAD.name]
#: What ``"auto"`` searches among.
AUTO = [
    Random.name,
    Critic.name,
    MAD.name,
    MaxKL.name,
    Push.name,
    RobustSarsa.name,
    WorstQ.name,
    SARL.name,
    PAAD.name,
]
#: Several attacks by one name.
SETS = {"auto": AUTO, "standard": SIX, "all": SIX}


def attack_names(attacks: str | Attack | Sequence[str | Attack]) -> list[str | Attack]:
    """
    :param attacks: ``"auto"``, ``"standard"`` for the six of the field (``"all"`` is the same), names, and attacks that
        are built already; one or several.
    :return: Names and attacks, one by one.
    :raises ValueError: for an unknown name, or none at all.
    :raises TypeError: for what is neither name nor attack.
    """
    listed = [attacks] if isinstance(attacks, str | Attack) else list(attacks)
    names: list[str | Attack] = []
    for attack in listed:
        if not isinstance(attack, str | Attack):
            raise TypeError(f"An attack is a name or an Attack object, MAD(model, 0.075) for example, not {attack!r}.")
        if isinstance(attack, str) and attack not in (*SETS, *ATTACKS):
            raise ValueError(
                f"Unknown attack {attack!r}. Choose from {', '.join(ATTACKS)}, 'auto' for {AUTO}, or 'all' for {SIX}."
            )
        names += SETS[attack] if isinstance(attack, str) and attack in SETS else [attack]
    if not names:
        raise ValueError(
            f"There are no attacks: attacks is {attacks!r}. Name at least one; for returns without an attack, use "
            "stable_baselines3's evaluate_policy."
        )
    return names


__all__ = [
    "ATTACKS",
    "AUTO",
    "MAD",
    "PAAD",
    "SARL",
    "SETS",
    "SIX",
    "Attack",
    "AttackObservation",
    "Critic",
    "GradientAttack",
    "LearnedAttack",
    "MaxKL",
    "Memory",
    "Origin",
    "PolicyAttack",
    "Push",
    "Random",
    "RobustSarsa",
    "RoleReversedVecEnv",
    "SarsaMAD",
    "UnderAttack",
    "VecAttackObservation",
    "WorstQ",
    "attack_names",
]
