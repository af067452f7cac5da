"""Trained agents as they lie in folders: which algorithm, which statistics, which environment."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_barpo.arpo import ARPO
from sb3_barpo.barpo import BARPO

#: Files of agents that are called after their folder.
_PLAIN = ["agent", "best_model", "model"]
#: What the RL Zoo's configuration may put around an environment and is not rebuilt here.
_WRAPPERS = re.compile(r"^[\s-]*(env_wrapper|vec_env_wrapper|frame_stack)\W+(?!null|None)(\w\S*)", re.MULTILINE)


def _trpo() -> type[OnPolicyAlgorithm]:
    try:
        from sb3_contrib import TRPO
    except ImportError as error:
        raise ValueError("The agent was trained by TRPO, which needs sb3_contrib: pip install sb3_contrib") from error
    return TRPO


#: The algorithms whose agents can be loaded.
ALGORITHMS: dict[str, Callable[[], type[OnPolicyAlgorithm]]] = {
    "ppo": lambda: PPO,
    "a2c": lambda: A2C,
    "trpo": _trpo,
    "arpo": lambda: ARPO,
    "barpo": lambda: BARPO,
}


class LoadedAgent(NamedTuple):
    """
    An agent and where it acts.

    :param name: What it is called in tables.
    :param model: The agent.
    :param venv: Its environments, with its statistics of ``VecNormalize``, frozen.
    """

    name: str
    model: OnPolicyAlgorithm
    venv: VecEnv


def load_agent(
    path: str | Path, env_id: str, n_envs: int = 1, algo: str | None = None, vec_normalize: str | Path | None = None
) -> LoadedAgent:
    """
    Load an agent of SB3's PPO or A2C, sb3-contrib's TRPO, or of this package, with its environment. Such files are
    pickled: load only what you trust.

    :param path: Its file, or a folder that holds ``agent.zip``, ``best_model.zip`` or ``model.zip``.
    :param env_id: Id of its environment.
    :param n_envs: Number of environments.
    :param algo: Its algorithm, where the file does not tell.
    :param vec_normalize: File of the statistics of ``VecNormalize``, ``"none"`` for none. By default they are looked
        for beside the agent, and where the RL Zoo stores them.
    :return: The agent.
    :raises ValueError: if the file holds no agent that can be attacked, or one that does not fit the environment.
    :raises TypeError: if the policy is recurrent.
    :raises OSError: if a file cannot be read.
    """
    file = _file(Path(path))
    algorithm = _algorithm(file, algo)
    statistics = _statistics(file, env_id) if vec_normalize is None else Path(vec_normalize)
    venv: VecEnv = make_vec_env(env_id, n_envs=n_envs)
    if statistics is not None and str(statistics) != "none":
        try:
            venv = VecNormalize.load(str(statistics), venv)
        except (AssertionError, ValueError) as error:
            raise ValueError(f"The statistics in {str(statistics)!r} do not fit {env_id}: {error}") from error
        venv.training = venv.norm_reward = False
    try:
        model = algorithm.load(file, env=venv, device="cpu")
    except ValueError as error:
        raise ValueError(f"The agent {str(file)!r} does not fit {env_id}: {error}") from error
    name = file.parent.resolve().name if file.stem in (*_PLAIN, env_id) else file.stem
    return LoadedAgent(name, model, venv)


def _file(path: Path) -> Path:
    if path.is_dir():
        found = [path / f"{stem}.zip" for stem in _PLAIN if (path / f"{stem}.zip").is_file()]
        if not found:
            raise FileNotFoundError(
                f"The folder {str(path)!r} holds none of {', '.join(f'{stem}.zip' for stem in _PLAIN)}. Name the "
                "agent's file."
            )
        return found[0]
    for candidate in (path, path.with_name(f"{path.name}.zip")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"There is no agent at {str(path)!r}.")


def _algorithm(file: Path, algo: str | None) -> type[OnPolicyAlgorithm]:
    try:
        data, _, _ = load_from_zip_file(file, device="cpu")
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is no model of SB3: {error}") from error
    if not data or "policy_class" not in data:
        raise ValueError(f"{str(file)!r} is no model of SB3: it holds no settings. Give what an agent's save() wrote.")
    if "Recurrent" in data["policy_class"].__name__:
        raise TypeError(f"The agent {str(file)!r} has a recurrent policy, which cannot be attacked yet.")
    if algo is not None and algo not in ALGORITHMS:
        raise ValueError(f"Unknown algorithm {algo!r}. Choose from {', '.join(ALGORITHMS)}.")
    return ALGORITHMS[algo or _guess(data, file)]()


def _guess(data: dict[str, Any], file: Path) -> str:
    """SB3's files do not name their algorithm, but their settings do."""
    if "kappa" in data:
        return "barpo"  # or ARPO, which acts in the same way
    for setting, algo in (("cg_max_steps", "trpo"), ("clip_range", "ppo"), ("gae_lambda", "a2c")):
        if setting in data:
            return algo
    raise ValueError(
        f"{str(file)!r} is of no on-policy algorithm that is known here ({', '.join(ALGORITHMS)}). If it is, name it "
        "by algo."
    )


def _statistics(file: Path, env_id: str) -> Path | None:
    folder = file.parent
    zoo = folder / env_id
    config = zoo / "config.yml"
    if config.is_file() and (wrapper := _WRAPPERS.search(config.read_text(encoding="utf-8"))):
        raise ValueError(
            f"The RL Zoo trained {str(file)!r} with {wrapper[1]} ({wrapper[2]}), which is not rebuilt here. Wrap the "
            "environment likewise and call sb3_barpo.evaluation.evaluate_robustness."
        )
    names = ["vecnormalize.pkl", "vec_normalize.pkl", f"{file.stem}-vecnormalize.pkl", f"{file.stem}_vecnormalize.pkl"]
    candidates = [*(folder / name for name in names), zoo / "vecnormalize.pkl"]
    return next((candidate for candidate in candidates if candidate.is_file()), None)
