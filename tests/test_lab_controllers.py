"""Controllers in the lab: each policy of a batch has a state of its own."""

import numpy as np
import pytest

from sb3_barpo import lab
from sb3_barpo.controllers import DualKappa, HoldKL
from sb3_barpo.lab import Method, footbridge, swamp

PROBLEMS = {"footbridge": footbridge(), "swamp": swamp()}
#: Far from kinks.
SOME = {"footbridge": np.array([[0.7, 0.4], [-1.3, 0.9], [2.1, -1.7]]), "swamp": np.array([[0.7, 0.4], [0.2, 0.9]])}


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("adversary", [lab.strongest, lab.kl])
def test_each_policy_has_a_strength_and_a_kappa_of_its_own(name, adversary):
    problem, theta = PROBLEMS[name], SOME[name]
    controlled = Method(adversary, DualKappa(0.1), HoldKL(0.1, 1.0))
    states = {"kappa": np.linspace(0.2, 1, len(theta)), "strength": np.linspace(0, 1, len(theta))}
    together = lab.gradient(problem, theta, controlled, 0.5, states)
    told = lab.measure(problem, theta, controlled, 0.5, states)
    for i, one in enumerate(theta):
        alone = Method(adversary, 1 / states["kappa"][i] - 1, float(states["strength"][i]))
        assert together[i] == pytest.approx(lab.gradient(problem, one[None], alone)[0], abs=1e-12)
        seen = problem.policy.probabilities(one[None], states["strength"][i])
        unattacked, shown = lab.clean(problem.mdp, seen), adversary(problem.mdp, seen)
        visits = problem.mdp.evaluate(lab.acting(seen, unattacked)).visits
        divergence = (visits[..., None] * shown * lab.divergences(seen)).sum() / visits.sum()
        natural, attacked = (problem.mdp.value(lab.acting(seen, how))[0] for how in (unattacked, shown))
        expected = natural, divergence, natural - attacked
        assert [part[i] for part in told] == pytest.approx(expected, abs=1e-12)
