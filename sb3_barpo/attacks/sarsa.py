"""Robust Sarsa: an attack by the victim's action value, and the same mixed with MAD."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch.nn.functional import smooth_l1_loss

from sb3_barpo.adversary import KL, PGD, ActionValue, Adversary, Ball, QNetwork, Weighted
from sb3_barpo.attacks.attack import GradientAttack
from sb3_barpo.attacks.learned import LearnedAttack
from sb3_barpo.attacks.memory import Memory
from sb3_barpo.attacks.victim import sample_actions

if TYPE_CHECKING:
    from typing_extensions import Self


class Transitions(NamedTuple):
    """
    What Sarsa learns from; row i of each belongs together.

    :param inputs: Observation and action as Q sees them, shape ``(N, features)``.
    :param rewards: Divided by the standard deviation of the discounted return, clipped to ±10, shape ``(N,)``.
    :param continues: 0 where the episode ended by itself, 1 elsewhere, also at a time limit, shape ``(N,)``.
    :param successors: The observation and the action that came after, shape ``(N, features)``.
    """

    inputs: th.Tensor
    rewards: th.Tensor
    continues: th.Tensor
    successors: th.Tensor


@dataclass
class _UnderWay:
    """A fit between its epochs."""

    data: Transitions
    optimizer: th.optim.Adam
    epoch: int  # the next one
    n_steps: int
    continued: bool  # whether Q was fitted before, so that the regulariser has its full radius


class RobustSarsa(LearnedAttack, GradientAttack):
    """
    Robust Sarsa (Zhang et al., NeurIPS 2020, section 3.5): the victim's own action value Q is learned from its
    exploring, unattacked episodes, then the observation is sought at which the policy does what Q values least at the
    clean one, by signed steps of ``ε / n_steps`` from a uniform start within ``ε / n_steps``. A regulariser keeps Q
    from changing abruptly: the squared bound of its change in a box of radius ``sarsa_epsilon`` around observation and
    action.

    Of a recurrent victim Q knows the observation, not the memory: its mean over what the victim may remember there.

    Against the reference code, each action keeps its true successor, and a time limit is no end; see the
    implementation notes.

    :param model: The victim, with ``Box`` or ``Discrete`` actions.
    :param epsilon: Strength of the attack.
    :param sarsa_epsilon: Radius of the regulariser's box: 0 in the first third of the training, then rising linearly
        through the second.
    :param regularization: Weight of the regulariser.
    :param learning_rate: Adam's, constant for two thirds of the training, then linear to 0.
    :param n_epochs: Passes over the data.
    :param batch_size: Size of a minibatch.
    :param gamma: Discount.
    :param n_steps: Number of gradient steps of the attack.
    :param ball: :class:`LinfBall` by default.
    :param seed: Seed of the fit, and of the attack's starts.
    :raises TypeError: for other action spaces.
    :raises ValueError: if a setting is out of range.
    """

    name = "robust_sarsa"
    _under_way: _UnderWay | None = None

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        epsilon: float,
        sarsa_epsilon: float = 0.02,
        regularization: float = 0.1,
        learning_rate: float = 2.5e-4,
        n_epochs: int = 10,
        batch_size: int = 64,
        gamma: float = 0.99,
        n_steps: int = 10,
        ball: Ball | None = None,
        seed: int | None = None,
    ) -> None:
        for setting, value in (("sarsa_epsilon", sarsa_epsilon), ("regularization", regularization)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{setting} must be finite and at least 0, but it is {value!r}. 0.1 is usual.")
        if not (0 < learning_rate < float("inf") and 0 <= gamma < 1 and n_epochs >= 1 and batch_size >= 1):
            raise ValueError(
                "Sarsa needs a learning_rate above 0, gamma in [0, 1), and at least 1 epoch and 1 sample a batch, but "
                f"learning_rate={learning_rate!r}, gamma={gamma!r}, n_epochs={n_epochs!r}, batch_size={batch_size!r}."
            )
        # Shapes are checked by the base classes before a network is made for them.
        GradientAttack.__init__(self, model, epsilon, _descent(KL(), n_steps, ball), seed)
        with th.random.fork_rng(devices=[]):  # its weights are replaced by the fit
            self.q = QNetwork(self.observation_space, model.action_space).to(model.device)
        self.adversary = _descent(ActionValue(self.q), n_steps, ball)
        self.ball = self.adversary.ball
        self.seed_of_fit = seed
        self.seed(seed)
        self.sarsa_epsilon = sarsa_epsilon
        self.regularization = regularization
        self.learning_rate = learning_rate
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.gamma = gamma
        self.n_steps = n_steps

    @classmethod
    def from_sarsa(cls, sarsa: "RobustSarsa", **settings: Any) -> "Self":
        """
        :param sarsa: A fitted Robust Sarsa; its Q is taken over.
        :param settings: Further arguments of this class.
        :return: The attack, ready.
        :raises ValueError: if it is not fitted.
        """
        sarsa.check_fitted()
        own = {**RobustSarsa._settings(sarsa), **settings}
        attack = cls(sarsa.model, sarsa.epsilon, ball=sarsa.ball, seed=sarsa.seed_of_fit, **own)
        attack.q.load_state_dict(sarsa.q.state_dict())
        attack.origin = sarsa.origin
        return attack

    def _fit(self, venv: VecEnv, total_timesteps: int, tell: Callable[[float], object]) -> Iterator[int]:
        left = total_timesteps
        while left > 0:
            self._seed_all(venv)
            state = self._under_way or self._begin(venv, left, tell)
            steps = self._epoch(state, tell)
            left -= steps
            yield steps

    def _begin(self, venv: VecEnv, total_timesteps: int, tell: Callable[[float], object]) -> _UnderWay:
        q = self.q
        if self.origin is None:
            q = QNetwork(self.observation_space, self.model.action_space).to(self.model.device)
        # Half of the progress is to collect, the other half to learn.
        data = _collect(self.model, q, venv, total_timesteps, self.gamma, lambda steps: tell(steps / 2))
        self.q.load_state_dict(q.state_dict())
        self._under_way = _UnderWay(data, self._adam(), 0, total_timesteps, self.origin is not None)
        return self._under_way

    def _adam(self) -> th.optim.Adam:
        return th.optim.Adam(self.q.parameters(), lr=self.learning_rate, eps=1e-5)

    def _epoch(self, state: _UnderWay, tell: Callable[[float], object]) -> int:
        """One pass over the data. :return: For how many steps of the fit it stands."""
        data, optimizer = state.data, state.optimizer
        batches = th.split(th.randperm(len(data.rewards), device=self.model.device), self.batch_size)
        for i, rows in enumerate(batches):
            done = (state.epoch + i / len(batches)) / self.n_epochs
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * min(3 * (1 - done), 1)
            radius = self.sarsa_epsilon * (1.0 if state.continued else min(max(3 * done - 1, 0), 1))
            loss = self._loss(self.q, Transitions(*(column[rows] for column in data)), radius)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            tell(state.n_steps / self.n_epochs / len(batches) / 2)
        state.epoch += 1
        before, after = ((state.epoch - back) * state.n_steps // self.n_epochs for back in (1, 0))
        if state.epoch == self.n_epochs:
            self._under_way = None
        return after - before

    def _loss(self, q: QNetwork, batch: Transitions, radius: float) -> th.Tensor:
        values = q.net(batch.inputs).squeeze(1)
        with th.no_grad():
            targets = batch.rewards + self.gamma * batch.continues * q.net(batch.successors).squeeze(1)
        loss = smooth_l1_loss(values, targets)
        if radius > 0 and self.regularization > 0:
            low, high = q.bounds(batch.inputs, radius)
            loss = loss + self.regularization * th.maximum(high - values, values - low).square().mean()
        return loss

    def _settings(self) -> dict[str, Any]:
        names = ("sarsa_epsilon", "regularization", "learning_rate", "n_epochs", "batch_size", "gamma", "n_steps")
        return {name: getattr(self, name) for name in names}

    def _save_weights(self, file: io.BytesIO) -> None:
        content: dict[str, Any] = {"q": self.q.state_dict()}
        if (state := self._under_way) is not None:
            content["under_way"] = {
                "data": tuple(state.data),
                "optimizer": state.optimizer.state_dict(),
                "numbers": (state.epoch, state.n_steps, state.continued),
            }
        th.save(content, file)

    @classmethod
    def _restore(cls, arguments: dict[str, Any], weights: io.BytesIO) -> "RobustSarsa":
        attack = cls(**arguments)
        content = th.load(weights, map_location=attack.model.device, weights_only=True)
        attack.q.load_state_dict(content.get("q", content))  # files of version 0.1 have the weights alone
        if stored := content.get("under_way"):
            optimizer = attack._adam()
            optimizer.load_state_dict(stored["optimizer"])
            attack._under_way = _UnderWay(Transitions(*stored["data"]), optimizer, *stored["numbers"])
        return attack


class SarsaMAD(RobustSarsa):
    """
    Robust Sarsa and MAD together (RS+MAD, Zhang et al., NeurIPS 2020): the observation at which
    ``(1 - rho) · (-Q(s, μ(s'))) + rho · KL(π(·|s) ‖ π(·|s'))`` is largest. Take a fitted Q over by :meth:`from_sarsa`,
    or fit its own.

    :param model: The victim.
    :param epsilon: Strength of the attack.
    :param rho: Share of MAD; published values lie between 1e-6 and 3e-2.
    :param kwargs: See :class:`RobustSarsa`.
    :raises ValueError: if rho is not between 0 and 1.
    """

    name = "sarsa_mad"

    def __init__(self, model: OnPolicyAlgorithm, epsilon: float, rho: float = 1e-3, **kwargs: Any) -> None:
        if not 0 <= rho <= 1:
            raise ValueError(f"rho must lie between 0 (Sarsa alone) and 1 (MAD alone), but it is {rho!r}.")
        super().__init__(model, epsilon, **kwargs)
        self.rho = rho
        objective = Weighted([(1 - rho, ActionValue(self.q)), (rho, KL())])
        self.adversary = Adversary(objective, self.adversary.solver, self.ball)
        self.seed(self.seed_of_fit)

    def _settings(self) -> dict[str, Any]:
        return {"rho": self.rho, **super()._settings()}


def _descent(objective: Any, n_steps: int, ball: Ball | None) -> Adversary:
    return Adversary(objective, PGD(n_steps, step_size=1 / max(n_steps, 1), start_radius=1 / max(n_steps, 1)), ball)


def _collect(
    model: OnPolicyAlgorithm,
    q: QNetwork,
    venv: VecEnv,
    total_timesteps: int,
    gamma: float,
    tell: Callable[[float], object] = lambda steps: None,
) -> Transitions:
    """Episodes of the exploring victim. Successors are taken here, in the order of time, before the shuffling."""
    device = model.device
    observations = np.asarray(venv.reset())
    memory = Memory.of(model, venv.num_envs)
    emitted, taken = sample_actions(model, observations, memory)
    returns = np.zeros(venv.num_envs)
    columns: list[tuple[th.Tensor, np.ndarray, np.ndarray, th.Tensor]] = []
    discounted: list[np.ndarray] = []
    for _ in range(-(-total_timesteps // venv.num_envs)):
        inputs = q.inputs(th.as_tensor(observations, device=device), emitted)
        result, rewards, dones, infos = venv.step(taken)
        if memory is not None:
            memory.advance(observations)
            memory.forget(dones)
        observations = np.asarray(result)
        emitted, taken = sample_actions(model, observations, memory)
        after, then = observations, emitted
        timeouts = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos]) & dones
        if timeouts.any():
            # The episode could have gone on: its successor is the last observation, and what the victim would do.
            after, then = observations.copy(), emitted.clone()
            for i in np.flatnonzero(timeouts).tolist():
                after[i] = infos[i]["terminal_observation"]
                went_on = None if memory is None else memory.only(i)
                then[i] = sample_actions(model, after[i : i + 1], went_on)[0][0]
        successors = q.inputs(th.as_tensor(after, device=device), then)
        columns.append((inputs, rewards, 1.0 - (dones & ~timeouts), successors))
        returns = gamma * returns + rewards
        discounted.append(returns.copy())
        returns[dones] = 0
        tell(venv.num_envs)
    data = Transitions(
        *(
            th.cat([th.as_tensor(part, device=device, dtype=th.float32) for part in column])
            for column in zip(*columns, strict=True)
        )
    )
    scale = float(np.std(np.concatenate(discounted))) or 1.0
    return data._replace(rewards=(data.rewards / scale).clamp(-10, 10))
