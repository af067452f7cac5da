"""
Tune the adversary's strength inside an Optuna study of one's own, together with PPO's learning rate.

`python -m sb3_barpo tune` runs whole studies; this is for those who have an objective already. A trial is an agent of
its own, so let it run for long. Needs the extras ``mujoco`` and ``tune``.
"""

import argparse

import optuna
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_barpo import BARPO
from sb3_barpo.tuning import Blend, RobustTrialCallback, StrengthSpace, strength_params, suggest_strength

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--timesteps", type=int, default=40_000, help="environment steps of training, per trial")
parser.add_argument("--episodes", type=int, default=5, help="episodes per attack")
parser.add_argument("--trials", type=int, default=4, help="trials of the study")
args = parser.parse_args()

EPSILON = 0.3  # the strength against which the agent shall be robust

# What is searched: how late and how fast epsilon rises to EPSILON, the margin (training at half to four times EPSILON),
# and a constant kappa.
space = StrengthSpace.around(EPSILON)


def objective(trial: optuna.Trial) -> tuple[float, ...]:
    # One line for the adversary, beside whatever else is tuned. The spec is plain data: keep it, print it, store it.
    strength = suggest_strength(trial, space)
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True)
    env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=8, seed=trial.number))
    model = BARPO("MlpPolicy", env, n_steps=128, learning_rate=rate, seed=trial.number, device="cpu", **strength)

    # Another line for what is reported. Before the ramps have ended the trials cannot be compared: hence the warm-up.
    eval_env = VecNormalize(make_vec_env("InvertedPendulum-v5", n_envs=5), training=False, norm_reward=False)
    callback = RobustTrialCallback(
        eval_env,
        trial,
        criterion=Blend(0.5),  # half the natural return, half the worst case
        warmup=int(space.latest * args.timesteps),
        epsilon=EPSILON,
        n_eval_episodes=args.episodes,
        eval_freq=max(args.timesteps // 8 // env.num_envs, 1),  # in steps of each environment
    )
    model.learn(args.timesteps, callback=callback)
    return callback.result()  # evaluates the trained policy, or says that the trial was pruned


optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_warmup_steps=int(space.latest * args.timesteps)),
)
# The paper's setting goes first, so that whatever wins has been compared with it.
study.enqueue_trial({**strength_params({"epsilon": f"ramp_{EPSILON}", "kappa": 1.0}, space), "learning_rate": 3e-4})
study.optimize(objective, n_trials=args.trials)

for trial in study.trials:
    figures = trial.user_attrs
    print(f"trial {trial.number}: natural {figures['natural']:.1f}, worst case {figures['worst_case']:.1f}")

# A stored trial gives its strength again. One seed has judged it: train it on a few more before you believe it.
print(f"best, trial {study.best_trial.number}: {suggest_strength(study.best_trial, space)}")
