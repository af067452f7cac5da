"""
SB3's MLP policies, read once: the networks from a flat observation to the mean action, the logits or the value.

A ten-step search by autograd costs several times SB3's own update; plain matrix products cost a part of that. What is
not exactly what SB3 builds by default is not recognised, and takes the general path by autograd. Both ways give the
same gradient up to rounding, so nothing else needs to know.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_barpo.policies.networks import Network

#: What a policy must have from SB3 as it is, for its networks to say all of it.
_ASKED = (
    "get_distribution",
    "predict_values",
    "evaluate_actions",
    "extract_features",
    "_get_action_dist_from_latent",
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def modules(policy: object, part: Literal["actor", "critic"]) -> list[nn.Module] | None:
    """
    :param policy: A policy.
    :param part: Which of its networks.
    :return: The modules from the observation to the mean action, the logits or the value, or ``None`` if anything
        between the two is not what SB3 builds by default: a linear layer with a bias, tanh or ReLU, nothing overridden
        by a subclass or on the instance, no hooks. Those are the same in training and in evaluation mode.
    """
    if not isinstance(policy, ActorCriticPolicy):
        return None
    if any(getattr(type(policy), name) is not getattr(ActorCriticPolicy, name) for name in _ASKED):
        return None
    if any(name in vars(policy) for name in _ASKED):
        return None
    if not isinstance(policy.observation_space, spaces.Box):
        return None  # other observations are encoded on their way
    if is_image_space(policy.observation_space) and policy.normalize_images:
        return None  # pixels are divided by 255 on their way
    extractor = policy.pi_features_extractor if part == "actor" else policy.vf_features_extractor
    if type(extractor) is not FlattenExtractor or type(policy.mlp_extractor) is not MlpExtractor:
        return None
    if part == "actor" and type(policy.action_dist) not in (DiagGaussianDistribution, CategoricalDistribution):
        return None
    body, head = (
        (policy.mlp_extractor.policy_net, policy.action_net)
        if part == "actor"
        else (policy.mlp_extractor.value_net, policy.value_net)
    )
    if type(body) is not nn.Sequential:
        return None
    found = [*body, head]
    linears, activations = found[::2], found[1::2]
    if any(type(linear) is not nn.Linear or linear.bias is None for linear in linears):
        return None
    if len(linears) != len(activations) + 1 or any(type(module) not in (nn.Tanh, nn.ReLU) for module in activations):
        return None
    called = [policy.mlp_extractor, extractor, extractor.flatten, body, *found]
    return None if any(_is_changed(module) for module in called) else found


def _is_changed(module: nn.Module) -> bool:
    """Whether somebody listens to this module or has changed its methods."""
    return any(getattr(module, hooks) for hooks in _HOOKS) or any(
        name in vars(module) for name in ("forward", "forward_actor", "forward_critic")
    )


def is_mlp(policy: object) -> bool:
    """:return: Whether actor and critic are recognised; such a policy has no training mode of its own."""
    if isinstance(policy, Prepared):
        return True
    return modules(policy, "actor") is not None and modules(policy, "critic") is not None


class Gaussian(NamedTuple):
    """
    What the standard deviations σ of a Gaussian policy's actions say, which do not depend on the observation.

    :param inverse: 1 / σ, shape ``(actions,)``.
    :param precision: 1 / σ², shape ``(actions,)``.
    :param normaliser: Minus the log-density of the mean action, shape ``()``.
    """

    inverse: th.Tensor
    precision: th.Tensor
    normaliser: th.Tensor

    @classmethod
    def of(cls, log_std: th.Tensor) -> "Gaussian":
        """
        :param log_std: Logarithms of the standard deviations, shape ``(actions,)``.
        :return: What they say.
        """
        inverse = log_std.neg().exp_()
        return cls(inverse, inverse.square(), log_std.sum().add_(len(log_std) * _HALF_LOG_2_PI))


_HALF_LOG_2_PI = math.log(2 * math.pi) / 2


class Prepared:
    """
    A recognised policy whose networks have been read, to be asked many times while its weights stay the same. All else
    is the policy's own.

    :param policy: The policy.
    :param actor: Its actor.
    :param critic: Its critic.
    :param gaussian: Of a Gaussian policy, ``None`` for a categorical one.
    :param before: Called before anything else of the policy is asked, to bring its own weights up to date.
    """

    def __init__(
        self,
        policy: ActorCriticPolicy,
        actor: Network,
        critic: Network,
        gaussian: Gaussian | None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self.policy = policy
        self.actor = actor
        self.critic = critic
        self.gaussian = gaussian
        self._before = before
        #: A batch of observations and the actor's outputs there, where they are known already.
        self.known: tuple[th.Tensor, th.Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        if self._before is not None:
            self._before()
        return getattr(self.policy, name)


def network(policy: object, part: Literal["actor", "critic"]) -> Network | None:
    """
    :param policy: A policy.
    :param part: Which of its networks.
    :return: The network with the policy's present weights, or ``None`` where :func:`modules` finds none.
    """
    if isinstance(policy, Prepared):
        return policy.actor if part == "actor" else policy.critic
    found = modules(policy, part)
    return None if found is None else Network.of(found)


def prepared(policy: Any) -> Any:
    """
    :param policy: A policy, whose weights stay as they are while the result is in use.
    :return: The same with its networks read, if it is recognised; otherwise the policy itself.
    """
    actor, critic = network(policy, "actor"), network(policy, "critic")
    if actor is None or critic is None or isinstance(policy, Prepared):
        return policy
    return Prepared(policy, actor, critic, gaussian_of(policy))


def gaussian_of(policy: Any) -> Gaussian | None:
    """
    :param policy: A policy that :func:`modules` recognises.
    :return: What its standard deviations say; ``None`` for a categorical one.
    """
    if isinstance(policy, Prepared):
        return policy.gaussian
    is_categorical = type(policy.action_dist) is CategoricalDistribution
    return None if is_categorical else Gaussian.of(policy.log_std.detach())


def actor_output(policy: Any, actor: Network, observations: th.Tensor) -> th.Tensor:
    """
    :param policy: A policy that :func:`modules` recognises.
    :param actor: Its actor.
    :param observations: Shape ``(B, *obs)``.
    :return: The actor's outputs there, shape ``(B, out)``.
    """
    if isinstance(policy, Prepared) and policy.known is not None and policy.known[0] is observations:
        return policy.known[1]
    return actor(observations)
