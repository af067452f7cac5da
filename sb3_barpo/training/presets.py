"""The algorithms on SB3's PPO: each is a line, its defence."""

from typing import ClassVar

from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy

from sb3_barpo.adversary import KL, Surrogate, Uniform
from sb3_barpo.losses import (
    Bounded,
    Defence,
    Regularised,
    RegularisedByBounds,
    SoftWorst,
    WorstCase,
    WorstValue,
)
from sb3_barpo.policies.smoothing import SmoothedMlpPolicy
from sb3_barpo.training.robust import RobustUpdate


class RobustPPO(RobustUpdate, PPO):
    """
    The parent of all that follow. Arguments: :class:`sb3_barpo.training.robust.RobustUpdate`. Of policies, there is
    ``"SmoothedMlpPolicy"`` beside PPO's, see :class:`sb3_barpo.policies.smoothing.SmoothedMlpPolicy`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **PPO.policy_aliases,
        "SmoothedMlpPolicy": SmoothedMlpPolicy,
    }


class ARPO(RobustPPO):
    """
    PPO against the strongest adversary (Li et al., ICLR 2026, section 3).

    Inner problem: ``max -surr(s')`` over the ball, by SGLD. Outer problem: PPO's surrogate at ``s'``. It finds robust
    policies of low natural return: the tension that BARPO relaxes.

    All arguments: :class:`sb3_barpo.training.robust.RobustUpdate`. κ = 0 ("vanilla") by default; ``kappa=1`` is "ARPO
    with guidance".
    """

    defence = Defence(Surrogate(), WorstCase(kappa=0.0))


class BARPO(RobustPPO):
    """
    PPO against the adversary that moves the policy most, of modulated strength (Li et al., ICLR 2026, section 4).

    Inner problem: ``max KL(π(·|s) ‖ π(·|s'))`` over the ball, by SGLD. Outer problem: PPO's surrogate at ``s'``, plus κ
    times the clean one. The KL stands in for the damage to the return, which it bounds from below to first order
    (Theorem 4.1), without the valleys that the strongest adversary cuts into the landscape.

    All arguments: :class:`sb3_barpo.training.robust.RobustUpdate`. κ = 1 ("guided") by default; ``kappa=0`` is "without
    guidance".
    """

    defence = Defence(KL(), WorstCase(kappa=1.0))


class SAPPO(RobustPPO):
    """
    PPO whose policy changes little within the ball (SA-PPO, Zhang et al., NeurIPS 2020), in the form that looks for the
    largest change by SGLD.

    Inner problem: BARPO's, ``max KL(π(·|s) ‖ π(·|s'))``. Outer problem: PPO's clean surrogate, and λ times the
    divergence as a penalty.

    All arguments: :class:`sb3_barpo.training.robust.RobustUpdate` and :class:`sb3_barpo.losses.Regularised`;
    ``weight`` is λ, twice what the published code calls its regulariser's weight.
    """

    defence = Defence(KL(), Regularised(weight=1.0))


class ConvexSAPPO(RobustPPO):
    """
    :class:`SAPPO` in its convex form: the penalty is a bound of the largest divergence within the ball, and nothing is
    searched for.

    For SB3's MLP policies on ``Box`` observations, with Gaussian or categorical actions. All arguments:
    :class:`sb3_barpo.training.robust.RobustUpdate` and :class:`sb3_barpo.losses.RegularisedByBounds`; of an
    ``adversary`` only the ball counts: ``Adversary(None, Uniform(), ball)``.
    """

    defence = Defence(None, RegularisedByBounds(weight=0.1), Uniform())


class SPPO(RobustPPO):
    """
    :class:`SAPPO` with a smoothed policy: S-PPO (SGLD), the strongest form in Sun et al., "Breaking the Barrier:
    Enhanced Utility and Robustness in Smoothed DRL Agents", ICML 2024. ``weight=0`` is S-PPO (Vanilla), PPO with a
    smoothed policy.

    ``"MlpPolicy"`` is :class:`sb3_barpo.policies.smoothing.SmoothedMlpPolicy`, whose settings are ``policy_kwargs``:
    ``SPPO("MlpPolicy", env, policy_kwargs=dict(noise_std=0.3))``. The adversary sees the smoothed policy.

    All arguments: :class:`sb3_barpo.training.robust.RobustUpdate` and :class:`sb3_barpo.losses.Regularised`.
    """

    # It refuses images and Dict observations with a reason.
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = dict.fromkeys(RobustPPO.policy_aliases, SmoothedMlpPolicy)
    defence = Defence(KL(), Regularised(weight=1.0))


class CARPPO(RobustPPO):
    """
    PPO against the strongest adversary, rows weighted by the damage (CAR-PPO, arXiv 2502.16734).

    Inner problem: ARPO's, ``max -surr(s')``. Outer problem: PPO's clean surrogate, and w times the perturbed one, in
    which the rows that are hurt most count most.

    All arguments: :class:`sb3_barpo.training.robust.RobustUpdate` and :class:`sb3_barpo.losses.SoftWorst`.
    """

    defence = Defence(Surrogate(), SoftWorst(weight=1.0, temperature=100.0))


class RADIALPPO(RobustPPO):
    """
    PPO on the worst surrogate that bounds of the policy allow (RADIAL-PPO, Oikarinen et al., NeurIPS 2021). Nothing is
    searched for, so that the loss cannot be fooled by a weak search, and bounds that are too loose cost return.

    For SB3's MLP policies on ``Box`` observations, with Gaussian or categorical actions. All arguments:
    :class:`sb3_barpo.training.robust.RobustUpdate` and :class:`sb3_barpo.losses.Bounded`; of an ``adversary`` only the
    ball counts: ``Adversary(None, Uniform(), ball)``.
    """

    defence = Defence(None, Bounded(weight=0.5), Uniform())


class WocaRPPO(RobustPPO):
    """
    PPO that takes the worst-case value of its actions into account (WocaR-PPO, Liang et al., NeurIPS 2022).

    Inner problem: BARPO's, ``max KL(π(·|s) ‖ π(·|s'))``. Outer problem: PPO's clean surrogate with the worst-case value
    added to the advantage, and the divergence as a penalty, weighted by how much the state matters.

    For SB3's MLP policies on ``Box`` observations, with Gaussian or categorical actions. All arguments:
    :class:`sb3_barpo.training.robust.RobustUpdate` and :class:`sb3_barpo.losses.WorstValue`.
    """

    defence = Defence(KL(), WorstValue(weight="linear_0_0.8", penalty=0.2))
