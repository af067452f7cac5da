"""Agents found in files, with the environments that they know."""

import importlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

from sb3_barpo.agents import find, zoo_envs

#: The algorithms whose agents can be loaded, by their names in the RL Zoo: package and class. Those of sb3-contrib are
#: imported only when an agent needs them.
ALGORITHMS: dict[str, tuple[str, str]] = {
    "ppo": ("stable_baselines3", "PPO"),
    "a2c": ("stable_baselines3", "A2C"),
    "trpo": ("sb3_contrib", "TRPO"),
    "arpo": ("sb3_barpo", "ARPO"),
    "barpo": ("sb3_barpo", "BARPO"),
    "ppo_lstm": ("sb3_contrib", "RecurrentPPO"),
    "arpo_lstm": ("sb3_barpo", "RecurrentARPO"),
    "barpo_lstm": ("sb3_barpo", "RecurrentBARPO"),
}


@dataclass(frozen=True)
class LoadedAgent:
    """
    An agent, ready to be evaluated. ``name, model, venv = load_agent(...)`` works too.

    :param name: The file's name, or its folder's where the file's says nothing.
    :param model: The agent, on the CPU.
    :param venv: Its environments, normalised by the agent's statistics, which are frozen.
    :param file: The agent's file.
    :param env_id: Id of its environment.
    :param statistics: File of the statistics, ``None`` if there are none.
    :param note: One line on what was assumed, empty for nothing.
    """

    name: str
    model: OnPolicyAlgorithm
    venv: VecEnv
    file: Path
    env_id: str
    statistics: Path | None = None
    note: str = ""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.name, self.model, self.venv))


def load_agent(
    path: str | Path,
    env_id: str | None = None,
    n_envs: int = 1,
    algo: str | None = None,
    vec_normalize: str | Path | None = None,
    which: str | None = None,
) -> LoadedAgent:
    """
    Load an agent that SB3, RL Zoo or this package has stored. Environments that RL Zoo has wrapped, given arguments or
    stacked are built again as its records say. Models, statistics and these records can run any code: load only files
    that you trust.

    :param path: A ``.zip`` file, its path without the ending, or a folder with ``agent.zip``, ``model.zip``,
        ``<env_id>.zip`` or ``best_model.zip``; the first of them.
    :param env_id: Id of the environment that the agent was trained on, by default the one that RL Zoo's records or
        ``agent.json`` beside it name.
    :param n_envs: Number of environments that step together.
    :param algo: ``"ppo"``, ``"a2c"``, ``"trpo"``, ``"arpo"``, ``"barpo"``, or ``"ppo_lstm"``, ``"arpo_lstm"``,
        ``"barpo_lstm"`` for their recurrent forms; by default what the file's content tells. ARPO's and BARPO's files
        look alike and act alike: both are loaded as BARPO.
    :param vec_normalize: File with the statistics of ``VecNormalize``, ``"none"`` for none. By default those that lie
        beside the agent under a usual name, or in RL Zoo's place. If the agent is known to be trained under
        ``VecNormalize``, they must be found.
    :param which: Of a folder, ``"last"`` (the default) for the agent at the end of training, or ``"best"`` for
        ``best_model.zip``, which SB3's and RL Zoo's callbacks keep by its return *without* an attack.
    :return: The agent with its environments.
    :raises OSError: if there is no agent, or no statistics where they are said to be.
    :raises ValueError: if the environment or the statistics cannot be inferred from what lies beside the agent; for an
        unknown algorithm, or one that is not installed, no environments, a file that holds no agent, or none that fits
        the algorithm, the environment or the statistics, or an environment of RL Zoo that cannot be built again.
    """
    if algo is not None and algo not in ALGORITHMS:
        raise ValueError(f"Unknown algorithm {algo!r}. Choose from {', '.join(ALGORITHMS)}.")
    if n_envs < 1:
        raise ValueError(f"n_envs must be at least 1, but it is {n_envs}. 8 is usual.")
    env_id = find.find_env(Path(path)) if env_id is None else env_id
    file = find.find_file(Path(path), env_id, which)
    kind = _chosen(file, algo)
    zoo = file.parent / find.plain(env_id)
    normalised = find.was_normalised(file, zoo_envs.records([file.parent, zoo]))
    statistics, note = find.find_statistics(file, zoo, vec_normalize, normalised)
    venv, n_frames = _environments(file, [file.parent, zoo], env_id, n_envs)
    try:
        if statistics is not None:
            venv = _normalized(venv, statistics, env_id)
        if n_frames:
            venv = VecFrameStack(venv, n_frames)
        model = _loaded(kind, file, venv, env_id)
        return LoadedAgent(find.name_of(file, env_id), model, venv, file, env_id, statistics, note)
    except BaseException:
        venv.close()
        raise


def _recognized(file: Path) -> str:
    """The algorithm, which SB3's files do not name, by a setting that it alone has; ``""`` where none is known."""
    try:
        with zipfile.ZipFile(file) as archive:
            settings = set(json.loads(archive.read("data")))
            weights = archive.read("policy.pth")
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{str(file)!r} is no model of Stable-Baselines3: {error}. Name a .zip file that model.save has written."
        ) from error
    # As RecurrentPPO calls its network. Its other settings are PPO's.
    memory = "_lstm" if b"lstm_actor" in weights else ""
    if "kappa" in settings:
        return "barpo" + memory
    if "cg_max_steps" in settings:
        return "trpo"
    if "clip_range" in settings:
        return "ppo" + memory
    if "normalize_advantage" in settings and "batch_size" not in settings:
        return "a2c"
    return ""


def _chosen(file: Path, algo: str | None) -> type[OnPolicyAlgorithm]:
    """The class to load a file by."""
    recognized = _recognized(file)
    if algo is None and not recognized:
        raise ValueError(
            f"{str(file)!r} does not look like an agent of {', '.join(ALGORITHMS)}, which are supported. If it is one, "
            "say so by algo."
        )
    if algo is not None and recognized and algo.endswith("_lstm") != recognized.endswith("_lstm"):
        raise ValueError(
            f"{str(file)!r} holds an agent of {recognized}, by the look of its networks, but algo is {algo!r}. Name "
            "its own algorithm, or none."
        )
    return algorithm(algo or recognized)


def algorithm(name: str) -> type[OnPolicyAlgorithm]:
    """
    :param name: One of :data:`ALGORITHMS`.
    :return: Its class.
    :raises ValueError: if its package is not installed.
    """
    package, kind = ALGORITHMS[name]
    try:
        found: type[OnPolicyAlgorithm] = getattr(importlib.import_module(package), kind)
    except ImportError as error:
        raise ValueError(f"An agent of {kind} needs sb3_contrib: pip install sb3-contrib") from error
    return found


def _environments(file: Path, folders: list[Path], env_id: str, n_envs: int) -> tuple[VecEnv, int]:
    """The environments, as RL Zoo has built them if it has, and how many frames are to be stacked around them."""
    files = zoo_envs.records(folders)
    if files:
        zoo_envs.register(env_id)
    if not (changes := zoo_envs.changes(files)):
        return make_vec_env(env_id, n_envs), 0
    try:
        return zoo_envs.rebuild(files, env_id, n_envs)
    except Exception as error:  # wrappers run their own code
        raise ValueError(
            f"{str(file)!r} was trained with {', '.join(changes)}, says {str(files[0])!r}, and such an environment "
            f'could not be rebuilt: {error}. Install what it needs, RL Zoo at first: pip install "sb3-barpo[zoo]"; or '
            "build it in Python and call evaluate_robustness(model, env)."
        ) from error


def _normalized(venv: VecEnv, statistics: Path, env_id: str) -> VecNormalize:
    try:
        layer = VecNormalize.load(str(statistics), venv)
        layer.training = layer.norm_reward = False
    except Exception as error:  # unpickling runs the file's own code
        raise ValueError(
            f"The statistics {str(statistics)!r} do not fit {env_id}: {error}. Name the environment that the agent was "
            "trained on, and by vec_normalize its own statistics, or 'none'."
        ) from error
    return layer


def _loaded(kind: type[OnPolicyAlgorithm], file: Path, venv: VecEnv, env_id: str) -> OnPolicyAlgorithm:
    try:
        return kind.load(file, env=venv, device="cpu")
    except Exception as error:  # unpickling runs the file's own code
        raise ValueError(
            f"Cannot load {str(file)!r} as {kind.__name__} for {env_id}: {error}. Name the environment that the agent "
            "was trained on, and its algorithm by algo if it was not recognised."
        ) from error
