"""What a recurrent victim remembers while it is under attack."""

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_barpo.policies.views import OnSequences, evaluation_mode, is_recurrent

if TYPE_CHECKING:
    from typing_extensions import Self

#: Hidden and cell states as SB3's ``predict`` passes them on, each of shape ``(layers, B, hidden)``.
States: TypeAlias = tuple[np.ndarray, ...]


class Memory:
    """
    The memory of a recurrent policy in B environments, from step to step. It goes on by the observations that the
    policy was *shown*: an attacked agent remembers what it saw, not what there was.

    :param policy: The policy, of sb3-contrib.
    :param n_envs: Number B of environments. At first nothing is remembered.
    """

    def __init__(self, policy: Any, n_envs: int) -> None:
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        layers, _, hidden = policy.lstm_hidden_state_shape
        zeros = th.zeros(layers, n_envs, hidden, device=policy.device)
        self._policy = policy
        #: Hidden and cell states of actor and critic, sb3-contrib's ``RNNStates``, as they were left by the last step.
        self.states = RNNStates((zeros, zeros), (zeros, zeros))
        self._starts = th.zeros(n_envs, device=policy.device)

    @classmethod
    def of(cls, model: OnPolicyAlgorithm, n_envs: int) -> "Self | None":
        """:return: An empty memory of the model's policy; ``None`` if it has none."""
        return cls(model.policy, n_envs) if is_recurrent(model.policy) else None

    def give(self, own: States | None) -> States:
        """
        :param own: What somebody else wants to remember.
        :return: That and all that is remembered here, to be carried as one state of SB3's ``predict``.
        """
        return (*(own or ()), *(state.cpu().numpy() for states in self.states for state in states))

    def take(self, state: States | None) -> States | None:
        """
        Remember what :meth:`give` gave.

        :param state: The state that was carried, ``None`` for an empty memory.
        :return: What somebody else wanted to remember.
        """
        if state is None:
            return None
        actor_h, actor_c, critic_h, critic_c = (th.as_tensor(part, device=self._starts.device) for part in state[-4:])
        self.states = self.states._replace(pi=(actor_h, actor_c), vf=(critic_h, critic_c))
        return state[:-4] or None

    def only(self, i: int) -> "Memory":
        """:return: What is remembered in environment i, whether or not an episode starts there."""
        one = Memory(self._policy, n_envs=1)
        actor, critic = (tuple(part[:, i : i + 1].contiguous() for part in states) for states in self.states)
        one.states = self.states._replace(pi=actor, vf=critic)
        return one

    def forget(self, episode_starts: np.ndarray) -> None:
        """:param episode_starts: In which environments an episode starts at the present step, shape ``(B,)``."""
        self._starts = th.as_tensor(np.asarray(episode_starts), dtype=th.float32, device=self._starts.device)

    @property
    def policy(self) -> OnSequences:
        """The policy as it answers at the present step."""
        return OnSequences(self._policy, self.states, self._starts)

    def advance(self, shown: Any) -> None:
        """
        Go on to the next step.

        :param shown: What the policy saw at the present one, arrays of shape ``(B, *obs)`` or by key.
        """
        with evaluation_mode(self._policy), th.no_grad():
            observations = self._policy.obs_to_tensor(shown)[0]
            # Of the most likely action: no random number is drawn.
            self.states = self._policy(observations, self.states, self._starts, deterministic=True)[3]
        self._starts = th.zeros_like(self._starts)
