"""Smoothed policies (S-PPO): the median of what a policy answers to noisy copies of its observation."""

import copy
from typing import Any, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.preprocessing import is_image_space

SelfModel = TypeVar("SelfModel", bound=OnPolicyAlgorithm)


class SmoothedMlpPolicy(ActorCriticPolicy):
    """
    SB3's ``MlpPolicy``, smoothed: its mean action is the element-wise median over copies of the observation with
    Gaussian noise (S-PPO, Sun et al., "Breaking the Barrier: Enhanced Utility and Robustness in Smoothed DRL Agents",
    ICML 2024). Whatever the network, a change δ of the observation in L2 norm moves the median no further than to the
    quantiles Φ(±δ/σ) of the answers (Chiang et al., NeurIPS 2020). Critic and standard deviation see no noise: SB3's
    standard deviation does not depend on the observation, so that it is its own median.

    The paper smooths Gaussian policies only. Of other distributions this takes the median of each log-probability, and
    normalises: the same rule, with a gradient, unlike the vote among actions by which the paper smooths a DQN.

    In training, rollouts and minibatches draw noise of their own; all that is asked within a minibatch, the adversary's
    search among it, sees the same noise. In evaluation mode the noise is the same at each step, so that the policy that
    is tested, attacked and deployed is a function of its observation. Its gradient is then that of the mean over the
    copies: the median's own is that of two copies alone, and misleads attacks. Noise comes from the policy's own
    generator, in pairs ``z`` and ``-z``, which make the median of a linear policy exact, and is the same for all rows.

    It is a policy of PPO, A2C and this package's algorithms without a memory. Files are SB3's; ``PPO.load`` opens them
    where this package is installed.

    :param observation_space: ``Box``, no images.
    :param args: As in SB3's ``ActorCriticPolicy``.
    :param noise_std: σ of the noise, in units of what the policy sees (after ``VecNormalize``); 0 is SB3's policy. The
        published code has 0.3 for Hopper, 0.2 for Walker2d and 0.4 for Humanoid.
    :param n_draws: Number of noisy copies in training, even.
    :param n_test_draws: Number of noisy copies otherwise, even.
    :param kwargs: As in SB3's ``ActorCriticPolicy``.
    :raises ValueError: for a negative or not finite σ, or a number of copies that is not even and above 0.
    :raises TypeError: for images, ``Dict`` and ``Discrete`` observations, and for gSDE.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        *args: Any,
        noise_std: float = 0.2,
        n_draws: int = 20,
        n_test_draws: int = 100,
        **kwargs: Any,
    ) -> None:
        if not isinstance(noise_std, int | float) or not 0 <= noise_std < float("inf"):
            raise ValueError(f"noise_std must be a finite number, at least 0, but it is {noise_std!r}. 0.2 is usual.")
        for name, number in (("n_draws", n_draws), ("n_test_draws", n_test_draws)):
            if not isinstance(number, int) or number < 2 or number % 2:
                raise ValueError(f"{name} must be even, at least 2, since noise comes in pairs, but it is {number!r}.")
        if not isinstance(observation_space, spaces.Box) or is_image_space(observation_space):
            raise TypeError(
                "A smoothed policy adds noise to Box observations that are no images, but these are "
                f"{observation_space}. Use a policy that is not smoothed."
            )
        if kwargs.get("use_sde"):
            raise TypeError(
                "A smoothed policy has no median of gSDE's noise, which depends on the observation. Use use_sde=False."
            )
        super().__init__(observation_space, *args, **kwargs)
        self.noise_std = float(noise_std)
        self.n_draws = n_draws
        self.n_test_draws = n_test_draws
        # Seeded as torch is, without a draw from torch's generator: all else stays SB3's.
        self._generator = np.random.default_rng(th.initial_seed() % 2**64)
        self._training_noise = self._draw(self._generator, n_draws)
        self.register_buffer("_test_noise", self._draw(np.random.default_rng(0), n_test_draws), persistent=False)

    def _draw(self, generator: np.random.Generator, number: int) -> th.Tensor:
        """:return: Noise in pairs, shape ``(number, 1, *obs)``."""
        half = generator.standard_normal((number // 2, 1, *self.observation_space.shape), np.float32)  # type: ignore[misc]
        return th.as_tensor(self.noise_std * np.concatenate([half, -half]), dtype=th.float32, device=self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"noise_std": self.noise_std, "n_draws": self.n_draws, "n_test_draws": self.n_test_draws}
        return {**super()._get_constructor_parameters(), **own}

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        A step of a rollout, with new noise.

        :param obs: Observations ``(B, *obs)``.
        :param deterministic: Whether to take the most likely action.
        :return: Actions, values and log-probabilities.
        """
        if self.noise_std == 0:
            return super().forward(obs, deterministic)
        self._training_noise = self._draw(self._generator, self.n_draws)
        distribution = self._smoothed(obs, self._training_noise)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        return actions.reshape((-1, *self.action_space.shape)), self.predict_values(obs), log_prob  # type: ignore[misc]

    def evaluate_actions(self, obs: Any, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """
        A minibatch, in training mode with new noise.

        :param obs: Observations ``(B, *obs)``.
        :param actions: Shape ``(B, *action)``.
        :return: Values, log-probabilities and entropies.
        """
        if self.noise_std == 0:
            return super().evaluate_actions(obs, actions)
        if self.training:
            self._training_noise = self._draw(self._generator, self.n_draws)
        distribution = self.get_distribution(obs)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any) -> Distribution:
        """
        :param obs: Observations ``(B, *obs)``.
        :return: The smoothed distribution: in training mode on the present minibatch's noise.
        """
        if self.noise_std == 0:
            return super().get_distribution(obs)
        noise: Any = self._training_noise if self.training else self._test_noise
        return self._smoothed(obs, noise)

    def _smoothed(self, obs: th.Tensor, noise: th.Tensor) -> Distribution:
        seen = (obs.float() + noise.to(obs.device)).flatten(0, 1)
        features = BasePolicy.extract_features(self, seen, self.pi_features_extractor)  # the actor's alone
        outputs = self.action_net(self.mlp_extractor.forward_actor(features)).unflatten(0, (len(noise), -1))
        distribution: Any = self.action_dist
        if isinstance(distribution, DiagGaussianDistribution):
            return distribution.proba_distribution(self._middle(outputs), self.log_std)
        if isinstance(distribution, CategoricalDistribution):
            outputs = outputs.log_softmax(-1)  # logits of two draws may differ by a constant that means nothing
        elif isinstance(distribution, MultiCategoricalDistribution):
            parts = outputs.split([*map(int, self.action_space.nvec)], dim=-1)  # type: ignore[attr-defined]
            outputs = th.cat([part.log_softmax(-1) for part in parts], dim=-1)
        smoothed: Distribution = distribution.proba_distribution(action_logits=self._middle(outputs))
        return smoothed

    def _middle(self, outputs: th.Tensor) -> th.Tensor:
        median = _median(outputs)
        return median if self.training else _led_by(outputs.mean(0), median)


def _median(outputs: th.Tensor) -> th.Tensor:
    """:return: The mean of the two middle values of an even number along the first axis: ``th.median`` is the lower."""
    middle = len(outputs) // 2
    return outputs.sort(0).values[middle - 1 : middle + 1].mean(0)


def _led_by(guide: th.Tensor, value: th.Tensor) -> th.Tensor:
    """:return: The value, with the guide's gradient."""
    return guide + (value - guide).detach() if guide.requires_grad else value


def unsmoothed(model: SelfModel) -> SelfModel:
    """
    The agent without noise, to check what smoothing is worth: it may be evaluated, and attacks may search on it and
    then attack the smoothed agent.

    :param model: An agent with a :class:`SmoothedMlpPolicy`.
    :return: A copy of it that acts by the policy inside, with the same weights. It is not for training.
    :raises TypeError: if the policy is not smoothed.

    Example::

        transferred = MAD(unsmoothed(model), epsilon=0.075)
        evaluate_robustness(model, env, [transferred])
    """
    policy = model.policy
    if not isinstance(policy, SmoothedMlpPolicy):
        raise TypeError(f"unsmoothed() takes an agent with a SmoothedMlpPolicy, not with {type(policy).__name__}.")
    kwargs = policy._get_constructor_parameters()
    inside = ActorCriticPolicy(
        **{name: kwargs[name] for name in kwargs.keys() - {"noise_std", "n_draws", "n_test_draws"}}
    )
    inside.load_state_dict(policy.state_dict())
    inside.to(policy.device).set_training_mode(False)
    other = copy.copy(model)
    other.policy = inside
    return other
