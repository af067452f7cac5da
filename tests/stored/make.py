"""
Files as the version stores them whose checkout is first on the path. The files beside this one were written so by
version 0.1.0 as of commit cfdba91, in its checkout: ``PYTHONPATH=. python .../make.py FOLDER``.
"""

import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import ARPO, BARPO, RecurrentBARPO
from sb3_barpo.adversary import KL, PGD, Adversary, L2Ball, LinfBall
from sb3_barpo.attacks import SARL, RobustSarsa
from sb3_barpo.evaluation import evaluate_robustness
from sb3_barpo.schedules import Constant, Cosine, Cyclic, Join, Linear, Ramp, Smooth, Step

SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "device": "cpu", "seed": 3}
SCHEDULES = [
    Constant(0.1), Ramp(0.2), Linear(0.1, 0.3), Cosine(0.0, 0.2), Smooth(0.1), Step((0.1, 0.2), (0.5,)),
    Cyclic(0.0, 0.2), Join((Ramp(0.1), Constant(0.2)), (0.4,)),
]  # fmt: skip


def main(folder: Path) -> None:
    """Write all files, and what they must do in ``acts.npz``."""
    acts: dict[str, np.ndarray] = {}
    net = {"net_arch": [8]}

    def keep(name: str, model: Any) -> None:
        model.save(folder / name)
        draw = np.random.default_rng(1).normal(size=(8, *model.observation_space.shape)).astype(np.float32)
        acts[f"{name}-seen"], acts[f"{name}-done"] = draw, model.predict(draw, deterministic=True)[0]

    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0, env_kwargs={"max_episode_steps": 20}))
    barpo = BARPO("MlpPolicy", env, epsilon=Ramp(0.1), policy_kwargs=net, **SMALL)
    with th.no_grad():
        barpo.policy.action_net.weight.mul_(100)
    barpo.learn(128)
    keep("barpo", barpo)
    env.save(str(folder / "barpo-vecnormalize.pkl"))
    spec = {"kind": "linear", "initial": 0.0, "final": 0.1}
    keep("arpo", ARPO("MlpPolicy", "CartPole-v1", epsilon=spec, kappa="ramp_2", adversary={"n_steps": 3},
                      policy_kwargs=net, **SMALL).learn(64))  # fmt: skip
    own = Adversary(KL(), PGD(n_steps=3, restarts=2), L2Ball([1, 0, 2]))
    keep("custom", BARPO("MlpPolicy", "Pendulum-v1", epsilon=0.1, adversary=own, policy_kwargs=net, **SMALL))
    keep("memory", RecurrentBARPO("MlpLstmPolicy", "Pendulum-v1", epsilon=0.1,
                                  policy_kwargs={**net, "lstm_hidden_size": 4}, **SMALL).learn(32))  # fmt: skip

    learned = (
        SARL(barpo, 0.3, n_steps=16, batch_size=16, n_epochs=1, seed=0, policy_kwargs=net),
        RobustSarsa(barpo, 0.3, ball=LinfBall([1, 1, 0.5]), n_epochs=1, batch_size=16, seed=0),
    )
    for attack in learned:
        attack.fit(env, 64)
        attack.save(folder / f"{attack.name}.zip")
        attack.seed(5)
        acts[f"{attack.name}-shown"] = attack.perturb(acts["barpo-seen"])
    env.training = False
    report = evaluate_robustness(barpo, env, attacks=["mad", *learned], epsilon=0.3, n_eval_episodes=2)
    report.to_json(folder / "report.json")
    report.to_csv(folder / "report.csv")
    (folder / "schedules.pkl").write_bytes(pickle.dumps(SCHEDULES, protocol=4))
    np.savez_compressed(folder / "acts.npz", **acts)


if __name__ == "__main__":
    th.set_num_threads(1)
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]))
