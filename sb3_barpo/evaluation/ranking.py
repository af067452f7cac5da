"""Which sensor must be good: the return with the worst case of one sensor at a time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pandas as pd
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize
from tqdm import tqdm

from sb3_barpo import seeds
from sb3_barpo.adversary import KL, PGD, Adversary
from sb3_barpo.attacks import Attack, GradientAttack
from sb3_barpo.evaluation.robustness import check_settings, evaluate_robustness, origin_of, run_trial
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.figures import COLOURS, canvas, number
from sb3_barpo.sensors import Sensor, SensorNoise, Sensors, SensorsLike, as_sensors, ball

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The row of all sensors at once, and that of the sheet's random faults.
ALL, FAULTS = "all sensors", "random faults"


class SensorRanking:
    """
    What :func:`rank_sensors` found.

    :param frame: One row for each sensor and strength, for all sensors at once, and for the sheet's random faults if it
        has any, with the columns ``sensor``, ``unit``, ``strength`` (share of the sheet), ``error`` (largest error in
        the sensor's unit; NaN for all),
        ``return`` (mean), ``standard_error`` and ``loss`` (natural minus attacked return, on the same episodes).
    :param natural: Mean return with perfect sensors.
    """

    def __init__(self, frame: pd.DataFrame, natural: float) -> None:
        self.frame = frame
        self.natural = natural

    @property
    def sensors(self) -> list[Any]:
        """The sensors, the one that must be best first: by the return at the largest strength."""
        single = ~self.frame["sensor"].isin([ALL, FAULTS])
        rows = self.frame[single & (self.frame["strength"] == self.frame["strength"].max())]
        return list(rows.sort_values("return", kind="stable")["sensor"])

    @property
    def _listed(self) -> list[Any]:
        return [*self.sensors, *(name for name in (ALL, FAULTS) if (self.frame["sensor"] == name).any())]

    def tolerated(self, share: float = 0.1) -> pd.DataFrame:
        """
        :param share: Which share of the natural return may be lost.
        :return: For each sensor, ranked, the largest error that was tried up to which no more is lost, in its unit; 0
            if already the smallest one costs more.
        """
        allowed = share * abs(self.natural)
        rows = []
        for sensor in self.sensors:
            tried = self.frame[self.frame["sensor"] == sensor].sort_values("strength")
            errors = tried["error"].to_numpy()[np.cumprod(tried["loss"].to_numpy() <= allowed).astype(bool)]
            rows.append((sensor, tried["unit"].iloc[0], float(errors.max(initial=0.0)), float(tried["error"].max())))
        return pd.DataFrame(rows, columns=["sensor", "unit", "tolerated", "tried"])

    def to_markdown(self, tablefmt: str = "pipe") -> str:
        """
        :param tablefmt: One of ``tabulate``'s formats.
        :return: A table: the sensors, ranked, with the mean returns at each strength.
        """
        table = self.frame.pivot(index="sensor", columns="strength", values="return").loc[self._listed]
        largest = self.frame[self.frame["strength"] == self.frame["strength"].max()].set_index("sensor")
        errors = [_with_unit(largest.loc[sensor]) for sensor in table.index]
        table.insert(0, "largest error", errors)
        return table.rename(columns=lambda name: name if isinstance(name, str) else f"× {name:g}").to_markdown(
            floatfmt=".0f" if abs(self.natural) >= 100 else ".3g", tablefmt=tablefmt
        )

    def plot(self) -> "Figure":
        """
        :return: A line of dots for each sensor, the one that must be best on top: the mean return at each strength,
            with its standard error; the dashed line is the return with perfect sensors.
        :raises ImportError: if matplotlib is not installed.
        """
        listed = self._listed
        strengths = sorted(self.frame["strength"].unique())
        figure, axes = canvas(8.0, 1.4 + 0.36 * len(listed))
        axes.axvline(self.natural, color="0.35", ls="--", lw=1.2, zorder=1)
        for s, strength in enumerate(strengths):
            rows = self.frame[self.frame["strength"] == strength].set_index("sensor").loc[listed]
            shade = 0.35 + 0.65 * (s + 1) / len(strengths)
            axes.errorbar(
                rows["return"],
                np.arange(len(listed)),
                xerr=rows["standard_error"],
                fmt="o",
                color=COLOURS[0],
                alpha=shade,
                ms=4 + 3 * (s + 1) / len(strengths),
                elinewidth=1.2,
                label=f"sheet × {strength:g}",
            )
        names = [f"{sensor}   {_with_unit(row)}".rstrip() for sensor, row in rows.iterrows()]
        axes.set_yticks(np.arange(len(listed)), names)
        axes.invert_yaxis()
        axes.set_ylim(len(listed) - 0.4, -0.6)
        axes.axhline(len(self.sensors) - 0.5, color="0.8", lw=1)
        axes.set_xlabel(f"mean return; dashed: {number(self.natural)} with perfect sensors")
        axes.set_title("Worst case of one sensor at a time", loc="left")
        if len(strengths) > 1:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.05), ncols=len(strengths))
        return figure


def rank_sensors(
    model: OnPolicyAlgorithm,
    env: gym.Env[Any, Any] | VecEnv,
    sensors: SensorsLike,
    strengths: float | Sequence[float] = 1.0,
    n_eval_episodes: int = 20,
    seed: int = seeds.REPORT[0],
    n_steps: int = 10,
    deterministic: bool = True,
    progress_bar: bool = False,
) -> SensorRanking:
    """
    Evaluate an agent while an adversary moves the reading of one sensor within its bound, one sensor after the other,
    then those of all, and under the sheet's random faults; always on the same episodes.

    The objective is that of MAD: the KL divergence of what the policy does from what it does at the clean observation.
    The search is PGD from a random start, the best of two, and not MAD's SGLD: within a small bound the gradient of the
    divergence is small, and smallest for robust agents, so that SGLD's noise drowns it. Like every attack, this one
    bounds the worst case from one side: the true one may be lower.

    :param model: The agent, any SB3 on-policy one.
    :param env: Its environment, wrapped as in training, with the statistics of ``VecNormalize``.
    :param sensors: The spec sheet, its YAML file, or it as plain data. Sensors without a bound are left out.
    :param strengths: Shares of the sheet, one or several.
    :param n_eval_episodes: Number of episodes for each sensor and strength.
    :param seed: Seed of the first episode.
    :param n_steps: Number of gradient steps.
    :param deterministic: Whether the agent takes its most likely action.
    :param progress_bar: Whether to show the progress over all sensors.
    :return: The ranking.
    :raises ValueError: for a strength that is not above 0, no bound, or a sheet or environment that does not fit.
    :raises TypeError: if the model or its observation space cannot be attacked.
    """
    sensors = as_sensors(sensors)
    shares = [float(share) for share in np.atleast_1d(strengths)]
    check_settings("mad", shares)
    config = EvalConfig(n_eval_episodes, seed, deterministic)
    if min(shares) <= 0:
        raise ValueError(f"strengths must be above 0, but they are {strengths!r}. 1 is the sheet; 0 is without attack.")
    venv = BaseAlgorithm._wrap_env(env)

    def attack_of(sheet: Sensors) -> GradientAttack:
        around = ball(sheet, model.observation_space, unwrap_vec_normalize(venv))  # type: ignore[arg-type]
        return GradientAttack(model, 1.0, Adversary(KL(), PGD(n_steps, start_radius=1.0, restarts=2), around))

    bounded = [name for name, sensor in sensors.sensors.items() if sensor.bound > 0 or sensor.proportional > 0]
    whole = attack_of(sensors)
    faults = SensorNoise(model, 1.0, sensors, unwrap_vec_normalize(venv))
    some = [(FAULTS, faults)] if any(sensor.faults for sensor in sensors.sensors.values()) else []
    with tqdm(total=1 + len(bounded) + len(some), unit="sensor", disable=not progress_bar) as bar:
        report = evaluate_robustness(
            model, venv, [whole.at(share) for share in shares], 1.0, n_eval_episodes, seed, deterministic, warn=False
        )
        everything = report.to_frame()
        bar.update()
        natural = everything.loc[everything["attack"] == "natural", "return"].to_numpy()
        rows = [
            _row(ALL, sensors, share, everything.loc[everything["epsilon"] == share, "return"].to_numpy(), natural)
            for share in shares
        ]
        trials: list[tuple[Any, Attack]] = [(name, attack_of(sensors.only(name))) for name in bounded]
        for name, attack in [*trials, *some]:
            for share in shares:
                episodes = run_trial(origin_of(model, venv), model, venv, attack.at(share), config)
                rows.append(_row(name, sensors, share, np.array([episode[-2] for episode in episodes]), natural))
            bar.update()
    columns = ["sensor", "unit", "strength", "error", "return", "standard_error", "loss"]
    return SensorRanking(pd.DataFrame(rows, columns=columns), float(natural.mean()))


def _row(
    name: Any, sensors: Sensors, share: float, returns: np.ndarray, natural: np.ndarray
) -> tuple[Any, str, float, float, float, float, float]:
    """A row of a ranking's frame."""
    sensor = sensors.sensors.get(name)
    unit, error = ("", np.nan) if sensor is None else _largest_error(sensor)
    deviation = returns.std(ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else np.nan
    return (
        name,
        unit,
        share,
        share * error,
        float(returns.mean()),
        float(deviation),
        float(natural.mean() - returns.mean()),
    )


def _largest_error(sensor: Sensor) -> tuple[str, float]:
    """
    The unit and size of what the sheet allows; a proportional error alone is in percent, beside a bound it is left out.
    """
    return (sensor.unit, sensor.bound) if sensor.bound > 0 else ("%", 100 * sensor.proportional)


def _with_unit(row: "pd.Series[Any]") -> str:
    return "" if np.isnan(row["error"]) else f"±{row['error']:.3g} {row['unit']}".rstrip()
