"""What the trials of a study do: train agents with the settings of a trial, attack them, and tell the study."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import optuna
from gymnasium import spaces
from optuna.trial import BaseTrial
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.algorithms import OURS
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.adapted import AdaptedAttacks
from sb3_barpo.evaluation.robustness import learned_names
from sb3_barpo.experiment import Agent, Evaluation, make_callbacks, make_env, make_model
from sb3_barpo.hyperparams import entry
from sb3_barpo.schedules import Ramp, as_schedule
from sb3_barpo.seeds import CALLBACKS
from sb3_barpo.tuning.callbacks import RobustTrialCallback
from sb3_barpo.tuning.criteria import Blend, Criterion, as_criterion
from sb3_barpo.tuning.ppo import ppo_params, suggest_ppo
from sb3_barpo.tuning.spaces import Numbers, own_settings
from sb3_barpo.tuning.strength import StrengthSpace, merged, place, setting_of, strength_params, suggest_strength


@dataclass(frozen=True)
class Tuning:
    """
    What every trial of a study does.

    :param agent: What is trained, without a strength. Each trial gets one, and seeds of its own: trial ``n``
        has ``seed + n``, and where there are several, those from ``seed + n · n_seeds`` on.
    :param space: The settings that are tried, those of the agent's defence; ``None`` for PPO, which has none.
    :param evaluation: How trials are compared, at one ε: by attacks that need no learning, and with ``adapt_steps`` by
        learned ones.
    :param criterion: What the study looks for.
    :param n_reports: How often a trial reports to the pruner, evenly between the latest end of a ramp and its own end.
    :param adapt_steps: Environment steps for which learned attackers, which start from those of the trial before, adapt
        to each trial; see :class:`sb3_barpo.evaluation.adapted.AdaptedAttacks`. Trials are pruned by the other attacks.
    :param ppo: Whether PPO's own settings are searched for (:mod:`sb3_barpo.tuning.ppo`), together with the strength;
        of PPO itself they are all there is.
    :param n_seeds: Seeds of training of each trial, one after the other, judged by their means. A trial can be pruned
        between them too, so a bad one costs little more than with one seed.
    :param pruner: ``"median"`` stops trials after the ramps that are worse than most; ``"hyperband"`` starts many
        trials, and promotes the better third of those that have reached a ninth and a third of training.
    :param attackers: Folder of the attackers, by default a temporary one for each trial, which then all start anew. No
        setting of the study: each machine has its own.
    :raises ValueError: for an algorithm other than ours and PPO, another defence's space, nothing to search for, an
        attack that is learned without ``adapt_steps`` or cannot be adapted, several ε, no reports, no seeds, or an
        unknown pruner.
    """

    agent: Agent
    space: StrengthSpace | None
    evaluation: Evaluation
    criterion: Criterion = field(default_factory=Blend)
    n_reports: int = 2
    adapt_steps: int | None = None
    ppo: bool = False
    n_seeds: int = 1
    pruner: str = "median"
    attackers: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        own = own_settings(self.agent.algo)
        if (self.space is None) != (self.agent.algo not in OURS) or not (self.ppo or self.space):
            raise ValueError(
                f"{self.agent.algo} has no strength to search for, only PPO's own settings: space=None, ppo=True."
                if self.agent.algo not in OURS
                else f"{self.agent.algo} needs a space: StrengthSpace.around(epsilon, {self.agent.algo!r})."
            )
        if self.space and (strange := sorted(self.space.settings.keys() - own.keys())):
            raise ValueError(
                f"{self.agent.algo} has no {', '.join(strange)} to tune. Take its own space, "
                f"StrengthSpace.around(epsilon, {self.agent.algo!r})."
            )
        object.__setattr__(self, "evaluation", self.evaluation.on(CALLBACKS))
        if len(self.evaluation.epsilon) != 1:
            raise ValueError(
                f"Trials are compared at one strength of the attacks, but epsilon is {self.evaluation.epsilon}. Name "
                "the one for which robustness is wanted."
            )
        if (learned := learned_names(self.evaluation.attacks)) and self.adapt_steps is None:
            raise ValueError(
                f"{', '.join(learned)} would have to be learned for each trial. Name attacks that need no "
                "learning: random, critic, mad; or let attackers adapt to each trial, with adapt_steps=10_000. The "
                "winners are confirmed under all six."
            )
        if self.adapt_steps is not None:
            AdaptedAttacks(learned, self.adapt_steps)  # raises for what cannot be adapted
        if self.pruner not in PRUNERS:
            raise ValueError(f"Unknown pruner {self.pruner!r}. Choose from {', '.join(PRUNERS)}.")
        if self.n_reports < 1:
            raise ValueError(f"n_reports must be at least 1, but it is {self.n_reports}.")
        if self.n_seeds < 1:
            raise ValueError(f"A trial has at least one seed of training, but n_seeds is {self.n_seeds}.")

    @property
    def epsilon(self) -> float:
        """The strength for which robustness is wanted."""
        return self.evaluation.epsilon[0]

    @property
    def judges(self) -> str:
        """By how many seeds a trial is judged, in words."""
        return "one seed" if self.n_seeds == 1 else f"{self.n_seeds} seeds"

    @cached_property
    def paper(self) -> dict[str, Any]:
        """
        The paper's setting: the field's ramp up to ε, without a margin, and the published settings of the defence for
        the task, as far as there are any: κ = 1 for BARPO, 0 for ARPO. Nothing for PPO.
        """
        if self.space is None:
            return {}
        published = entry(self.agent.algo, self.agent.env.rpartition(":")[2])
        found: dict[str, Any] = {"epsilon": Ramp(self.epsilon).to_spec(), "margin": 1.0}
        for name, setting in own_settings(self.agent.algo).items():
            value = setting_of(published, name)
            if isinstance(setting, Numbers) and setting.kinds:
                schedule: Any = as_schedule(value)
                value = schedule.to_spec()
            if (value := setting.usual if value is None else value) is not None:
                place(found, name, value)
        return found

    def to_spec(self) -> dict[str, Any]:
        """:return: All settings, such as JSON can hold."""
        spec = {**asdict(self), "criterion": self.criterion.to_spec()}
        del spec["attackers"]
        return dict(json.loads(json.dumps(spec)))

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> "Tuning":
        """
        :param spec: What :meth:`to_spec` gave.
        :return: The same settings.
        """
        return cls(
            **{
                **spec,  # the rest is plain
                "agent": Agent(**spec["agent"]),
                "space": spec["space"] and StrengthSpace.from_spec(spec["space"]),
                "evaluation": Evaluation(**spec["evaluation"]),
                "criterion": as_criterion(spec["criterion"]),
            }
        )

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """
        :param trial: A trial, running or stored.
        :return: What it tries: arguments of the algorithm, as data that JSON can hold.
        """
        strength = suggest_strength(trial, self.space) if self.space else {}
        if not self.ppo:
            return strength
        tried = merged(self.agent.kwargs, strength)
        return strength | suggest_ppo(trial, self.agent.n_envs, tried, self._gaussian)

    def first(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        :return: Parameters and attributes of the first trial.
        :raises ValueError: if the space does not hold it.
        """
        params = strength_params(self.paper, self.space) if self.space else {}
        if not self.ppo:
            return params, {"setting": "paper"}
        # Not called the paper's: the agent's settings of PPO need not be in the space, only close to it.
        return params | ppo_params(self.agent.algo, self.agent.kwargs, self.agent.n_envs, self._gaussian), {}

    @cached_property
    def _gaussian(self) -> bool:
        env = make_env(self.agent, 1)
        env.close()
        return isinstance(env.action_space, spaces.Box)

    def trained_with(self, strength: dict[str, Any], name: str, seed: int) -> Agent:
        """:return: The agent of this strength, name and seed."""
        return replace(self.agent, name=name, seed=seed, kwargs=merged(self.agent.kwargs, strength))

    def objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        """
        Train and attack the agents of a trial, one for each seed.

        :param trial: The trial.
        :return: Its values, of the means over its seeds.
        :raises optuna.TrialPruned: if the pruner stops it.
        """
        strength = self.suggest(trial)
        first = self.agent.seed + trial.number * self.n_seeds
        reports: list[RobustnessReport] = []
        values: tuple[float, ...] = ()
        for seed in range(first, first + self.n_seeds):
            agent = self.trained_with(strength, f"trial-{trial.number}", seed)
            callback = self._callback(trial, reports)
            values = self._learn(agent, callback)
            assert callback.report is not None  # for mypy: it has just given the values
            reports.append(callback.report)
        return values

    def _callback(self, trial: optuna.Trial, earlier: Sequence[RobustnessReport]) -> RobustTrialCallback:
        assert self.evaluation.seed is not None  # for mypy
        warmup, n_reports = self._reports
        return RobustTrialCallback(
            self._eval_env(),
            trial,
            criterion=self.criterion,
            warmup=warmup,
            n_seeds=self.n_seeds,
            earlier=earlier,
            # 0, never, if too short for any
            eval_freq=(self.agent.steps - warmup) // (n_reports * self.agent.n_envs),
            adapt_steps=self.adapt_steps,
            attackers=self.attackers,
            attacks=self.evaluation.attacks,
            epsilon=self.epsilon,
            n_eval_episodes=self.evaluation.n_eval_episodes,
            seed=self.evaluation.seed,
        )

    def _learn(self, agent: Agent, callback: RobustTrialCallback) -> tuple[float, ...]:
        model = make_model(agent)
        try:
            model.learn(agent.steps, callback=[callback, *make_callbacks(agent)])
            return callback.result()
        finally:
            callback.eval_env.close()
            assert model.env is not None  # for mypy: it was made with environments
            model.env.close()

    @property
    def _reports(self) -> tuple[int, int]:
        """Steps before the first report to the pruner, and the number of reports."""
        if self.pruner == "hyperband":  # it looks at a ninth and at a third of training
            return 0, 9
        return self.settled, self.n_reports

    @property
    def settled(self) -> int:
        """Environment steps from which on trials can be compared: the latest ramp has ended."""
        return int(self.space.latest * self.agent.steps) if self.space else 0

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """:return: The study's pruner."""
        return PRUNERS[self.pruner](self)

    def _eval_env(self) -> VecEnv:
        n_envs = min(self.evaluation.n_envs, self.evaluation.n_eval_episodes)
        return make_env(self.agent, n_envs, training=False)


#: The pruners, by name.
PRUNERS: dict[str, Callable[[Tuning], optuna.pruners.BasePruner]] = {
    "median": lambda tuning: optuna.pruners.MedianPruner(n_warmup_steps=tuning.settled),
    "hyperband": lambda tuning: optuna.pruners.HyperbandPruner(
        # the first report comes after whole steps of all environments
        min_resource=max(tuning.agent.steps // (9 * tuning.agent.n_envs), 1) * tuning.agent.n_envs,
        max_resource=tuning.agent.steps * tuning.n_seeds,
        reduction_factor=3,
    ),
}
