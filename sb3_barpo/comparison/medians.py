"""The median agent of each algorithm and task of a comparison, packed with all that belongs to it."""

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sb3_barpo.agents.find import find_file, find_statistics, plain
from sb3_barpo.agents.pretrained import STATISTICS, write_sums
from sb3_barpo.comparison.card import model_card
from sb3_barpo.comparison.settings import Comparison, from_file
from sb3_barpo.comparison.shelf import Shelf
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.search import members_tried
from sb3_barpo.experiment import ENVIRONMENT, Agent, Trained
from sb3_barpo.resume import write_record

#: Which attackers can be packed beside an agent.
ATTACKERS = ["strongest", "all", "none"]
#: The licence of this project, where its repository is at hand.
LICENCE = Path(__file__).parents[2] / "LICENSE"


def pack_medians(
    comparison: str | Path,
    output: str | Path,
    algorithms: Sequence[str] | Mapping[str, str] | None = None,
    licence: str | Path = LICENCE,
    licence_name: str = "mit",
    command: str = "",
    attackers: str = "strongest",
) -> list[Path]:
    """
    Pack the median agent of each algorithm and task, by its worst case, into a folder that
    :func:`sb3_barpo.agents.pretrained.load_pretrained` reads: the agent, its statistics, its strongest learned
    attackers, settings, figures, a model card, the licence and a list of SHA-256. Of an even number of agents, the
    lower of the middle two is the median.

    :param comparison: The folder that :func:`sb3_barpo.comparison.compare` wrote.
    :param output: Folder to write to: one folder for each agent, which is replaced if it is there.
    :param algorithms: Which algorithms, by their labels; as a mapping from labels to the agents' names, by default the
        names of their files. By default all.
    :param licence: File of the agents' licence.
    :param licence_name: What the Hugging Face Hub calls it.
    :param command: The command line that trained them, to be written down; by default the comparison's settings are.
    :param attackers: ``"strongest"`` for that of the learned attack that leaves the lowest return in the report,
        ``"all"`` for the strongest of each learned attack, ``"none"``.
    :return: The folders.
    :raises OSError: if there is no comparison, licence or agent.
    :raises ValueError: for an algorithm that the comparison has not, or other ``attackers``.
    """
    if attackers not in ATTACKERS:
        raise ValueError(f"attackers is one of {', '.join(ATTACKERS)}, but it is {attackers!r}.")
    comparison, output, licence = Path(comparison), Path(output), Path(licence)
    if not licence.is_file():
        raise FileNotFoundError(f"There is no licence {str(licence)!r}. Name the file of the agents' licence.")
    settings = from_file(comparison / "settings.json")
    tasks = Comparison(**settings).tasks()
    labels = list(dict.fromkeys(label for task in tasks for label in task.labels))
    chosen = list(labels if algorithms is None else algorithms)
    if unknown := [label for label in chosen if label not in labels]:
        raise ValueError(f"The comparison has no {', '.join(unknown)}. It has {', '.join(labels)}.")
    names = algorithms if isinstance(algorithms, Mapping) else {}
    terms = _Terms(licence, licence_name, command, _yaml(settings), attackers)
    folders = []
    for task in tasks:
        shelf = Shelf(task, comparison / task.folder, any_settings=True)
        report = shelf.report()
        for label in chosen if report is not None else []:
            assert report is not None  # for mypy
            agents = [agent for agent in task.agents if agent.label == label and agent.name in report.agents]
            if not agents:
                continue
            worst = report.summary().loc[[agent.name for agent in agents], "worst_case"].sort_values(kind="stable")
            median = worst.index[(len(worst) - 1) // 2]
            agent = next(agent for agent in agents if agent.name == median)
            name = names.get(label) or agent.name.rpartition("-seed")[0] or agent.name
            packed = _Packed(agent, name, report, shelf.root / agent.name, len(agents))
            folders.append(packed.write(output, terms))
    return folders


class _Terms(NamedTuple):
    """What all agents are packed with."""

    licence: Path
    licence_name: str
    command: str
    comparison: str
    attackers: str


class _Packed:
    """One agent on its way into a folder."""

    def __init__(self, agent: Agent | Trained, name: str, report: RobustnessReport, folder: Path, n_seeds: int) -> None:
        self.agent = agent
        self.stem = f"{name}-{plain(agent.env)}"
        self.name = name
        self.folder = folder
        self.n_seeds = n_seeds
        rows = report.to_frame()
        self.report = RobustnessReport(
            rows[rows["agent"] == agent.name], {"agents": {agent.name: report.judged["agents"].get(agent.name, {})}}
        )

    def write(self, output: Path, terms: _Terms) -> Path:
        place = output / self.stem
        source = Path(self.agent.path) if isinstance(self.agent, Trained) else self.folder
        file = find_file(source, self.agent.env)
        statistics, _ = find_statistics(file, file.parent / plain(self.agent.env), None, None)
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True)
        shutil.copy(file, place / f"{self.stem}.zip")
        if statistics is not None:
            shutil.copy(statistics, place / STATISTICS)
        learned = self._attackers(place, terms.attackers)
        config, args = self._settings()
        for name, content in (("config.yml", config), ("args.yml", args), ("env_kwargs.yml", args["env_kwargs"])):
            _write_yaml(place / name, content)
        with zipfile.ZipFile(place / "train_eval_metrics.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("episodes.csv", self.report.to_frame().to_csv(index=False))
        write_record(place / "results.json", self._figures())
        shutil.copy(terms.licence, place / "LICENSE")
        trained = _yaml(config) if config else ""
        card = model_card(
            self.agent,
            self.name,
            self.report,
            self.n_seeds,
            learned,
            trained,
            terms.licence_name,
            terms.command,
            terms.comparison,
        )
        (place / "README.md").write_text(card, encoding="utf-8")
        write_sums(place)
        return place

    def _attackers(self, place: Path, which: str) -> list[str]:
        """Copy the strongest attackers. :return: The names of their attacks, the strongest first."""
        stored = self.folder / "attacks"
        tried = members_tried(stored) if stored.is_dir() and which != "none" else pd.DataFrame()
        if tried.empty:
            return []
        learned = tried["file"].map(lambda file: (stored / str(file)).is_file())
        tried = tried[learned & (tried["epsilon"] == self.report.epsilons[-1])]
        strongest = tried.loc[tried.groupby("attack")["mean_return"].idxmin()]
        left = self.report.summary().iloc[0]
        names = sorted(set(strongest["attack"]) & set(self.report.attacks), key=lambda name: float(left[name]))
        strongest = strongest.set_index("attack").loc[names[: 1 if which == "strongest" else None]]
        (place / "attacks").mkdir()
        for attack, file in strongest["file"].items():
            shutil.copy(stored / str(file), place / "attacks" / f"{attack}.zip")
        return [str(attack) for attack in strongest.index]

    def _settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the RL Zoo's ``config.yml`` and ``args.yml`` say."""
        agent = self.agent
        config: dict[str, Any] = {}
        args: dict[str, Any] = {"env": agent.env, "env_kwargs": {}, "gym_packages": agent.gym_packages}
        args["algo"] = agent.algo
        if isinstance(agent, Agent):
            inner = {key: value for key, value in agent.kwargs.items() if key in ENVIRONMENT}
            args |= {"seed": agent.seed, "n_timesteps": agent.steps, "env_kwargs": inner.get("env_kwargs") or {}}
            config = {**agent.kwargs, "n_envs": agent.n_envs, "n_timesteps": agent.steps, "normalize": agent.normalize}
        return config, args

    def _figures(self) -> dict[str, Any]:
        summary = self.report.summary().iloc[0].to_dict()
        return {
            "env": self.agent.env,
            "epsilon": self.report.epsilons[-1],
            "unit_of_epsilon": self.report.units[0],
            "n_eval_episodes": len(self.report.seeds),
            "first_seed": self.report.seeds[0],
            "returns": summary,
            "median_of": self.n_seeds,
        }


def _write_yaml(path: Path, content: Any) -> None:
    path.write_text(_yaml(content), encoding="utf-8")


def _yaml(content: Any) -> str:
    import yaml  # the packaged settings have been read with it

    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
