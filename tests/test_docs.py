"""
Every Python block of the README and of the documentation runs: those of a page one after the other, offline, in a
folder of their own. Only figures that say how long something takes are made small.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import pytest
from pages import blocks, smaller
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

pytest.importorskip("mujoco")
pytest.importorskip("matplotlib")
pytest.importorskip("rl_zoo3")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: What a page's reader has at hand.
AT_HAND = """
import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from sb3_barpo import BARPO
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.evaluation.auto import AutoBudget
from sb3_barpo.evaluation.budgets import Budget, Member

small = AutoBudget(64, 1, 1)
env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=2, seed=0))
eval_env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=2, seed=1), training=False, norm_reward=False)
env.reset()
eval_env.obs_rms = env.obs_rms
model = BARPO("MlpPolicy", env, seed=0, device="cpu")
"""
LEARNED = """
quick = {"batch_size": 16, "n_epochs": 1}
tiny = {name: [Member(name, 16, {**quick, "n_steps": 16})] for name in ("sarl", "paad")}
tiny = Budget({**tiny, "robust_sarsa": [Member("robust_sarsa", 64, quick)]}, n_episodes=2)
"""
#: What else it is told of, by page, before the block that contains the text.
BEFORE: dict[str, dict[str, str]] = {
    "attacks.md": {
        "attack = MAD(model, epsilon=0.075, seed=0)\n": """
vec_env = make_vec_env("InvertedPendulum-v5", n_envs=2, seed=0)
model = PPO("MlpPolicy", vec_env, seed=0, device="cpu")
observations = vec_env.reset()
""",
        'attacks="all"': LEARNED,
        "Memory(": """
import numpy as np
from sb3_contrib import RecurrentPPO
feed_forward, model = model, RecurrentPPO("MlpLstmPolicy", vec_env, seed=0, device="cpu")
episode_starts = np.ones(2, dtype=bool)
""",
        "AttackObservation(env, attack)": """
env, model = gym.make("InvertedPendulum-v5"), feed_forward
attack = MAD(model, epsilon=0.075)
""",
        "L2Ball": "scale = [1, 2, 3, 4]",
        "obs_rms": "r, vec_normalize = 0.1, VecNormalize(vec_env)",
    },
    "guide.md": {"for name, model, env in agents": "agents = [('BARPO', model, eval_env)]"},
    "sensors.md": {"sheet = Sensors(": 'env = VecNormalize(make_vec_env("Hopper-v5", n_envs=2, seed=0))\nenv.reset()'},
    "spaces.md": {"camera": "from sights import make_sights\nenv = make_sights('dict')"},
}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is said, episodes are of 5 steps, and PPO's rollouts of 16."""
    for env_id in ("Hopper-v5", "InvertedPendulum-v5"):
        monkeypatch.setattr(gym.spec(env_id), "max_episode_steps", 5)
    for algorithm in (PPO, RecurrentPPO):
        init: Any = algorithm.__init__
        names = init.__code__.co_varnames[: init.__code__.co_argcount][-len(init.__defaults__) :]
        short = {"n_steps": 16, "batch_size": 16, "n_epochs": 1}
        defaults = [short.get(name, old) for name, old in zip(names, init.__defaults__, strict=True)]
        monkeypatch.setattr(init, "__defaults__", tuple(defaults))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_python_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    served: list[Any] = []
    monkeypatch.setattr(optuna.storages, "run_grpc_proxy_server", lambda storage, **_: served.append(storage))
    monkeypatch.chdir(tmp_path)
    module = ModuleType(f"page_{page.stem}")  # importable, so that its classes can be pickled
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names: dict[str, Any] = vars(module)
    exec(AT_HAND, names)
    before = dict(BEFORE.get(page.name, {}))
    for line, code in blocks(page):
        for text in [text for text in before if text in code]:
            exec(before.pop(text), names)
        exec(compile("\n" * (line - 1) + smaller(code), str(page), "exec"), names)
    for test in [value for name, value in names.items() if name.startswith("test_")]:
        test()
    assert not before, "What is told before a block no longer fits one."
    assert bool(served) == ("run_grpc_proxy_server" in page.read_text(encoding="utf-8"))


def test_blocks_are_found_and_made_small(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Text\n```python\nlearn(1_000_000)\n```\n- item\n  ```python\n  if x:\n      n_jobs=4\n  ```\n")
    assert [(line, smaller(code)) for line, code in blocks(page)] == [(3, "learn(64)\n"), (7, "if x:\n    n_jobs=1\n")]
    assert len([page for page in PAGES if blocks(page)]) >= 9
