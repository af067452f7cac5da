"""Certificates as rows, beside what attacks achieve."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CertifiedActions:
    """
    Of the actions of an agent at one ε: shares of the visited states for discrete actions, otherwise means over them
    of the largest shift of an action, in the units of the action space.

    :param agent: Its name.
    :param epsilon: Strength.
    :param certified: By CROWN: the share of states in which the action cannot change, or how far it can move at most.
    :param intervals: The same by interval bounds.
    :param attacked: What attacks leave of the share, or how far they move the action.
    :param radius: For discrete actions the median over the states of their certified ε.
    """

    agent: str
    epsilon: float
    certified: float
    intervals: float
    attacked: float
    radius: float | None = None


@dataclass(frozen=True)
class CertifiedReturns:
    """
    Of the returns of an agent that smooths its observations, at one radius.

    :param agent: Its name.
    :param radius: L2 norm of all perturbations of an episode together.
    :param epsilon: The strength of an attack that moves all features at all steps so that it uses this radius.
    :param quantile: Which quantile.
    :param certified: Its lower bound under attack; ``-inf`` without one.
    :param attacked: The quantile under the worst of the attacks.
    :param attack: The worst of the attacks.
    """

    agent: str
    radius: float
    epsilon: float
    quantile: float
    certified: float
    attacked: float
    attack: str


@dataclass(frozen=True)
class Certification:
    """
    Certificates beside attacks.

    :param kind: ``"share"`` for discrete actions, ``"shift"`` for continuous ones.
    :param actions: A row for each agent and ε.
    :param returns: A row for each agent, quantile and radius; empty if returns were not certified.
    :param judged: What was certified, see :mod:`sb3_barpo.evaluation.judged`.
    :param settings: Number of states, and how returns were certified.
    """

    kind: str
    actions: list[CertifiedActions]
    returns: list[CertifiedReturns]
    judged: dict[str, Any]
    settings: dict[str, Any]

    def to_json(self, path: str | Path) -> None:
        """:param path: File to write; there is no infinity in JSON, so it stands as null."""
        content = json.loads(json.dumps(asdict(self)), parse_constant=lambda _: None)
        Path(path).write_text(json.dumps(content, indent=2), encoding="utf-8")
