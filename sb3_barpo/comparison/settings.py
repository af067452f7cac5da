"""What is compared: algorithms and trained agents, tasks, seeds, and how all are attacked."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb3_barpo.agents.find import find_env as find_recorded_env
from sb3_barpo.agents.find import find_file, plain
from sb3_barpo.algorithms import OURS, find
from sb3_barpo.environments import find_env
from sb3_barpo.experiment import Agent, Evaluation, Trained
from sb3_barpo.hyperparams import entry, read
from sb3_barpo.resume import write_record
from sb3_barpo.schedules import as_schedule
from sb3_barpo.seeds import REPORT
from sb3_barpo.sensors import as_sensors
from sb3_barpo.zoo.settings import check_settings, known_settings

_TRAINED = {"label", "path", "env", *(field.name for field in dataclasses.fields(Trained))} - {"digest"}


@dataclass(frozen=True)
class Task:
    """
    One environment of a comparison.

    :param env: Its id.
    :param agents: Who is compared, seed by seed.
    :param evaluation: How they are attacked.
    """

    env: str
    agents: list[Agent | Trained]
    evaluation: Evaluation

    @property
    def folder(self) -> str:
        """The task's folder below the comparison's."""
        return plain(self.env)

    @property
    def labels(self) -> list[str]:
        """What the report calls its rows, in the order of the settings."""
        return list(dict.fromkeys(agent.label for agent in self.agents))


@dataclass(frozen=True)
class Comparison:
    """
    The settings of :func:`sb3_barpo.comparison.compare`, which explains them.

    :raises ValueError: for settings that are invalid or contradict each other; now, and not when agents are trained.
    """

    algorithms: Sequence[str | Mapping[str, Any]] = ()
    env: Sequence[str] = ()
    seeds: Sequence[int] = (0, 1, 2)
    steps: int | Mapping[str, int] | None = None
    n_envs: int | None = None
    hyperparams: Mapping[str, Any] = field(default_factory=dict)
    agents: Sequence[Mapping[str, Any]] = ()
    epsilon: float | Mapping[str, float] | None = None
    attacks: Sequence[str] = ("all",)
    budget: str = "standard"
    n_eval_episodes: int = 50
    eval_seed: int = REPORT.start
    gym_packages: Sequence[str] = ()
    sensors: Any = None

    def __post_init__(self) -> None:
        for name in ("algorithms", "env", "seeds", "agents", "attacks", "gym_packages"):
            value = getattr(self, name)
            one = isinstance(value, str | int | Mapping)
            object.__setattr__(self, name, [value] if one else list(value))
        if self.sensors is not None:  # as data: what is stored must not change with a file
            object.__setattr__(self, "sensors", json.loads(json.dumps(as_sensors(self.sensors).spec())))
        if not self.algorithms and not self.agents:
            raise ValueError("There is nothing to compare: name algorithms, such as ppo and barpo, or trained agents.")
        if not self.env:
            raise ValueError("On which environment? Name at least one by env, such as Hopper-v5.")
        if not self.seeds:
            raise ValueError("A comparison needs at least one seed of training, but seeds is empty.")
        for name in ("env", "seeds"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"Name each of {name} once, but they are {getattr(self, name)}.")
        for name in ("steps", "epsilon"):
            value = getattr(self, name)
            if isinstance(value, Mapping) and (unknown := [env for env in value if env not in self.env]):
                raise ValueError(f"{name} is given for {', '.join(unknown)}, which is none of {', '.join(self.env)}.")
        self.tasks()

    def tasks(self) -> list[Task]:
        """:return: The tasks with their agents, in the order of the settings; seed by seed, so that results come."""
        variants = [_variant(one) for one in self.algorithms]
        labels = [label for label, _, _ in variants]
        if doubled := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(
                f"Each algorithm needs a label of its own, but there are several of {', '.join(doubled)}. Add label: "
                "to the mapping of each variant."
            )
        self._check(variants)
        tasks = []
        for env in self.env:
            epsilon = self._epsilon(env, variants)
            agents = [self._agent(env, seed, epsilon, *variant) for seed in self.seeds for variant in variants]
            names = [agent.name for agent in agents]
            given = self._trained(env)
            names += [agent.name for agent in given]
            if doubled := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(
                    f"{', '.join(doubled)} is the name of two agents on {env}: give them other labels or names."
                )
            if not agents and not given:
                raise ValueError(f"There is nothing to compare on {env}: no algorithm, and no trained agent.")
            evaluation = Evaluation(
                [epsilon],
                list(self.attacks),
                self.n_eval_episodes,
                self.eval_seed,
                budget=self.budget,
                sensors=self.sensors,
            )
            tasks.append(Task(env, [*agents, *given], evaluation))
        return tasks

    def to_dict(self) -> dict[str, Any]:
        """:return: The settings as JSON can hold them; ``Comparison(**settings)`` has the same."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value not in (None, {}, [], ())}

    def _check(self, variants: Sequence[tuple[str, str, dict[str, Any]]]) -> None:
        if "sensors" in self.hyperparams or any("sensors" in own for _, _, own in variants):
            raise ValueError(
                "The spec sheet is one for all, also for attacks on plain PPO. Give it to compare itself: sensors, or "
                "--sensors FILE."
            )
        for _, algo, own in variants:
            for env in self.env:
                check_settings(algo, self._on(env, own))
            if alike := {"n_envs", "n_timesteps", "normalize"} & own.keys():
                raise ValueError(
                    f"{', '.join(sorted(alike))} must be the same for all algorithms, or the comparison says nothing. "
                    "Set it for all: hyperparams, steps or n_envs."
                )
        algos = [algo for _, algo, _ in variants]
        for key, value in self.hyperparams.items():
            takers = [algo for algo in algos if key in known_settings(algo)]
            for algo in takers or algos[:1]:  # the first says that it is unknown
                for env in self.env:
                    check_settings(algo, self._on(env, {key: value}))

    def _epsilon(self, env: str, variants: Sequence[tuple[str, str, dict[str, Any]]]) -> float:
        """The strength to be withstood, and attacked with."""
        given = self.epsilon.get(env) if isinstance(self.epsilon, Mapping) else self.epsilon
        if given is not None:
            return float(given)
        if self.sensors is not None:
            return 1.0  # the sheet
        algo = next((algo for _, algo, _ in variants if algo in OURS), "barpo")
        return float(as_schedule(entry(algo, find_env(env, self.gym_packages))["epsilon"])(0.0))

    def _agent(self, env: str, seed: int, epsilon: float, label: str, algo: str, own: dict[str, Any]) -> Agent:
        settings = entry(algo, find_env(env, self.gym_packages))
        settings.pop("policy")  # the usual one for the observations
        for key, value in _defaults(algo).items():
            if settings.get(key) == value:
                del settings[key]  # what the algorithm takes by itself
        if algo in OURS:
            settings["epsilon"] = _ending_at(settings["epsilon"], epsilon)
            settings |= {} if self.sensors is None else {"sensors": self.sensors}
        alike = {key: value for key, value in self.hyperparams.items() if key in known_settings(algo)}
        settings |= self._on(env, alike) | self._on(env, own)
        steps = self.steps.get(env) if isinstance(self.steps, Mapping) else self.steps
        entry_steps, entry_envs = int(settings.pop("n_timesteps")), settings.pop("n_envs", 1)
        return Agent(
            f"{file_name(label)}-seed{seed}",
            algo,
            env,
            seed,
            entry_steps if steps is None else int(steps),
            entry_envs if self.n_envs is None else self.n_envs,
            normalize=settings.pop("normalize"),
            kwargs=settings,
            label=label,
            gym_packages=list(self.gym_packages),
        )

    def _on(self, env: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of one task: a value may be a mapping from environments to values."""
        found = {}
        for key, value in settings.items():
            if not (isinstance(value, Mapping) and value.keys() & set(self.env)):
                found[key] = value
            elif unknown := [other for other in value if other not in self.env]:
                raise ValueError(f"{key} is given for {', '.join(unknown)}, which is none of {', '.join(self.env)}.")
            elif env in value:
                found[key] = value[env]
        return found

    def _trained(self, env: str) -> list[Agent | Trained]:
        agents: list[Agent | Trained] = []
        for given in self.agents:
            if unknown := sorted(given.keys() - _TRAINED):
                raise ValueError(f"A trained agent has {', '.join(sorted(_TRAINED))}, but not {', '.join(unknown)}.")
            if not (given.get("label") and given.get("path")):
                raise ValueError(f"A trained agent needs a label and a path, but there is only {dict(given)}.")
            paths = [given["path"]] if isinstance(given["path"], str | Path) else list(given["path"])
            if (given.get("env") or self._env_of(paths[0])) != env:
                continue
            rest = {key: value for key, value in given.items() if key not in ("path", "env", "name")}
            rest.setdefault("gym_packages", list(self.gym_packages))
            for k, path in enumerate(paths):
                name = given.get("name") or file_name(given["label"])
                name += f"-{k}" if len(paths) > 1 else ""
                digest = _digest(Path(path), env, given.get("which"))
                agents.append(Trained(name, str(path), env, digest=digest, **rest))
        return agents

    def _env_of(self, path: str | Path) -> str:
        """Of a trained agent: the only one, or the one that its records name."""
        return self.env[0] if len(self.env) == 1 else find_recorded_env(Path(path))


def from_file(path: str | Path) -> dict[str, Any]:
    """
    :param path: A file of settings, YAML or JSON: the arguments of :func:`sb3_barpo.comparison.compare`.
    :return: What it says. Paths of agents in it are relative to the file.
    :raises ValueError: if it is no mapping.
    :raises OSError: if it cannot be read.
    :raises ImportError: for YAML, if PyYAML is not installed.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        settings = json.loads(text)
    else:
        try:
            import yaml
        except ImportError as error:
            raise ImportError('YAML needs PyYAML: pip install "sb3-barpo[zoo]", or write the file as JSON') from error
        settings = yaml.safe_load(text)
    if not isinstance(settings, dict):
        raise ValueError(f"{str(path)!r} must hold a mapping of settings, such as env: [Hopper-v5], but it does not.")
    return _with_paths(settings, lambda one: str(path.parent / one))


def to_file(comparison: Comparison, path: Path) -> None:
    """
    :param comparison: Settings.
    :param path: File to write, JSON. :func:`from_file` reads it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = _with_paths(comparison.to_dict(), lambda one: os.path.relpath(one, path.parent))
    write_record(path, settings)


def _with_paths(settings: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """With other paths of the trained agents."""
    agents = []
    for agent in settings.get("agents", []):
        paths = agent.get("path") or []  # without one, it is refused later
        changed = change(paths) if isinstance(paths, str) else [change(str(one)) for one in paths]
        agents.append({**agent, "path": changed})
    return settings | ({"agents": agents} if agents else {})


def file_name(label: str) -> str:
    """:return: A label as a part of a file's name."""
    return re.sub(r"[^\w.+=]+", "-", label).strip("-").lower()


def _variant(given: str | Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """Label, algorithm and own settings."""
    if isinstance(given, str):
        given = {"algo": given}
    if "algo" not in given:
        raise ValueError(f"A variant needs algo, the name of an algorithm, but there is only {dict(given)}.")
    row = find(str(given["algo"]))
    read(row.name)  # which says if it has no entries
    label = str(given.get("label") or row.class_name)
    return label, row.name, {key: value for key, value in given.items() if key not in ("algo", "label")}


def _defaults(algo: str) -> dict[str, Any]:
    """The settings of an algorithm's loss that it has by default."""
    spec: dict[str, Any] = OURS[algo].load_class().defence.loss.spec() if algo in OURS else {}  # type: ignore[attr-defined]
    return spec


def _ending_at(strength: Any, epsilon: float) -> Any:
    """An entry's strength as it is if it ends at ε, otherwise with ε in the place of its full strength."""
    schedule = as_schedule(strength)
    if schedule(0.0) == epsilon:
        return strength
    if not dataclasses.is_dataclass(schedule) or not hasattr(schedule, "value"):
        raise ValueError(
            f"The entry trains with epsilon {strength!r}, which does not end at {epsilon:g}, the strength to be "
            "withstood. Set epsilon for the training too, by hyperparams."
        )
    return str(dataclasses.replace(schedule, value=epsilon))


def _digest(path: Path, env: str, which: str | None) -> str:
    """Of an agent's file; empty if there is none, as where only its rows are kept."""
    try:
        file = find_file(path, env, which)
    except FileNotFoundError:
        return ""
    return hashlib.sha256(file.read_bytes()).hexdigest()
