"""
Experiments: agents of several algorithms and seeds, trained and attacked in parallel processes.

Each agent has its own folder. Finished work in it is reused, so that rerunning a killed experiment resumes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch as th
from joblib import Parallel, delayed
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_barpo.agents.load import load_agent
from sb3_barpo.algorithms import find
from sb3_barpo.environments import INNER, around, build
from sb3_barpo.evaluation import RobustnessReport, evaluate_robustness
from sb3_barpo.evaluation.progress import Tell, bars
from sb3_barpo.evaluation.robustness import check_settings
from sb3_barpo.evaluation.settings import EvalConfig
from sb3_barpo.expressions import read_kwargs
from sb3_barpo.resume import read_record, write_record
from sb3_barpo.seeds import REPORT

#: The arguments that RL Zoo writes as ``lin_<initial value>``.
_SCHEDULES = {"learning_rate", "clip_range", "clip_range_vf"}

#: The Zoo's keys that concern the environments and what runs beside the training, not the algorithm.
ENVIRONMENT = (*INNER, "frame_stack", "callback")


@dataclass(frozen=True)
class Agent:
    """
    What is trained, and how.

    :param name: Name in tables and pictures, and of its folder.
    :param algo: Name of the algorithm, see :data:`sb3_barpo.algorithms.ALGORITHMS`.
    :param env: Id of the environment, ``My-v0`` or ``mymod:My-v0``.
    :param seed: Seed of environments and algorithm.
    :param steps: Number of environment steps.
    :param n_envs: Number of environments that step together.
    :param kwargs: Arguments of the algorithm, as data that JSON can hold. Two notations of the RL Zoo are supported:
        ``lin_0.001`` is a learning rate or a clip range that falls to 0, and ``policy_kwargs`` may be a Python
        expression, such as ``dict(activation_fn=nn.ReLU)``, see :mod:`sb3_barpo.expressions`. The Zoo's keys
        ``env_kwargs``, ``env_wrapper``, ``vec_env_wrapper``, ``frame_stack``, ``monitor_kwargs`` and ``callback`` mean
        what they mean there.
    :param normalize: Whether ``VecNormalize`` normalises observations and rewards, or its arguments. Images are never
        normalised.
    :param label: What reports call agents that differ in their seed only, by default the algorithm.
    :param gym_packages: Modules to import, which register environments.
    :raises ValueError: for an unknown algorithm, or without steps.
    """

    name: str
    algo: str
    env: str
    seed: int
    steps: int
    n_envs: int = 1
    kwargs: dict[str, Any] = field(default_factory=dict)
    normalize: bool | str | dict[str, Any] = True
    label: str = field(default="", compare=False)  # says nothing of how the agent is trained
    gym_packages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        find(self.algo)
        if self.steps < 1:
            raise ValueError(f"An agent is trained for at least 1 step, but steps is {self.steps}.")


@dataclass(frozen=True)
class Trained:
    """
    An agent that is trained already, see :func:`sb3_barpo.agents.load.load_agent`.

    :param name: Name in tables and pictures, and of the folder of what is found out about it.
    :param path: Its file or folder.
    :param env: Id of its environment.
    :param label: What reports call agents that differ in their seed only.
    :param algo: Name of its algorithm, ``None`` to infer it from the file.
    :param vec_normalize: File with the statistics of ``VecNormalize``, ``"none"``, or ``None`` to look for it.
    :param which: Of a folder, ``"last"`` or ``"best"``.
    :param gym_packages: Modules to import, which register environments.
    :param digest: SHA-256 of its file, empty if there is none: another file is another agent.
    """

    name: str
    path: str = field(compare=False)  # the digest says which agent it is
    env: str
    label: str = field(compare=False)
    algo: str | None = None
    vec_normalize: str | None = None
    which: str | None = None
    gym_packages: list[str] = field(default_factory=list)
    digest: str = ""


@dataclass(frozen=True)
class Evaluation:
    """
    How agents are attacked; see :func:`sb3_barpo.evaluation.evaluate_robustness`.

    :param epsilon: Strengths of the attacks.
    :param attacks: Their names.
    :param n_eval_episodes: Episodes for each.
    :param seed: Seed of the first episode; by default the first of :data:`sb3_barpo.seeds.REPORT`, and in a study of
        :data:`sb3_barpo.seeds.CALLBACKS`.
    :param n_envs: Number of environments that step together, at most.
    :param budget: How hard to search for attacks that are learned.
    :param sensors: A spec sheet as plain data, within which all agents are attacked; strengths are shares of it.
    :raises ValueError: for a setting out of range or an unknown attack; now, and not when the agents are trained.
    """

    epsilon: list[float]
    attacks: list[str] = field(default_factory=lambda: ["random", "critic", "mad"])
    n_eval_episodes: int = 50
    seed: int | None = None
    n_envs: int = 10
    budget: str = "quick"
    sensors: Any = None

    def __post_init__(self) -> None:
        EvalConfig(self.n_eval_episodes, REPORT.start if self.seed is None else self.seed)
        check_settings(self.attacks, self.epsilon, self.budget)

    def on(self, seeds: range) -> "Evaluation":
        """
        :param seeds: The seeds to take by default, one of the ranges of :mod:`sb3_barpo.seeds`.
        :return: The same evaluation with a seed.
        """
        return self if self.seed is not None else replace(self, seed=seeds.start)


def run(
    agents: Sequence[Agent], evaluation: Evaluation, root: Path, n_jobs: int = 1, progress_bar: bool = False
) -> RobustnessReport:
    """
    Train and attack agents. Finished work in the experiment's folder is reused.

    :param agents: The agents; their names must differ.
    :param evaluation: How they are attacked.
    :param root: The experiment's folder.
    :param n_jobs: Number of processes.
    :param progress_bar: Whether to show a bar for each agent.
    :return: The report on all agents.
    :raises ValueError: if two agents share a name, or a setting is invalid.
    """
    names = [agent.name for agent in agents]
    if len(set(names)) < len(names):
        raise ValueError(f"Each agent needs its own name, but the names are {', '.join(names)}.")
    with bars([(agent.name, agent.steps) for agent in agents], progress_bar) as tell:
        jobs = (delayed(_train_and_attack)(agent, evaluation, root, tell(i)) for i, agent in enumerate(agents))
        return RobustnessReport.merge(Parallel(n_jobs)(jobs))


def make_model(agent: Agent) -> OnPolicyAlgorithm:
    """
    :param agent: What is trained.
    :return: The algorithm with its environments, before training.
    """
    env = make_env(agent, agent.n_envs, agent.seed)
    kwargs = {key: value for key, value in agent.kwargs.items() if key not in ENVIRONMENT}
    kwargs |= {key: _linear(agent.kwargs[key]) for key in _SCHEDULES & agent.kwargs.keys()}
    if kwargs.get("policy_kwargs"):
        kwargs["policy_kwargs"] = read_kwargs(kwargs["policy_kwargs"])
    row = find(agent.algo)
    kind: Callable[..., OnPolicyAlgorithm] = row.load_class()
    policy = kwargs.pop("policy", None) or row.policy(env.observation_space)
    return kind(policy, env, seed=agent.seed, device="cpu", **kwargs)


def make_env(agent: Agent, n_envs: int, seed: int | None = None, training: bool = True) -> VecEnv:
    """
    :param agent: What is trained.
    :param n_envs: Number of environments that step together.
    :param seed: Seed of the first environment.
    :param training: Whether statistics are updated and rewards normalised.
    :return: The agent's environments, as the RL Zoo builds them from the same settings.
    """
    venv = build(agent.env, n_envs, agent.kwargs, seed, agent.gym_packages)
    changes: dict[str, Any] = {key: agent.kwargs[key] for key in ("gamma",) if key in agent.kwargs}
    if not training:
        changes |= {"training": False, "norm_reward": False}
    return around(venv, agent.normalize, agent.kwargs.get("frame_stack"), **changes)


def make_callbacks(agent: Agent) -> list[BaseCallback]:
    """:return: The callbacks that the agent's settings name, as the RL Zoo's do."""
    if not agent.kwargs.get("callback"):
        return []
    from rl_zoo3.utils import get_callback_list

    return list(get_callback_list(dict(agent.kwargs)))


def _linear(value: Any) -> Any:
    """SB3's schedule for RL Zoo's ``lin_<initial value>``, and anything else as it is."""
    if isinstance(value, str) and value.startswith("lin_"):
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    return value


def train(agent: Agent, root: Path, callback: BaseCallback | None = None) -> Path:
    """
    Train an agent, unless its folder holds it already, and store ``agent.zip``, ``vecnormalize.pkl`` if there is
    normalisation, ``progress.csv``, and last ``agent.json``.

    :param agent: What to train.
    :param root: The experiment's folder.
    :param callback: Passed to ``learn``.
    :return: The agent's folder.
    """
    folder = root / agent.name
    record = folder / "agent.json"
    if recorded(Agent, read_record(record)) == agent:
        return folder
    model = make_model(agent)
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(agent.steps, callback=[*([callback] if callback else []), *make_callbacks(agent)])
    model.logger.close()
    model.save(folder / "agent")
    if (statistics := model.get_vec_normalize_env()) is not None:
        statistics.save(str(folder / "vecnormalize.pkl"))
    if model.env is not None:
        model.env.close()
    if own := {key: agent.kwargs[key] for key in ENVIRONMENT if agent.kwargs.get(key)}:
        # As the Zoo records it, and as agents are loaded; JSON is YAML.
        write_record(folder / "config.yml", own)
    write_record(record, asdict(agent))
    return folder


def attack(agent: Agent | Trained, evaluation: Evaluation, root: Path) -> RobustnessReport:
    """
    Attack a trained agent, unless its folder holds the result already, and store ``episodes.csv``, attackers that are
    learned under ``attacks``, and last ``evaluation.json``.

    :param agent: What was trained.
    :param evaluation: How to attack it.
    :param root: The experiment's folder.
    :return: The report on this agent.
    """
    if (found := attacked(agent, evaluation, root)) is not None:
        return found
    evaluation = evaluation.on(REPORT)
    assert evaluation.seed is not None  # for mypy
    folder = root / agent.name
    n_envs = min(evaluation.n_envs, evaluation.n_eval_episodes)
    file, statistics, which = (folder, None, None)
    if isinstance(agent, Trained):
        file, statistics, which = Path(agent.path), agent.vec_normalize, agent.which
    _, model, env = load_agent(file, agent.env, n_envs, agent.algo, statistics, which, agent.gym_packages)
    report = evaluate_robustness(
        model,
        env,
        evaluation.attacks,
        evaluation.epsilon,
        n_eval_episodes=evaluation.n_eval_episodes,
        seed=evaluation.seed,
        name=agent.name,
        algorithm=agent.label or agent.algo,
        budget=evaluation.budget,
        folder=folder / "attacks",
        sensors=evaluation.sensors,
    )
    env.close()
    report.to_csv(folder / "episodes.csv")
    record = {"agent": asdict(agent), "evaluation": asdict(evaluation), "judged": report.judged}
    write_record(folder / "evaluation.json", record)
    return report


def attacked(agent: Agent | Trained, evaluation: Evaluation, root: Path) -> RobustnessReport | None:
    """
    :param agent: What was trained.
    :param evaluation: How it is attacked.
    :param root: The experiment's folder.
    :return: The report that :func:`attack` has stored, ``None`` if there is none on this agent and evaluation.
    """
    folder = root / agent.name
    done = read_record(folder / "evaluation.json") or {"agent": None, "evaluation": None}
    if recorded(type(agent), done["agent"]) != agent:
        return None
    if recorded(Evaluation, done["evaluation"]) != evaluation.on(REPORT):
        return None
    report = RobustnessReport.from_csv(folder / "episodes.csv")
    report.judged |= done.get("judged", {})
    return report


def recorded(kind: type[Any], record: dict[str, Any] | None) -> Any:
    """:return: What a record says, ``None`` if it says nothing that this version understands."""
    try:
        return None if record is None else kind(**record)
    except (TypeError, ValueError):
        return None


class _Tell(BaseCallback):
    """Tells the number of steps done at the end of each rollout."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._tell(self.num_timesteps)


def _train_and_attack(agent: Agent, evaluation: Evaluation, root: Path, tell: Tell) -> RobustnessReport:
    th.set_num_threads(1)  # processes share the cores; more threads slow small networks down
    train(agent, root, _Tell(tell))
    tell(agent.steps)
    return attack(agent, evaluation, root)
