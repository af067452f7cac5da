"""
Contracts: what every objective, ball, solver, outer loss and attack promises, as checks that anybody can run.

Each check takes one part, tries it on a small policy, and returns nothing if the part keeps its promises. Otherwise it
raises :class:`ContractError`, whose message names the promise that is broken. Call them from the tests of your own
parts::

    from sb3_barpo.testing import check_objective

    def test_my_objective():
        check_objective(MyObjective())
"""

from sb3_barpo.testing.attacks import check_attack
from sb3_barpo.testing.contract import ContractError
from sb3_barpo.testing.losses import check_loss
from sb3_barpo.testing.parts import check_ball, check_objective, check_solver
from sb3_barpo.testing.scene import example_observations, example_policy, example_samples

__all__ = [
    "ContractError",
    "check_attack",
    "check_ball",
    "check_loss",
    "check_objective",
    "check_solver",
    "example_observations",
    "example_policy",
    "example_samples",
]
