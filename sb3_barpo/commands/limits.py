"""Options that limit attacks: to some features, to a rate of change, to moments of an episode."""

import argparse

from sb3_barpo.agents.load import LoadedAgent
from sb3_barpo.sensors.features import FEATURES


def add_limits(group: "argparse._ArgumentGroup") -> None:
    """:param group: Where to add the options."""
    group.add_argument(
        "--features",
        nargs="+",
        default=[],
        help="the only features that attacks may move, by index or, for Gymnasium's MuJoCo tasks, by name, such as "
        "x_velocity (default: all)",
    )
    group.add_argument(
        "--rate-limit",
        type=float,
        help="by how much a perturbation may change from one step to the next, in the units of epsilon (default: no "
        "limit)",
    )
    group.add_argument("--every", type=int, default=1, help="attack every so many steps (default: 1)")
    group.add_argument("--moments", type=int, help="attack at so many steps of an episode at most (default: no limit)")
    group.add_argument(
        "--trigger",
        type=float,
        default=0.0,
        help="attack only where the policy at the perturbed observation diverges from the clean one by this KL "
        "divergence at least: the attack chooses its moments (default: 0)",
    )


def index_of(feature: str, agent: LoadedAgent) -> int:
    """
    :param feature: Index of a feature, or its name.
    :param agent: The agent that sees it.
    :return: Its index.
    :raises ValueError: for an unknown name.
    """
    if feature.removeprefix("-").isdigit():
        return int(feature)
    names = FEATURES.get(agent.env_id.rpartition(":")[2], ())
    if feature not in names:
        known = f"Its features are {', '.join(names)}." if names else "Give its index: the names are not known."
        raise ValueError(f"{agent.env_id} has no feature {feature!r}. {known}")
    return names.index(feature)
