"""SA-RL: the adversary's action is the perturbation."""

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_barpo.adversary import layout_of
from sb3_barpo.attacks.reversed_roles import PolicyAttack
from sb3_barpo.policies.spaces import by_parts


class SARL(PolicyAttack):
    """
    The learned adversary of Zhang et al. (ICLR 2021), called SA-RL or optimal attack: an agent whose action is the
    perturbation itself, in units of ε, clipped to the ball. It needs nothing of the victim but its actions, and is as
    strong as its training.

    The adversary acts deterministically when it attacks.

    :param model: The victim.
    :param epsilon: Strength.
    :param algorithm: The adversary's algorithm, PPO by default.
    :param policy: Its policy, by default the one that SB3 has for the victim's observations.
    :param curriculum: Multiple of ε with which the fit begins; it falls to 1 in the first half. A strong adversary
        meets by chance the failures that a weak one would have to look for.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of its training.
    :param deterministic: Whether the victim takes its most likely action while the adversary learns.
    :param kwargs: Arguments of the algorithm, ``learning_rate`` or ``ent_coef`` for example.
    :raises TypeError: if the algorithm is none, or its policy keeps a memory.
    """

    name = "sarl"

    def adversary_space(self) -> spaces.Box:
        images = [part for part in by_parts(self.observation_space).values() if is_image_space(part)]
        if images:
            raise TypeError(
                f"SA-RL's adversary would have to choose {math.prod(images[0].shape)} pixels by one action each, which "
                "does not learn. Take PA-AD, whose director chooses a direction of the victim's actions."
            )
        return spaces.Box(-1.0, 1.0, layout_of(self._example(), self.ball).join(self._example()).shape[1:])

    def respond(self, observations: Any, actions: th.Tensor, policy: Any) -> Any:
        layout = layout_of(observations, self.ball)
        return layout.add(observations, layout.ball.within(actions.float(), self.epsilon / layout.unit))

    def action_for(self, observations: Any, perturbed: Any, policy: Any) -> th.Tensor:
        layout = layout_of(observations, self.ball)
        return layout.ball.moves(layout.difference(perturbed, observations).float(), self.epsilon / layout.unit)
