"""The model card of a packed agent, in the form of the Hugging Face Hub."""

from collections.abc import Sequence

import pandas as pd

from sb3_barpo.attacks import ATTACKS
from sb3_barpo.evaluation import RobustnessReport
from sb3_barpo.evaluation.judged import lines
from sb3_barpo.experiment import Agent, Trained
from sb3_barpo.figures import counted, display, number, percent, spread


def model_card(
    agent: Agent | Trained,
    name: str,
    report: RobustnessReport,
    n_seeds: int,
    attackers: Sequence[str],
    settings: str,
    licence: str,
    source: str,
    comparison: str,
) -> str:
    """
    :param agent: The agent.
    :param name: What it is loaded by.
    :param report: The report on it alone.
    :param n_seeds: Of how many agents it is the median.
    :param attackers: Learned attacks whose strongest attackers lie beside it.
    :param settings: The settings of its training as YAML, empty if they are not known.
    :param licence: What the Hub calls its licence.
    :param source: The command that made the figures, empty for one with the settings of the comparison.
    :param comparison: These settings, as YAML.
    :return: The card, in Markdown.
    """
    env, epsilon = agent.env.rpartition(":")[2], report.epsilons[-1]
    row = report.summary().iloc[0]
    figures = {"natural": NATURAL_NAME, **{attack: display(attack) for attack in report.attacks}}
    table = pd.DataFrame(
        [[shown, spread(row[key], row[f"{key}_std"])] for key, shown in figures.items()], columns=["", "return"]
    ).to_markdown(index=False, disable_numparse=True, colalign=["left", "right"])
    seeds = f"{counted(len(report.seeds))} (seeds {report.seeds[0]} to {report.seeds[-1]})"
    whose = (
        f"The median, by its worst case, of {counted(n_seeds, 'agent')} that differ in their seed of training."
        if n_seeds > 1
        else "The only agent of its kind: one seed of training says what happens, not how often."
    )
    return f"""---
library_name: stable-baselines3
license: {licence}
tags:
- {env}
- reinforcement-learning
- deep-reinforcement-learning
- adversarial-robustness
- stable-baselines3
---

# {agent.label} on {env}

{whose} Trained and attacked with `sb3-barpo`.

{table}

Mean ± standard deviation of the return over {seeds}, deterministic, at ε = {epsilon:g} \
{_UNITS.get(report.units[0], "")}. The worst attack, {display(str(row["worst_attack"]))}, leaves \
{number(row["worst_case"])} ({percent(row["robustness"])}).

## Use

```python
from sb3_barpo import load_pretrained

name, model, env = load_pretrained("{name}", "{agent.env}")
```

```bash
python -m sb3_barpo evaluate --pretrained {name} --env {agent.env} --epsilon {epsilon:g}
```

Agents are pickled files, which can run any code: `SHA256SUMS` lists what belongs to this one.
{_beside(attackers)}{_trained(settings)}
## Where the figures come from

{_command(source, comparison)}

{_told(report)}
"""


NATURAL_NAME = "without an attack"
_UNITS = {"std": "standard deviations of the observations", "raw": "in the observations' own units"}


def _beside(attackers: Sequence[str]) -> str:
    if not attackers:
        return ""
    first = ATTACKS[attackers[0]].__name__
    return f"""
The strongest attackers that were found lie under `attacks`: {", ".join(f"`{name}.zip`" for name in attackers)}.

```python
from sb3_barpo.attacks import {first}

attack = {first}.load("attacks/{attackers[0]}.zip", model)
```
"""


def _trained(settings: str) -> str:
    if not settings:
        return ""
    return f"""
## Settings of training

```yaml
{settings.strip()}
```
"""


def _command(source: str, comparison: str) -> str:
    if source:
        return f"```bash\n{source.strip()}\n```"
    command = "python -m sb3_barpo compare settings.yml"
    return f"```bash\n{command}\n```\n\nwith, in `settings.yml`:\n\n```yaml\n{comparison.strip()}\n```"


def _told(report: RobustnessReport) -> str:
    agents = {name: told for name, told in report.judged["agents"].items() if told}
    return "\n".join(lines({"agents": agents}))
