"""``python -m sb3_barpo lab``: the landscapes, ends and basins of a small MDP, computed and drawn in seconds."""

import argparse
from pathlib import Path

import numpy as np

from sb3_barpo.lab import pictures
from sb3_barpo.lab.ascent import METHODS, Problem, ascend
from sb3_barpo.lab.ends import KINDS, basins, classify, shares
from sb3_barpo.lab.problems import footbridge, swamp

PROBLEMS = {"footbridge": footbridge, "swamp": swamp}
#: Where the paths in the pictures start, in the unit square of the parameters: spread, and the same for all methods.
DRAWN = np.array(
    [
        [0.19, 0.38],
        [0.38, 0.25],
        [0.65, 0.33],
        [0.81, 0.45],
        [0.09, 0.18],
        [0.88, 0.13],
        [0.58, 0.12],
        [0.10, 0.65],
        [0.78, 0.72],
        [0.30, 0.54],
        [0.28, 0.09],
        [0.72, 0.20],
    ]
)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """
    :param commands: The parser's commands; ``lab`` is added to them.
    """
    sub = commands.add_parser(
        "lab",
        help="why ARPO gets stuck: exact landscapes of a small MDP",
        description="Compute and draw, for an MDP that is small enough to be solved exactly, what SPO, ARPO and BARPO "
        "climb, where they end from many starts, and from where they are trapped. It takes seconds.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    sub.add_argument("--problem", default="footbridge", choices=PROBLEMS, help="the MDP")
    sub.add_argument("--starts", type=int, default=400, help="number of random starts")
    sub.add_argument("--seed", type=int, default=0, help="seed of the starts")
    sub.add_argument("--output", type=Path, default=Path("lab"), help="folder to write to")
    sub.set_defaults(command=lab)


def lab(problem: str = "footbridge", starts: int = 400, seed: int = 0, output: str | Path = "lab") -> None:
    """
    Write ``table.md``, ``landscapes.png``, ``shares.png`` and ``basins.png``, for the footbridge also ``ridge.png``,
    and print the table.

    :param problem: ``"footbridge"`` or ``"swamp"``.
    :param starts: Number of random starts.
    :param seed: Seed of the starts.
    :param output: Folder to write to.
    :raises ValueError: for an unknown problem, or no starts.
    :raises ImportError: if matplotlib is not installed.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"Unknown problem {problem!r}. Choose from {', '.join(PROBLEMS)}.")
    if starts < 1:
        raise ValueError(f"starts must be at least 1, but it is {starts}. 400 take a second for each method.")
    looked_at, folder = PROBLEMS[problem](), Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    policy = looked_at.policy
    ends = {name: ascend(looked_at, policy.starts(starts, seed), method)[-1] for name, method in METHODS.items()}
    kinds = {name: shares(classify(looked_at, end)) for name, end in ends.items()}
    drawn = policy.low + (policy.high - policy.low) * DRAWN
    figures = {
        "landscapes": pictures.landscapes(looked_at, drawn),
        "shares": pictures.shares_of_ends(kinds),
        "basins": pictures.maps_of_basins(
            looked_at, {name: basins(looked_at, METHODS[name]) for name in pictures.MAPS}
        ),
    }
    if problem == "footbridge":
        figures["ridge"] = pictures.profile(looked_at)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    written = table(looked_at, ends, kinds)
    (folder / "table.md").write_text(written, encoding="utf-8")
    print(f"{written}\nThe table and the pictures: {folder}")


def table(problem: Problem, ends: dict[str, np.ndarray], kinds: dict[str, dict[str, float]]) -> str:
    """
    :param problem: The problem.
    :param ends: For each method the parameters that its ascents end at.
    :param kinds: For each method the shares of the kinds of ends.
    :return: A Markdown table of the ends.
    """
    rows = [
        f"| {name} | "
        + " | ".join(f"{100 * kinds[name][kind]:.3g}" for kind in KINDS)
        + f" | {problem.natural(end).mean():.2f} | {problem.robust(end).mean():.2f} |"
        for name, end in ends.items()
    ]
    n_starts = len(next(iter(ends.values())))
    return "\n".join(
        [
            f"{problem.name}, {n_starts} starts: per cent that end so, and mean values, of which the best is "
            f"{problem.mdp.optimum()[0]:.2f} and the worst {problem.mdp.pessimum():.2f}.",
            "",
            f"| method | {' | '.join(KINDS)} | natural value | worst case |",
            f"|:--|{'--:|' * (len(KINDS) + 2)}",
            *rows,
            "",
        ]
    )
