"""
The forward pass of a rollout by bare operations, equal to SB3's bit for bit: actions, values, log-probabilities and the
state of the random generator.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel, BasePolicy
from torch import nn
from torch.nn.functional import linear, softmax

from sb3_barpo.policies import mlp

_LOG_SQRT_2_PI = math.log(math.sqrt(2 * math.pi))


class BareForward:
    """
    Takes the place of ``policy.forward``, without modules and distribution objects. It reads the weights that the
    policy has at the time of each call.

    :param policy: A policy of SB3's own class that is recognised; see :func:`bare_forward`.
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self._policy = policy
        self._read: tuple[list[Any], list[Any], list[Any]] | None = None
        self._scales: list[th.Tensor] = []

    def __call__(self, obs: th.Tensor, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        policy = self._policy
        if self._read is None:
            actor, critic = (_steps(mlp.modules(policy, part) or []) for part in ("actor", "critic"))
            self._read = [*policy._modules.values()], actor, critic
        modules, actor, critic = self._read
        if [*policy._modules.values()] != modules:
            return type(policy).forward(policy, obs, deterministic)  # somebody has exchanged a network
        seen = obs.flatten(1).float()
        values = _run(critic, seen)
        output = _run(actor, seen)
        is_gaussian = isinstance(policy.action_dist, DiagGaussianDistribution)
        actions, log_prob = (self._gaussian if is_gaussian else self._categorical)(output, deterministic)
        return actions.reshape((-1, *policy.action_space.shape)), values, log_prob  # type: ignore[misc]

    def _gaussian(self, mean: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        log_std = self._policy.log_std
        if not self._scales or len(self._scales[1]) != len(mean) or not th.equal(self._scales[0], log_std):
            scale = th.ones_like(mean) * log_std.exp()
            self._scales = [log_std.detach().clone(), scale, 2 * scale**2, scale.log()]
        _, scale, twice_variance, log_scale = self._scales
        actions = mean if deterministic else th.empty_like(mean).normal_().mul_(scale).add_(mean)
        squared = (actions - mean).square_()
        return actions, squared.neg_().div_(twice_variance).sub_(log_scale).sub_(_LOG_SQRT_2_PI).sum(dim=1)

    def _categorical(self, output: th.Tensor, deterministic: bool) -> tuple[th.Tensor, th.Tensor]:
        logits = output - output.logsumexp(dim=-1, keepdim=True)
        probs = softmax(logits, dim=-1)
        actions = probs.argmax(dim=1) if deterministic else th.multinomial(probs, 1, True).T[0]
        return actions, logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def __deepcopy__(self, memo: dict[int, Any]) -> "BareForward":
        """Of a policy that is copied in a rollout: the copy answers by its own weights."""
        return BareForward(memo[id(self._policy)])


class BarePredictor:
    """
    Takes the place of a model that acts by its most likely actions, the same bit for bit. It reads the weights that the
    policy has at the time of each call.

    :param model: A model that is recognised; see :func:`bare_predictor`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.observation_space = model.observation_space
        self._steps = _steps(mlp.modules(model.policy, "actor") or [])

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """:return: What the model's own ``predict`` returns; takes its arguments."""
        space = self.model.action_space
        if not deterministic or np.shape(observation)[1:] != self.observation_space.shape:
            answer: tuple[np.ndarray, Any] = self.model.predict(observation, state, episode_start, deterministic)
            return answer
        with th.no_grad():
            seen = th.as_tensor(observation, device=self.model.device).flatten(1).float()
            output = _run(self._steps, seen)
            if isinstance(space, spaces.Box):
                actions = output.cpu().numpy().reshape((-1, *space.shape))
                return np.clip(actions, space.low, space.high), state
            return softmax(output, dim=-1).argmax(dim=1).cpu().numpy(), state


def bare_predictor(model: Any) -> Any:
    """
    :param model: A model.
    :return: One that predicts the same by bare operations; the model itself, where model or policy are not recognised.
    """
    policy: Any = getattr(model, "policy", None)
    if not mlp.is_mlp(policy):
        return model
    is_own = type(model).predict is not BaseAlgorithm.predict or "predict" in vars(model) or bool(policy.squash_output)
    for name, owner in _PREDICTS.items():
        is_own |= getattr(type(policy), name) is not getattr(owner, name) or name in vars(policy)
    return model if is_own else BarePredictor(model)


_PREDICTS = {"predict": BasePolicy, "obs_to_tensor": BaseModel, "_predict": ActorCriticPolicy}


@contextmanager
def bare_forward(policy: Any) -> Iterator[None]:
    """
    Let a policy answer by bare operations for a while.

    :param policy: The policy. One that is not recognised exactly is left as it is, and so is one whose ``forward`` has
        been overridden.
    """
    is_own = type(policy).forward is not ActorCriticPolicy.forward or "forward" in vars(policy)
    if is_own or not mlp.is_mlp(policy):
        yield
        return
    policy.forward = BareForward(policy)
    try:
        yield
    finally:
        del policy.forward


def _steps(modules: list[nn.Module]) -> list[Any]:
    """Weight and bias of each linear layer, and the activations between them."""
    steps: list[Any] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            steps.append((module.weight, module.bias))
        else:
            steps.append(th.tanh_ if type(module) is nn.Tanh else th.relu_)  # of what a layer has just made
    return steps


def _run(steps: list[Any], output: th.Tensor) -> th.Tensor:
    for step in steps:
        output = linear(output, *step) if isinstance(step, tuple) else step(output)
    return output
