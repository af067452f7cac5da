"""Views of policies: in evaluation mode, and recurrent ones as policies without a memory."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch as th
from stable_baselines3.common.distributions import Distribution

from sb3_barpo.policies import mlp
from sb3_barpo.policies.evaluate import Policy
from sb3_barpo.policies.smoothing import SmoothedMlpPolicy


@contextmanager
def evaluation_mode(policy: Policy) -> Iterator[None]:
    """
    Evaluation mode for a while: no dropout, and batch normalisation keeps its statistics.

    :param policy: The policy.
    """
    was_training = policy.training
    policy.set_training_mode(False)
    try:
        yield
    finally:
        policy.set_training_mode(was_training)


def as_tested(policy: Policy) -> AbstractContextManager[None]:
    """The same for a search, where a switch of all modules of a policy without modes costs as much as one step."""
    return nullcontext() if mlp.is_mlp(policy) else evaluation_mode(policy)


def as_searched(policy: Policy) -> AbstractContextManager[None]:
    """The same in training, where a smoothed policy is searched on the noise of the minibatch."""
    return nullcontext() if isinstance(policy, SmoothedMlpPolicy) else as_tested(policy)


def uncompiled(model: Any) -> Any:
    """
    :param model: An SB3 model, its policy perhaps compiled: ``model.policy = th.compile(model.policy)``.
    :return: The same model, or a shallow copy with the policy that was compiled, which shares its weights. A compiled
        one is of another class, names its weights in another way, and compiles anew for each size of a batch.
    """
    inner = getattr(getattr(model, "policy", None), "_orig_mod", None)
    if inner is None:
        return model
    plain = copy.copy(model)
    plain.policy = inner
    return plain


def is_recurrent(policy: object) -> bool:
    """:return: Whether it is one of sb3-contrib's policies with a memory."""
    return hasattr(policy, "lstm_actor")


class OnSequences:
    """
    A recurrent policy of sb3-contrib on sequences of observations, whose memory at their beginnings is known. It takes
    observations alone, so whatever attacks a policy without a memory attacks this one too.

    The policy goes through each sequence with the observations that it is given: perturbed ones move its memory, and
    with it the answers in all later rows. So the rows of a sequence depend on one another, and a gradient with respect
    to a row's observation holds what it does to the rows after it.

    :param policy: The policy.
    :param lstm_states: sb3-contrib's ``RNNStates`` at the beginning of each sequence: hidden and cell states of actor
        and critic, each of shape ``(layers, n_sequences, hidden)``.
    :param episode_starts: Where the memory is forgotten, ``(n_sequences · length,)``, sequence after sequence; all
        observations are in this order.
    """

    def __init__(self, policy: Any, lstm_states: Any, episode_starts: th.Tensor) -> None:
        self._policy = policy
        self._lstm_states = lstm_states
        self._episode_starts = episode_starts
        self._begun = _begun(lstm_states, episode_starts)

    @property
    def training(self) -> bool:
        """Whether the policy is in training mode."""
        return bool(self._policy.training)

    def set_training_mode(self, mode: bool) -> None:
        """Switch dropout, batch normalisation and the like."""
        self._policy.set_training_mode(mode)

    def get_distribution(self, obs: Any) -> Distribution:
        """:return: The action distributions, one for each row."""
        with self._differentiable():
            states, starts = self._begun
            distribution: Distribution = self._policy.get_distribution(obs, states.pi, starts)[0]
        return distribution

    def predict_values(self, obs: Any) -> th.Tensor:
        """:return: The values, shape ``(B, 1)``."""
        with self._differentiable():
            states, starts = self._begun
            value_of = self._shared_value if self._policy.shared_lstm else self._policy.predict_values
            values: th.Tensor = value_of(obs, states.vf, starts)
        return values

    def _shared_value(self, obs: Any, states: Any, starts: th.Tensor) -> Any:
        """The same as the policy's own, which cuts the gradient behind a memory that actor and critic share."""
        policy = self._policy
        latent, _ = policy._process_sequence(policy.extract_features(obs), states, starts, policy.lstm_actor)
        return policy.value_net(policy.mlp_extractor.forward_critic(latent))

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """:return: Values ``(B, 1)``, log-probabilities of the actions and entropies ``(B,)``."""
        evaluated: tuple[th.Tensor, th.Tensor, th.Tensor | None]
        evaluated = self._policy.evaluate_actions(obs, actions, self._lstm_states, self._episode_starts)
        return evaluated

    def _differentiable(self) -> AbstractContextManager[None]:
        """In evaluation mode cuDNN's recurrent networks have no gradient; PyTorch's own take their place."""
        if self._policy.training or not th.is_grad_enabled() or self._policy.device.type != "cuda":
            return nullcontext()
        without_cudnn: AbstractContextManager[None] = th.backends.cudnn.flags(enabled=False)
        return without_cudnn


def _begun(lstm_states: Any, episode_starts: th.Tensor) -> tuple[Any, th.Tensor]:
    """
    The same with the memory forgotten already, if episodes start at the beginning of sequences only, as they do in
    minibatches. sb3-contrib goes step by step through a sequence with starts, and several times faster through others.
    """
    starts = episode_starts.reshape(lstm_states.pi[0].shape[1], -1)
    if starts[:, 1:].any():
        return lstm_states, episode_starts
    kept = (1 - starts[:, 0]).view(1, -1, 1)
    pi, vf = (tuple(kept * state for state in states) for states in (lstm_states.pi, lstm_states.vf))
    return lstm_states._replace(pi=pi, vf=vf), th.zeros_like(episode_starts)
