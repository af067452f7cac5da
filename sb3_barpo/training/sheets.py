"""What a spec sheet of sensors is to a model: the ball of its adversary."""

from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_barpo.adversary import Adversary
from sb3_barpo.policies.spaces import check_observation_space
from sb3_barpo.sensors import EPSILON_OF_SHEET, Sensors, as_sensors, refresh, within_sheet

#: The default strength: the field's for Hopper.
EPSILON = "ramp_0.075"


class WithSheet(OnPolicyAlgorithm):
    """A model whose adversary may stay within a spec sheet, its argument ``sensors``."""

    epsilon: Any
    sensors: Any
    _adversary: Adversary
    _sheet: Sensors | None

    def _read_sheet(self) -> None:
        """Keeps the sheet as plain data too, so that ``PPO.load`` reads our files where this package is missing."""
        self._sheet = None if self.sensors is None else as_sensors(self.sensors)
        self.sensors = None if self._sheet is None else self._sheet.spec()
        if self.epsilon is None:
            self.epsilon = EPSILON if self._sheet is None else EPSILON_OF_SHEET

    def _within_sheet(self, adversary: Adversary) -> Adversary:
        """The adversary in the ball of the sheet, if there is one."""
        if self._sheet is None:
            return adversary
        space = check_observation_space(self.observation_space)
        return within_sheet(adversary, self._sheet, space, self.get_vec_normalize_env())

    def _fit_sheet(self) -> None:
        """Take the radii of the sheet's ball anew: statistics move in training."""
        if self._sheet is not None:
            space = check_observation_space(self.observation_space)
            refresh(self._adversary.ball, self._sheet, space, self.get_vec_normalize_env())
