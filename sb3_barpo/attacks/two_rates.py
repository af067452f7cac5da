"""A policy whose value network learns at a rate of its own, as the field's adversaries do. SB3's PPO has one rate."""

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule


class _TwoRatesAdam(th.optim.Adam):
    """Adam whose groups multiply the common learning rate, which SB3 sets before each update, by their ``factor``."""

    def step(self, closure: Any = None) -> Any:
        common = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= group["factor"]
        try:
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, common, strict=True):
                group["lr"] = rate


class TwoRatesPolicy(ActorCriticPolicy):
    """
    SB3's ``MlpPolicy`` with separate networks for policy and value, whose learning rates differ by a factor.

    :param args: See ``ActorCriticPolicy``.
    :param value_rate: Learning rate of the value network relative to the policy's.
    :param kwargs: See ``ActorCriticPolicy``.
    """

    def __init__(self, *args: Any, value_rate: float = 1.0, **kwargs: Any) -> None:
        self.value_rate = value_rate
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        value = [*self.mlp_extractor.value_net.parameters(), *self.value_net.parameters()]
        known = set(map(id, value))
        policy = [parameter for parameter in self.parameters() if id(parameter) not in known]
        groups = [{"params": policy, "factor": 1.0}, {"params": value, "factor": self.value_rate}]
        self.optimizer = _TwoRatesAdam(groups, lr=lr_schedule(1), **self.optimizer_kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "value_rate": self.value_rate}
