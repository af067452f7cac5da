"""Attacks on observations, and the three faces by which they meet an agent."""

from collections.abc import Callable, Sequence

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_barpo.attacks.attack import Attack, GradientAttack
from sb3_barpo.attacks.faces import AttackObservation, UnderAttack, VecAttackObservation
from sb3_barpo.attacks.gradient import MAD, Critic, Random

#: The attacks by name, from the weakest to the strongest.
ATTACKS: dict[str, Callable[[OnPolicyAlgorithm, float], Attack]] = {
    Random.name: Random,
    Critic.name: Critic,
    MAD.name: MAD,
}


def make_attacks(attacks: str | Sequence[str | Attack], model: OnPolicyAlgorithm, epsilon: float) -> list[Attack]:
    """
    :param attacks: ``"all"``, or names and attacks that are built already.
    :param model: The victim of the named ones.
    :param epsilon: Their strength.
    :return: The attacks.
    :raises ValueError: for an unknown name, or none at all.
    """
    chosen = list(ATTACKS) if attacks == "all" else [attacks] if isinstance(attacks, str) else list(attacks)
    unknown = [attack for attack in chosen if isinstance(attack, str) and attack not in ATTACKS]
    if unknown or not chosen:
        raise ValueError(f"Unknown attacks {unknown}. Choose from {', '.join(ATTACKS)}, or 'all' of them.")
    return [ATTACKS[attack](model, epsilon) if isinstance(attack, str) else attack for attack in chosen]


__all__ = [
    "ATTACKS",
    "MAD",
    "Attack",
    "AttackObservation",
    "Critic",
    "GradientAttack",
    "Random",
    "UnderAttack",
    "VecAttackObservation",
    "make_attacks",
]
