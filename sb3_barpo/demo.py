"""A small comparison: PPO, ARPO and BARPO trained on one task, attacked, with a report and pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sb3_barpo.environments import find_env
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.experiment import Agent, Evaluation, run
from sb3_barpo.resume import check_writable

ENV = "Pendulum-v1"
STEPS = 200_000
#: At this strength attackers that learn cost PPO several times its natural cost.
EPSILON = 0.1
#: PPO's settings, the same for all three. Fewer, larger minibatches and larger steps than by default: a demo is quick.
SETTINGS: dict[str, Any] = {"n_steps": 256, "batch_size": 256, "learning_rate": "lin_0.001"}
#: Of the demo's own task, from the RL Zoo's entry.
OWN: dict[str, dict[str, Any]] = {ENV: {"gamma": 0.9, "use_sde": True, "sde_sample_freq": 4}}
N_ENVS = 8


def demo(
    env: str = ENV,
    steps: int = STEPS,
    epsilon: float = EPSILON,
    seed: int = 0,
    output: str | Path = "demo",
    n_jobs: int = 2,
    n_eval_episodes: int = 20,
    attacks: Sequence[str] = ("all",),
    progress_bar: bool = True,
) -> RobustnessReport:
    """
    Train PPO, ARPO and BARPO, attack all three, and write ``report.md``, ``report.csv``, ``report.json``,
    ``returns.png`` and ``epsilon.png``.

    :param env: Id of the environment.
    :param steps: Steps of training for each agent.
    :param epsilon: Strength of the strongest attacks. In training the adversary rises to it as in the paper.
    :param seed: Seed of everything.
    :param output: Folder to write to. Agents that are already there are reused.
    :param n_jobs: Number of processes.
    :param n_eval_episodes: Episodes for each attack and each of its two strengths, half of ε and ε.
    :param attacks: Names of attacks. Those that are learned are searched for by the budget ``quick``.
    :param progress_bar: Whether to show the progress.
    :return: The report.
    :raises ValueError: if a setting is out of range.
    :raises OSError: if the folder cannot be written.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0 in the demo, but it is {epsilon}. Try {EPSILON}.")
    output = Path(output)
    check_writable(output)
    find_env(env)
    # Longest first, so that two processes end together.
    adversary = {"epsilon": f"paper_{epsilon:g}"}
    settings = SETTINGS | OWN.get(env, {})
    agents = [
        Agent(algo.upper(), algo, env, seed, steps, N_ENVS, settings | own)
        for algo, own in (("barpo", adversary), ("arpo", adversary), ("ppo", {}))
    ]
    evaluation = Evaluation([epsilon / 2, epsilon], list(attacks), n_eval_episodes)
    reports = run(agents, evaluation, output / "agents", n_jobs, progress_bar)
    report = RobustnessReport(reports.to_frame().set_index("agent").loc[["PPO", "ARPO", "BARPO"]].reset_index())
    report.to_csv(output / "report.csv")
    report.to_json(output / "report.json")
    report.plot(output / "returns.png")
    report.plot_epsilon(output / "epsilon.png")
    (output / "report.md").write_text(_markdown(report, env, steps, seed), encoding="utf-8")
    return report


def _markdown(report: RobustnessReport, env: str, steps: int, seed: int) -> str:
    return f"""# PPO, ARPO and BARPO under attack

{env}, {steps} steps of training, seed {seed}; adversary of ARPO and BARPO: ε rises to {report.epsilons[-1]:g} in
the first three quarters of training. One seed of training shows what happens, not how often.

{report.verdict()}

![Returns by attack](returns.png)

![Return against ε](epsilon.png)

{report.to_markdown()}"""
