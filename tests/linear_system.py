"""The linear system's returns, by formula and as they are."""

import numpy as np
from stable_baselines3 import PPO

from sb3_barpo.attacks import Attack, VecAttackObservation
from sb3_barpo.testing.linear_system import (
    CONTRACTION,
    COST,
    DRIFT,
    GAIN,
    HORIZON,
    LEVER,
    PUSH,
    LinearSystem,
    controller,
    systems,
)

__all__ = ["CONTRACTION", "COST", "DRIFT", "GAIN", "HORIZON", "LEVER", "PUSH", "LinearSystem", "controller", "systems"]


def returns_of(starts: np.ndarray, epsilon: float) -> np.ndarray:
    """
    The worst returns from the given starts; the natural ones at strength 0. The victim makes ``s' = c s - l δ`` of the
    state, with the contraction 0 < c < 1, the lever l > 0 and the perturbation δ. A larger state now is never a smaller
    one later, so the worst perturbation is always ``-ε sign(s)``, and after t steps
    ``|s| = c^t |s_0| + l ε (1 - c^t) / (1 - c)``.
    """
    powers = CONTRACTION ** np.arange(1, HORIZON + 1)[:, None, None]
    sizes = powers * np.abs(starts) + LEVER * epsilon * (1 - powers) / (1 - CONTRACTION)
    return -(sizes**2 @ COST).sum(0)


def play(model: PPO, attack: Attack, n_episodes: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Starts and returns of the victim's episodes under attack."""
    venv = VecAttackObservation(systems(n_episodes), attack)
    venv.seed(11)
    seen = venv.reset()
    starts, returns = np.array(venv.get_attr("state")), np.zeros(n_episodes)
    for _ in range(HORIZON):
        seen, rewards, dones, _ = venv.step(model.predict(seen, deterministic=True)[0])
        returns += rewards
    assert dones.all()
    return starts, returns


def damage(model: PPO, attack: Attack) -> np.ndarray:
    """What the attack takes of each return, relative to what the worst adversary would take."""
    starts, returns = play(model, attack)
    natural, worst = returns_of(starts, 0.0), returns_of(starts, attack.epsilon)
    return (natural - returns) / (natural - worst)
