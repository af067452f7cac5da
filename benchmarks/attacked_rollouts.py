"""
Does it pay to live a share of the episodes under one's own adversary, beside the robust loss?

    python benchmarks/attacked_rollouts.py

BARPO's outer objective is the value of the attacked policy, and clean rollouts give its gradient to first order only.
Here a share of the environments shows the agent what its own adversary makes of the observations, at the strength that
training is at; the critic judges what was seen, and ``VecNormalize`` counts the true observations. Of these rows the
loss takes either what was seen (perturbed once), or what the adversary makes of that (perturbed twice). Six attacks by
``quick``. Finished agents, one row each in ``rows.csv``, are not trained again. This is a trial, no part of the
package: it is what decides whether a part is built.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_barpo import BARPO
from sb3_barpo.adversary import Adversary, Perturbation
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.seeds import REPORT
from sb3_barpo.vec_envs import Wrapper

HERE = Path(__file__).parent / "attacked_rollouts"
#: By environment: the strength to be withstood, and steps of training.
TASKS = {"InvertedDoublePendulum-v5": (0.035, 200_000), "Hopper-v5": (0.075, 1_000_000)}
#: The share of the environments that is attacked, and whether the loss leaves alone what was perturbed in the rollout.
VARIANTS = {"clean": (0.0, True), "half, once": (0.5, True), "half, twice": (0.5, False)}
N_ENVS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--episodes", type=int, default=20, help="of each attack")
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--report-only", action="store_true", help="train and attack nothing")
    args = parser.parse_args()
    file = args.output / "rows.csv"
    args.output.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds if not args.report_only else []:
        for env in args.tasks:
            for variant in VARIANTS:
                rows = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=["env", "variant", "seed"])
                key = {"env": env, "variant": variant, "seed": seed}
                if not (rows[list(key)] == pd.Series(key)).all(axis=1).any():
                    found = pd.DataFrame([key | trained_and_attacked(env, *VARIANTS[variant], seed, args.episodes)])
                    pd.concat([rows, found]).to_csv(file, index=False)
    table(pd.read_csv(file)).to_markdown(args.output / "table.md", index=False, floatfmt=".0f")
    print((args.output / "table.md").read_text(encoding="utf-8"))


def trained_and_attacked(env: str, share: float, once: bool, seed: int, episodes: int) -> dict[str, float]:
    """:return: Mean returns of an agent, natural and under each attack."""
    epsilon, steps = TASKS[env]
    venv = Shown(VecNormalize(make_vec_env(env, N_ENVS, seed=seed)), int(share * N_ENVS))
    model = BARPO(
        "MlpPolicy",
        venv,
        n_steps=256,
        batch_size=256,
        learning_rate=LinearSchedule(1e-3, 0.0, 1.0),
        max_grad_norm=10.0,
        policy_kwargs={"log_std_init": -1.0},
        epsilon=f"ramp_{epsilon}",
        adversary=Once(venv.moved) if once and share else None,
        seed=seed,
        device="cpu",
    )
    venv.model = model
    model.learn(steps)
    normalized = model.get_vec_normalize_env()
    assert normalized is not None  # for mypy
    test = VecNormalize(make_vec_env(env, 10, seed=seed), training=False, norm_reward=False)
    test.obs_rms = normalized.obs_rms
    report = evaluate_robustness(model, test, "all", epsilon, episodes, REPORT.start, budget="quick")
    summary = report.summary().iloc[0]
    return {name: float(summary[name]) for name in ("natural", *report.attacks, "worst_case")}


class Shown(Wrapper):
    """
    The first environments as the agent's adversary shows them.

    :param venv: The environments, normalised.
    :param n_attacked: How many of them.
    """

    def __init__(self, venv: VecNormalize, n_attacked: int) -> None:
        super().__init__(venv)
        self.n_attacked = n_attacked
        self.model: Any = None
        self.adversary = BARPO.defence.adversary()
        self.adversary.seed(0)
        #: What was shown, as bytes, since the last update.
        self.moved: set[bytes] = set()
        self._updates = 0

    def reset(self) -> Any:
        return self._shown(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        return self._shown(observations), rewards, dones, infos

    def _shown(self, observations: Any) -> Any:
        if self.model._n_updates != self._updates:
            self.moved.clear()
            self._updates = self.model._n_updates
        epsilon, k = self.model.training_epsilon(), self.n_attacked
        if epsilon > 0 and k:
            clean = th.as_tensor(observations[:k])
            observations = np.array(observations)
            observations[:k] = self.adversary.perturb(self.model.policy, clean, epsilon).numpy()
            self.moved.update(row.tobytes() for row in observations[:k])
        return observations


class Once(Adversary):
    """BARPO's adversary, which leaves alone what was perturbed before."""

    def __init__(self, moved: set[bytes]) -> None:
        usual = BARPO.defence.adversary()
        super().__init__(usual.objective, usual.solver, usual.ball)
        self.moved = moved

    def search(self, policy: Any, observations: Any, *args: Any, **kwargs: Any) -> Perturbation:
        found = super().search(policy, observations, *args, **kwargs)
        rows = observations.numpy().astype(np.float32)  # as they were shown; a buffer may keep more digits
        free = th.tensor([row.tobytes() not in self.moved for row in rows]).unsqueeze(1)
        return Perturbation(th.where(free, found.observations, observations), found.delta * free)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds, and each seed's worst case."""
    found = []
    for (env, variant), group in rows.groupby(["env", "variant"], sort=False):
        worst = group.sort_values("seed")["worst_case"]
        means = group[["natural", "mad", "robust_sarsa", "sarl", "paad", "worst_case"]].mean()
        found.append({"env": env, "variant": variant, **means, "seeds": " ".join(f"{value:.0f}" for value in worst)})
    return pd.DataFrame(found).rename(columns={"worst_case": "worst case", "seeds": "worst case of each seed"})


if __name__ == "__main__":
    main()
