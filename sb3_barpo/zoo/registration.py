"""
Our algorithms among the RL Zoo's.

The Zoo finds algorithms, and what samples their settings, in dicts that all of its programs share. :func:`register`
adds to these. Nothing of the Zoo is imported before.
"""

import importlib.util

from sb3_barpo.algorithms import OURS

#: The algorithms that are added to the Zoo's, and the one of the Zoo on which each builds.
ALGORITHMS = {name: row.base for name, row in OURS.items()}


def register() -> None:
    """
    Add our algorithms to the RL Zoo: the classes, and PPO's samplers and converters for its ``-optimize``. In place,
    and can be repeated. ``-optimize`` scores the return without an attack, so the strength is not sampled: it would be
    tuned away.

    :raises ValueError: if the Zoo is not installed.
    """
    _require_zoo()
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    from rl_zoo3.utils import ALGOS

    for algo, row in OURS.items():
        ALGOS[algo] = row.load_class()
        HYPERPARAMS_SAMPLER[algo] = HYPERPARAMS_SAMPLER[row.base]
        HYPERPARAMS_CONVERTER[algo] = HYPERPARAMS_CONVERTER[row.base]


def _require_zoo() -> None:
    # `requests` is imported by the Zoo without being among its requirements.
    missing = [name for name in ("rl_zoo3", "requests") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'The RL Zoo\'s commands need {" and ".join(missing)}: pip install "sb3-barpo[zoo]"')
