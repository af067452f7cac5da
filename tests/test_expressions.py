"""Settings written as Python expressions: read as eval would read them, and nothing is run."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn

from sb3_barpo.expressions import parse, read_kwargs, write_kwargs


def zoo_expressions() -> list[str]:
    """All that the RL Zoo's own files write as Python, where it evaluates them."""
    rl_zoo3 = pytest.importorskip("rl_zoo3")
    yaml = pytest.importorskip("yaml")
    found = set()
    for file in (Path(rl_zoo3.__file__).parent / "hyperparams").glob("*.yml"):
        for entry in (yaml.safe_load(file.read_text()) or {}).values():
            found |= {
                value
                for key in ("policy_kwargs", "normalize", "replay_buffer_kwargs", "monitor_kwargs")
                if isinstance(value := entry.get(key), str)
            }
    return sorted(found)


def test_all_that_the_zoo_writes_is_read_as_it_reads_it() -> None:
    expressions = zoo_expressions()
    assert len(expressions) > 20
    for text in expressions:
        assert parse(text) == eval(text, {"nn": nn, "th": th, "torch": th, "RMSpropTFLike": RMSpropTFLike}), text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dict(net_arch=[64, (1, -2.5)], x={'a': None})", {"net_arch": [64, (1, -2.5)], "x": {"a": None}}),
        (" dict(\n  activation_fn=nn.ReLU,\n)\n", {"activation_fn": nn.ReLU}),
        ("torch.nn.Tanh", nn.Tanh),
        ("th.optim.Adam", th.optim.Adam),
        ("+1e-3", 0.001),
        ("'ramp_0.05'", "ramp_0.05"),
        ("False", False),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('it', 'w')",
        "nn.Module.__init__.__globals__",
        "nn.modules.module.warnings",
        "th.load",
        "th.load('it')",
        "nn.ReLU()",
        "nn",
        "os",
        "[x for x in (1,)]",
        "(lambda: 1)()",
        "dict([('a', 1)])",
        "dict(**{'a': 1})",
        "{**{}}",
        "f'{1}'",
        "b'1'",
        "2 ** 10",
        "{[]: 1}",
        "dict(a=1",
        "",
        "(" * 500,
    ],
)
def test_nothing_else_is_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"Cannot read .*quoted texts, True, False, None, lists"):
        parse(text)


def test_the_error_names_the_culprit() -> None:
    with pytest.raises(ValueError, match=r"Cannot read 'dict\(a=nn.Relu\)': 'nn.Relu' is no layer or optimiser"):
        parse("dict(a=nn.Relu)")
    with pytest.raises(ValueError, match=r"'open\(1\)' is not allowed"):
        parse("[open(1)]")


def test_arguments_as_data() -> None:
    data = {"activation_fn": "nn.ReLU", "net_arch": [8], "log_std_init": -2}
    expected = {"activation_fn": nn.ReLU, "net_arch": [8], "log_std_init": -2}
    assert read_kwargs(data) == expected
    assert write_kwargs(data) == "dict(activation_fn=nn.ReLU, net_arch=[8], log_std_init=-2)"
    assert read_kwargs(write_kwargs(data)) == expected
    assert write_kwargs("dict(a=1)") == "dict(a=1)"
    ast.parse(write_kwargs(data))
    with pytest.raises(ValueError, match=r"written as dict\(name=value\), but this is '\[1\]'"):
        read_kwargs("[1]")
