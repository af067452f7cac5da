"""Agent and learned attack trained in turns: ATLA-PPO and PA-ATLA."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_barpo.adversary import KL, HeldLimits
from sb3_barpo.attacks import PAAD, SARL, Origin, PolicyAttack
from sb3_barpo.attacks.memory import Memory
from sb3_barpo.attacks.victim import normalizer_digest, sample_actions, undisturbed, victim_digest
from sb3_barpo.losses import Defence, Regularised
from sb3_barpo.training.presets import RobustPPO
from sb3_barpo.training.robust import RobustUpdate
from sb3_barpo.vec_envs import Wrapper

#: The learned attacks that may be an agent's opponent.
ATTACKERS: dict[str, type[PolicyAttack]] = {kind.name: kind for kind in (SARL, PAAD)}

#: What attackers have of their agent's settings, if not told otherwise.
SHARED = "learning_rate", "n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda"


class Turns:
    """
    One stream of episodes of which agent and attacker take turns: where it stands now.

    :param attack: The attack; it has an adversary.
    :param venv: The agent's environments.
    :param clean: Their present observations.
    :param starts: Which of them start an episode, shape ``(n_envs,)``.
    """

    def __init__(self, attack: PolicyAttack, venv: VecEnv, clean: Any, starts: np.ndarray) -> None:
        self.attack = attack
        self.venv = venv
        #: What a recurrent agent remembers of what it was shown in either turn; ``None`` for others.
        self.memory = Memory.of(attack.model, venv.num_envs)
        self._limits = HeldLimits(attack.model)
        self._stand(clean, starts)

    def _stand(self, clean: Any, starts: np.ndarray) -> None:
        self.clean = clean
        self.starts = starts
        if self.memory is not None:
            self.memory.forget(starts)

    def shown(self, actions: th.Tensor) -> Any:
        """:return: What the agent sees if its attacker does this."""
        attack, policy = self.attack, self.attack.victim(self.memory)
        perturbed = attack.respond(obs_as_tensor(self.clean, attack.model.device), actions, policy)
        bounds = self._limits.behind(attack.observation_space, self.venv, self.clean)
        self._seen = attack.shown(perturbed, self.clean, bounds)
        return self._seen

    def reset(self) -> None:
        """Begin episodes."""
        self._stand(self.venv.reset(), np.ones(self.venv.num_envs, dtype=bool))

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the environments and remember where they stand."""
        observations, rewards, dones, infos = self.venv.step_wait()
        if self.memory is not None:
            self.memory.advance(self._seen)
        self._stand(observations, dones)
        return observations, rewards, dones, infos


class AgentSide(Wrapper):
    """
    The agent's turn: its observations are perturbed by the attacker, which explores as in its own turn.

    :param turns: The stream of episodes.
    :param noise: Within it, the global generators are the attacker's own.
    """

    def __init__(self, turns: Turns, noise: "Noise") -> None:
        super().__init__(turns.venv)
        self.turns = turns
        self._noise = noise

    def look(self) -> Any:
        """:return: What the agent sees now."""
        adversary: Any = self.turns.attack.adversary_model
        with self._noise.own(), th.no_grad():
            seen, _ = adversary.policy.obs_to_tensor(self.turns.clean)
            actions = adversary.policy.get_distribution(seen).get_actions()
            return self.turns.shown(actions.reshape(-1, *adversary.action_space.shape))

    def reset(self) -> VecEnvObs:
        self.turns.reset()
        seen: VecEnvObs = self.look()
        return seen

    def step_wait(self) -> VecEnvStepReturn:
        _, rewards, dones, infos = self.turns.step_wait()
        return self.look(), rewards, dones, infos


class AttackerSide(Wrapper):
    """
    The attacker's turn: it sees what the agent should see, decides what the agent sees instead, and is rewarded by what
    the agent loses. The agent explores as in its own turn.

    :param turns: The stream of episodes.
    """

    def __init__(self, turns: Turns) -> None:
        super().__init__(turns.venv, action_space=turns.attack.adversary_space())
        self.turns = turns

    def seed(self, seed: int | None = None) -> list[int | None]:
        """The environments have the agent's seed."""
        del seed
        return [None] * self.num_envs

    def reset(self) -> VecEnvObs:
        """Episodes go on: the agent was here before."""
        clean: VecEnvObs = self.turns.clean
        return clean

    def step_async(self, actions: np.ndarray) -> None:
        agent = self.turns.attack.model
        seen = self.turns.shown(th.as_tensor(actions, device=agent.device))
        _, taken = sample_actions(agent, seen, self.turns.memory)
        self.venv.step_async(taken)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.turns.step_wait()
        return observations, -rewards, dones, infos


class Noise:
    """The attacker's own state of the global generators, from which SB3 draws. The agent's draws stay PPO's."""

    def __init__(self) -> None:
        self._state: tuple[Any, Any, Any] | None = None

    @contextmanager
    def own(self) -> Iterator[None]:
        """Put it in place for a while."""
        before = random.getstate(), np.random.get_state(), th.get_rng_state()
        if self._state is not None:
            self._put(self._state)
        try:
            yield
        finally:
            self._state = random.getstate(), np.random.get_state(), th.get_rng_state()
            self._put(before)

    @staticmethod
    def _put(state: tuple[Any, Any, Any]) -> None:
        random.setstate(state[0])
        np.random.set_state(state[1])
        th.set_rng_state(state[2])


class Alternating(RobustUpdate):
    """
    What makes ATLA of an algorithm: to be inherited before it. Users take :class:`ATLA`, or
    :class:`sb3_barpo.RecurrentATLA` for agents with a memory.

    :param args: As in :class:`sb3_barpo.training.robust.RobustUpdate`.
    :param attacker: ``"sarl"`` or ``"paad"``.
    :param attacker_kwargs: Arguments of the attacker's PPO. By default its learning rate, rollouts, epochs and
        discounts are the agent's, all else is SB3's.
    :param kwargs: As in :class:`sb3_barpo.training.robust.RobustUpdate`.
    :raises ValueError: for an unknown attacker.
    """

    _last_lstm_states: Any  # RecurrentPPO's

    def __init__(
        self,
        *args: Any,
        attacker: str = "sarl",
        attacker_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.attacker = attacker
        self.attacker_kwargs = None if attacker_kwargs is None else dict(attacker_kwargs)
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if self.attacker not in ATTACKERS:
            raise ValueError(f"Unknown attacker {self.attacker!r}. Choose from {', '.join(ATTACKERS)}.")
        super()._setup_model()
        self._noise = Noise()
        self._attack = self._new_attack()
        self._attack.adversary_space()  # raises for observations that it cannot move
        self._turns: Turns | None = None
        self._attacked = False

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_noise", "_attack", "_turns", "_attacked", "_attackers_callback"]

    def _new_attack(self) -> PolicyAttack:
        settings = {name: getattr(self, name) for name in SHARED} | (self.attacker_kwargs or {})
        kind: Any = ATTACKERS[self.attacker]
        attack: PolicyAttack = kind(self, 1.0, ball=self._adversary.ball, **{"seed": self.seed, **settings})
        return attack

    def learned_attack(self) -> PolicyAttack:
        """
        :return: The attacker as it is now, for evaluations, or to be saved.
        :raises ValueError: if there is none yet.
        """
        attack = self._attack
        if attack.adversary_model is None or self.env is None:
            raise ValueError("There is no attacker yet: it begins with the first rollout at a strength above 0.")
        steps, statistics = attack.adversary_model.num_timesteps, normalizer_digest(self.env)
        attack.origin = Origin(victim_digest(self), statistics, attack.epsilon, steps, attack.seed_of_fit)
        return attack

    def load_attack(self, path: str | Path) -> None:
        """
        Go on with an attacker that was stored.

        :param path: File that ``learned_attack().save(path)`` wrote.
        :raises ValueError: if it is of another kind than this model's attacker, or of other spaces.
        """
        self._attack = ATTACKERS[self.attacker].load(path, self, transfer=True)
        self._turns = None

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        before = self._last_obs
        found = super()._setup_learn(*args, **kwargs)
        if self._last_obs is not before:  # the environments were reset
            self._turns = None
        return found

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """The agent's turn: a rollout of what its attacker shows it."""
        self._fit_sheet()
        epsilon = self.training_epsilon()
        self._attacked = epsilon > 0
        if not self._attacked:
            if self._turns is not None:
                self._last_obs = self._turns.clean
                self._remember(self._turns)
                self._turns = None
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        self._attack.epsilon = epsilon
        if self._turns is None or self._turns.venv is not env:
            self._turns = self._begin_turns(env)
        side = AgentSide(self._turns, self._noise)
        self._last_obs, self._last_episode_starts = side.look(), self._turns.starts
        self._remember(self._turns)
        return super().collect_rollouts(side, callback, rollout_buffer, n_rollout_steps)

    def _remember(self, turns: Turns) -> None:
        """The agent goes on with what it has seen in either turn."""
        if turns.memory is not None:
            self._last_lstm_states = turns.memory.states

    def _begin_turns(self, env: VecEnv) -> Turns:
        """The stream of episodes from here on, and the adversary at home there."""
        attack = self._attack
        turns = Turns(attack, env, self._last_obs, np.asarray(self._last_episode_starts))
        if turns.memory is not None:
            turns.memory.states = self._last_lstm_states
        # One scale for all rewards, as in a fit of the attack.
        side = VecNormalize(AttackerSide(turns), norm_obs=False, gamma=attack.kwargs.get("gamma", 0.99))
        with self._noise.own():
            adversary: Any = attack.adversary_model
            if adversary is None:
                settings = {"seed": attack.seed_of_fit, "device": self.device, **attack.kwargs}
                attack.adversary_model = adversary = attack.algorithm(attack.policy, side, **settings)
            else:
                adversary.set_env(side)
            adversary.set_logger(Logger(None, []))
            _, self._attackers_callback = adversary._setup_learn(self._total_timesteps, None, False)
        return turns

    def train(self) -> None:
        """The agent's update, then the attacker's turn."""
        super().train()
        if self._attacked:
            self._attackers_turn()

    def _attackers_turn(self) -> None:
        """One rollout and one update of the attacker."""
        adversary: Any = self._attack.adversary_model
        assert self._turns is not None  # the rollout before has begun them; for the types' sake
        with undisturbed(self, self._turns.venv), self._noise.own():
            adversary._last_obs, adversary._last_episode_starts = self._turns.clean, self._turns.starts
            adversary._current_progress_remaining = self._current_progress_remaining
            adversary.collect_rollouts(
                adversary.env, self._attackers_callback, adversary.rollout_buffer, adversary.n_steps
            )
            adversary.train()


class ATLA(Alternating, RobustPPO):
    """
    PPO whose rollouts are attacked by an adversary that is trained in turns with it (ATLA-PPO, Zhang et al., "Robust
    Reinforcement Learning on State Observations with Learned Optimal Adversary", ICLR 2021; with ``attacker="paad"``
    PA-ATLA, Sun et al., ICLR 2022).

    After each of the agent's updates the attacker collects a rollout of its own and learns from it, with the agent and
    the statistics of ``VecNormalize`` as they are. Both explore in both turns. ``total_timesteps`` counts the agent's
    steps; the environments make about twice as many. While ε is 0 there is no attacker, and this is PPO.

    With a ``weight`` above 0 the agent's loss has SA-PPO's penalty in addition, around the observations that the agent
    was shown. For agents with a memory there is :class:`sb3_barpo.RecurrentATLA`.

    The model's file is PPO's. The attacker is stored beside it: ``model.learned_attack().save(path)``, and
    ``model.load_attack(path)`` goes on with it.

    :param args: As in :class:`sb3_barpo.training.robust.RobustUpdate`.
    :param attacker: ``"sarl"`` or ``"paad"``.
    :param attacker_kwargs: Arguments of the attacker's PPO. By default its learning rate, rollouts, epochs and
        discounts are the agent's, all else is SB3's.
    :param weight: Of the penalty, see :class:`sb3_barpo.losses.Regularised`.
    :param kwargs: As in :class:`sb3_barpo.training.robust.RobustUpdate`.
    :raises ValueError: for an unknown attacker.
    """

    defence = Defence(KL(), Regularised(weight=0.0))
