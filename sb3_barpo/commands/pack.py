"""``sb3-barpo pack``."""

import argparse
from pathlib import Path


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """:param commands: Where to add the command."""
    sub = commands.add_parser(
        "pack",
        help="pack the median agents of a comparison, with model cards",
        description="Pack the median agent, by its worst case, of each algorithm and task of a comparison: the agent, "
        "its statistics, the strongest attackers, settings, figures, a model card, the licence and a list of SHA-256. "
        "The folders have the layout of the RL Zoo's repositories on the Hugging Face Hub, and load_pretrained reads "
        "them.",
    )
    sub.add_argument("comparison", type=Path, help="folder that compare wrote")
    sub.add_argument("--output", type=Path, default=Path("pretrained"), help="folder to write to (default: pretrained)")
    sub.add_argument(
        "--algorithms",
        nargs="+",
        metavar="LABEL[=NAME]",
        help="which algorithms, by the labels of the comparison, and under which names (default: all, by their files')",
    )
    sub.add_argument(
        "--attackers",
        default="strongest",
        choices=["strongest", "all", "none"],
        help="which learned attackers: the one that leaves the lowest return, the strongest of each attack, or none "
        "(default: strongest)",
    )
    sub.add_argument("--licence", type=Path, help="file of the agents' licence (default: that of this project)")
    sub.add_argument("--licence-name", default="mit", help="what the Hugging Face Hub calls it (default: mit)")
    sub.add_argument("--command", dest="trained_by", default="", help="the command that trained them, for the card")
    sub.set_defaults(command=_pack)


def _pack(
    comparison: Path,
    output: Path,
    algorithms: list[str] | None,
    attackers: str,
    licence: Path | None,
    licence_name: str,
    trained_by: str,
) -> None:
    from sb3_barpo.comparison.medians import LICENCE, pack_medians

    names = None
    if algorithms is not None:
        pairs = [one.partition("=") for one in algorithms]
        names = {label: name for label, _, name in pairs}
    licence = licence or LICENCE
    for folder in pack_medians(comparison, output, names, licence, licence_name, trained_by, attackers):
        print(folder)
