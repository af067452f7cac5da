"""Canvas, colours and numbers of all pictures and tables. Matplotlib is imported only when a picture is drawn."""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which the colour-blind tell apart; without the yellow, too pale for lines.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
#: Stands in tables for what was not measured.
NONE = "–"
#: How pictures call the attacks.
_DISPLAYED = {
    "random": "Random",
    "critic": "Critic",
    "mad": "MAD",
    "max_kl": "Max KL",
    "push": "Push",
    "robust_sarsa": "Robust Sarsa",
    "sarsa_mad": "RS+MAD",
    "worst_q": "Worst Q",
    "sarl": "SA-RL",
    "paad": "PA-AD",
}
_STYLE: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 11, "axes.titlesize": 11.5}


def canvas(width: float, height: float = 4.0, **grid: Any) -> "tuple[Figure, Any]":
    """
    :param width: In inches.
    :param height: In inches.
    :param grid: Arguments of ``Figure.subplots``.
    :return: A figure in the style of all pictures, and its axes: one, or as many as the grid has.
    :raises ImportError: if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "sb3-barpo[plots]"') from error
    # A Figure of its own: no pyplot, whose windows and state are the user's.
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        return figure, figure.subplots(**grid)


def display(attack: str) -> str:
    """:return: An attack's name as the field writes it; one's own attacks keep theirs."""
    return _DISPLAYED.get(attack, attack)


def number(value: float) -> str:
    """:return: The value with three digits or so: 3319, 81.3, −2.15, 0.00123."""
    return _formatted(value, abs(value))


def spread(mean: float, std: float) -> str:
    """:return: Mean and standard deviation with the same decimals: "50.0 ± 10.0"."""
    size = max(abs(mean), std)
    return f"{_formatted(mean, size)} ± {_formatted(std, size)}"


def percent(share: float) -> str:
    """:return: A signed share: "−75 %"."""
    return NONE if math.isnan(share) else f"{100 * share:+.0f} %".replace("-", "−")


def counted(n: int, what: str = "episode") -> str:
    """:return: A number of things: "1 episode", "50 episodes"."""
    return f"{n} {what}{'s' * (n != 1)}"


def _formatted(value: float, size: float) -> str:
    """With as many decimals as three digits of a number of this size have."""
    decimals = 2 if size == 0 else min(max(2 - math.floor(math.log10(size)), 0), 8)
    return f"{value:.{decimals}f}".replace("-", "−")
