"""Every example runs, in a process of its own as a reader runs it, and prints what it promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mujoco")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
NUMBER = r"[−+-]?[\d.]+"
#: For each example: what it prints, as regular expressions in this order, and the files that it leaves.
EXAMPLES: dict[str, tuple[list[str], list[str]]] = {
    "train_barpo.py": (
        [r"\| BARPO +\| +0\.3 \|", rf"natural {NUMBER}, worst case {NUMBER}, robustness {NUMBER}"],
        ["barpo.zip", "barpo-vecnormalize.pkl"],
    ),
    "attack_an_agent.py": (
        # The same episode through all three wrappers: the number repeats itself.
        [r"clean +[\d.]+\nrandom +[\d.]+\ncritic +[\d.]+\nmad +[\d.]+\n", r"three wrappers: ([\d.]+) \1 \1\n"],
        ["vecnormalize.pkl"],
    ),
    "compare_ppo_arpo_barpo.py": (
        [r"\| agent .*worst case.*\n", r"\| PPO ", r"\| ARPO ", r"\| ARPO, guided ", r"\| BARPO "],
        ["comparison.csv", "comparison.png"],
    ),
    "compare_seeds.py": (
        [
            *(rf"\| {name} +\| +2 \| +{NUMBER} \| +{NUMBER} \|" for name in ("PPO", "BARPO", "BARPO, margin 2")),
            r"\| +PPO \| +BARPO \| +BARPO, margin 2 \|",
        ],
        ["comparison/report.md", "comparison/returns.png", "comparison/tables.tex"],
    ),
    "controllers.py": (
        [
            r"epsilon='competence_100\.0_5000\.0_0\.05', kappa='dualkappa_0\.05_",
            rf"\{{'epsilon_share': {NUMBER}, 'kappa_multiplier': {NUMBER}\}}",
            r"\| BARPO +\| +0\.05 \|",
        ],
        [],
    ),
    "custom_adversary.py": (
        # The trusted sensor stays clean, the others do not.
        [r"largest move per sensor: 0\.000( 0\.(?!000)\d{3}){3}\n", r"\| +random \| +gradient \|", r"\| BARPO "],
        [],
    ),
    "custom_objective.py": ([r"\| +random \| +opposite \|", r"\| BARPO "], ["opposite.zip"]),
    "custom_loss.py": ([r"\| Careful "], ["careful.zip"]),
    "learned_attacks.py": (
        [
            r"\| +random \| +critic \| +mad \| +robust_sarsa \| +sarl \| +paad \|",
            r"\| PPO ",
            r"\| +natural \| +sarl \|",
        ],
        ["sarl.zip", "six-attacks.png", "attackers"],
    ),
    "defences.py": (
        [rf"\| {name} +\| +{NUMBER} +\| +{NUMBER} +\|" for name in ("PPO", "BARPO", "SAPPO", "SPPO", "CARPPO")]
        + [rf"\| {name} +\| +{NUMBER} +\| +{NUMBER} +\|" for name in ("RADIALPPO", "WocaRPPO", "ATLA")],
        [],
    ),
    "certify.py": (
        [
            *(rf"{name} +attacked {NUMBER}, certified {NUMBER}\n" for name in ("PPO", "BARPO")),
            *(
                rf"{name} +median {NUMBER}, certified at 0\.0: .*; mean at 0\.1: {NUMBER}\n"
                for name in ("PPO", "BARPO")
            ),
        ],
        [],
    ),
    "sensors.py": (
        [
            r"\| all sensors ",
            r"\| random faults ",
            r"\| sensor +\| unit +\| +tolerated \|",
        ],
        ["sensors.yml", "sensors-ppo.csv", "sensors-ppo.png", "ppo.zip"],
    ),
    "pixels.py": ([r"\| PPO +\| +16 \|", r"\| BARPO +\| +16 \|"], []),
    "recurrent.py": (
        [r"\| RecurrentBARPO +\| +0\.1 \|", rf"50 steps under attack: mean reward {NUMBER}"],
        [],
    ),
    "evaluate_during_training.py": (
        [r"\| best in worst case \| +0\.3 \|"],
        ["ppo.zip", "best/best_model.zip"],
    ),
    "tune_strength.py": (
        [
            *(rf"trial {number}: natural {NUMBER}, worst case {NUMBER}\n" for number in range(4)),
            r"best, trial \d: \{'epsilon': \{'kind': 'ramp', .*'adversary': ",
        ],
        [],
    ),
}


def test_every_example_is_listed() -> None:
    assert sorted(path.name for path in (ROOT / "examples").glob("*.py")) == sorted([*EXAMPLES, "custom_envs.py"])


#: They train for longer, or start processes of their own.
LONG = {
    "certify.py", "compare_ppo_arpo_barpo.py", "compare_seeds.py", "controllers.py", "custom_adversary.py",
    "defences.py", "evaluate_during_training.py", "learned_attacks.py", "pixels.py", "recurrent.py",
    "sensors.py", "tune_strength.py",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in EXAMPLES]
)
def test_example(name: str, tmp_path: Path) -> None:
    printed, files = EXAMPLES[name]
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), "--timesteps", "1024", "--episodes", "2"],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    position = 0
    for pattern in printed:
        match = re.compile(pattern).search(done.stdout, position)
        assert match, f"{pattern!r} is not in what follows:\n{done.stdout[position:]}"
        position = match.end()
    missing = [file for file in files if not (tmp_path / file).exists()]
    assert not missing, missing


def test_custom_envs(tmp_path: Path) -> None:
    """The command of its docstring, in its folder."""
    pytest.importorskip("rl_zoo3")
    text = (ROOT / "examples" / "custom_envs.py").read_text(encoding="utf-8")
    command = re.search(r"python (-m rl_zoo3\.train .*)", text)
    assert command
    done = subprocess.run(
        [sys.executable, *command[1].split(), "-n", "64", "-params", "n_steps:64", "-f", str(tmp_path)],
        cwd=ROOT / "examples",
        env=_environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "barpo" / "Hopper-v5_1" / "Hopper-v5.zip").is_file()


def _environment() -> dict[str, str]:
    """One thread, and the package under test first, whatever is installed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "PYTHONPATH": path}


@pytest.mark.parametrize("name", ["custom_objective.py", "custom_loss.py"])
def test_parts_of_ones_own_are_short(name: str) -> None:
    assert len((ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()) < 40
