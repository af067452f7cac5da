"""The three attacks that need no training: Random, Critic and MAD."""

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_barpo.adversary import KL, PGD, SGLD, Adversary, AutoPGD, Ball, Solver, Uniform, Value
from sb3_barpo.attacks.attack import GradientAttack


class Random(GradientAttack):
    """
    A uniform draw from the ball, fresh at each step. The weakest attack: it tells how an agent bears noise.

    :param model: The victim.
    :param epsilon: Strength.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of the draws.
    """

    name = "random"

    def __init__(
        self, model: OnPolicyAlgorithm, epsilon: float, ball: Ball | None = None, seed: int | None = None
    ) -> None:
        super().__init__(model, epsilon, Adversary(None, Uniform(), ball), seed)


class Critic(GradientAttack):
    """
    The observation that looks worst to the victim's own value network (Pattanaik et al., AAMAS 2018), by signed
    descent from a uniform start within ``ε / n_steps``, in steps of ``ε / n_steps``.

    :param model: The victim.
    :param epsilon: Strength.
    :param n_steps: Number of gradient steps.
    :param restarts: Number of starts. With more than one the search is :class:`sb3_barpo.adversary.AutoPGD`, whose
        starts lie anywhere in the ball.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of the starts.
    """

    name = "critic"

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        n_steps: int = 10,
        ball: Ball | None = None,
        seed: int | None = None,
        restarts: int = 1,
    ) -> None:
        solver: Solver = PGD(n_steps, step_size=1 / max(n_steps, 1), start_radius=1 / max(n_steps, 1))
        if restarts > 1:
            solver = AutoPGD(n_steps, restarts)
        super().__init__(model, epsilon, Adversary(Value(), solver, ball), seed)


class MAD(GradientAttack):
    """
    Maximal action difference (Zhang et al., NeurIPS 2020): the observation at which the policy differs most from what
    it does at the clean one, by SGLD at temperature 1. The difference is the KL divergence, which for a Gaussian is
    half the squared shift of the mean in units of the standard deviation.

    :param model: The victim.
    :param epsilon: Strength.
    :param n_steps: Number of gradient steps.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of starts and noise.
    """

    name = "mad"

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        n_steps: int = 10,
        ball: Ball | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(model, epsilon, Adversary(KL(), SGLD(n_steps, beta=1.0), ball), seed)
