"""PA-AD: the adversary's action is a direction for the victim's."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_barpo.adversary import PGD, Adversary, Ball, Draws, Towards
from sb3_barpo.attacks.memory import Memory
from sb3_barpo.attacks.reversed_roles import PolicyAttack
from sb3_barpo.policies.evaluate import policy_output
from sb3_barpo.policies.views import evaluation_mode


class PAAD(PolicyAttack):
    """
    PA-AD (Sun et al., ICLR 2022): a director, trained like SA-RL's adversary, chooses in which direction the victim's
    action shall move; an actor, which knows the victim's weights, finds the observation that moves it there, by one
    step of gradient ascent to a corner of the ball. The director's space is that of the victim's actions, often much
    smaller than that of its observations. For discrete actions it is that of their probabilities.

    :param model: The victim.
    :param epsilon: Strength.
    :param algorithm: The director's algorithm, PPO by default.
    :param policy: Its policy, by default the one that SB3 has for the victim's observations.
    :param curriculum: Multiple of ε with which the fit begins; it falls to 1 in the first half. A strong adversary
        meets by chance the failures that a weak one would have to look for.
    :param actor_steps: Number of the actor's gradient steps.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of the director's training, and of the actor's starts.
    :param deterministic: Whether the victim takes its most likely action while the adversary learns.
    :param kwargs: Arguments of the algorithm.
    :raises TypeError: if the algorithm is none, or its policy keeps a memory.
    """

    name = "paad"

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        algorithm: type[BaseAlgorithm] = PPO,
        policy: str | type[Any] | None = None,
        curriculum: float = 1.0,
        actor_steps: int = 1,
        ball: Ball | None = None,
        seed: int | None = None,
        deterministic: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, epsilon, algorithm, policy, curriculum, ball, seed, deterministic, **kwargs)
        self.actor_steps = actor_steps
        self._solver = PGD(actor_steps, start_radius=0.1)
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        self._draws = Draws(seed)

    def _settings(self) -> dict[str, Any]:
        return {"actor_steps": self.actor_steps, **super()._settings()}

    def adversary_space(self) -> spaces.Box:
        # Only the direction matters; the bounds, which SB3 asks for, are so wide that they never clip one.
        policy = self.victim(Memory.of(self.model, n_envs=1))
        with evaluation_mode(self.model.policy), th.no_grad():
            n_outputs = policy_output(policy, self._example()).shape[1]
        return spaces.Box(-100.0, 100.0, (n_outputs,))

    def respond(self, observations: Any, actions: th.Tensor, policy: Any) -> Any:
        actor = Adversary(Towards(actions.float()), self._solver, self.reachable(observations), self._draws)
        return actor.perturb(policy, observations, self.epsilon)

    def action_for(self, observations: Any, perturbed: Any, policy: Any) -> th.Tensor:
        with evaluation_mode(self.model.policy), th.no_grad():
            shift = policy_output(policy, perturbed) - policy_output(policy, observations)
        return th.nn.functional.normalize(shift.flatten(1), dim=1)
