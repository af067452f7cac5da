"""`EvalConfig`: which episodes an evaluation runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvalConfig:
    """
    Which episodes an evaluation runs, and how the agent acts in them.

    :param n_eval_episodes: Number of episodes for each attack and ε.
    :param seed: Seed of the first episode; the k-th has ``seed + k``.
    :param deterministic: Whether the agent takes its most likely action.
    :raises ValueError: if there are no episodes.
    """

    n_eval_episodes: int = 50
    seed: int = 0
    deterministic: bool = True

    def __post_init__(self) -> None:
        if self.n_eval_episodes < 1:
            raise ValueError(f"n_eval_episodes must be at least 1, but it is {self.n_eval_episodes}. 50 is usual.")
