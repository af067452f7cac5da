"""
The Python expressions of settings, such as ``dict(net_arch=[64, 64], activation_fn=nn.ReLU)``, read without running
them. The RL Zoo's files write ``policy_kwargs`` so, and the Zoo itself runs them by ``eval``.
"""

import ast
from collections.abc import Mapping
from typing import Any

import torch as th
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

#: What a dotted name may begin with: the names that the Zoo's own expressions use.
_MODULES = {"nn": th.nn, "th": th, "torch": th}
_CLASSES = {"RMSpropTFLike": RMSpropTFLike}


def parse(text: str) -> Any:
    """
    :param text: An expression of numbers, quoted texts, ``True``, ``False``, ``None``, lists, tuples, dicts,
        ``dict(...)``, and classes of PyTorch such as ``nn.ReLU`` or ``th.optim.Adam``.
    :return: Its value.
    :raises ValueError: for anything else.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError, AttributeError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"Cannot read {text!r}: {error}. Settings written as Python may hold numbers, quoted texts, True, False, "
            "None, lists, tuples, dicts, dict(...), and classes of PyTorch such as nn.ReLU."
        ) from error


def read_kwargs(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """
    :param given: ``policy_kwargs`` or the like: an expression, or data such as JSON and YAML hold, in which texts are
        expressions: ``{"activation_fn": "nn.ReLU", "net_arch": [64, 64]}``.
    :return: The arguments.
    :raises ValueError: if it cannot be read, or is no dict.
    """
    if isinstance(given, str):
        value = parse(given)
    else:
        value = {key: parse(one) if isinstance(one, str) else one for key, one in given.items()}
    if not isinstance(value, dict):
        raise ValueError(f"Arguments are written as dict(name=value), but this is {given!r}.")
    return value


def write_kwargs(given: str | Mapping[str, Any]) -> str:
    """
    The inverse of :func:`read_kwargs`.

    :param given: As :func:`read_kwargs` takes it.
    :return: The expression.
    """
    if isinstance(given, str):
        return given
    return f"dict({', '.join(f'{key}={one if isinstance(one, str) else repr(one)}' for key, one in given.items())})"


def with_kwargs(name: str, given: str | Mapping[str, Any] | None, more: Mapping[str, Any]) -> Any:
    """
    :param name: Name of the argument, for the error.
    :param given: Arguments, as :func:`read_kwargs` takes them; ``None`` for none.
    :param more: Further ones.
    :return: All of them, in the form of those that are given.
    :raises ValueError: if one of the further ones is there already, or an expression is not written as ``dict(...)``.
    """
    given = given or {}
    if double := sorted(read_kwargs(given).keys() & more.keys()):
        raise ValueError(f"{name} is {given!r}, but a search tries {', '.join(double)} itself: leave it out.")
    if not isinstance(given, str):
        return {**given, **more}
    inner = given.strip().removeprefix("dict(").removesuffix(")").strip().rstrip(",")
    if not given.strip().startswith("dict("):
        raise ValueError(f"{name} is {given!r}: to search for more of it, write it as dict(name=value).")
    return f"dict({inner}, {write_kwargs(more).removeprefix('dict(')}" if inner else write_kwargs(more)


def without_kwarg(given: str | Mapping[str, Any], name: str) -> str | Mapping[str, Any]:
    """
    :param given: Arguments, as :func:`read_kwargs` takes them.
    :param name: Name of one of them, which may be missing.
    :return: The others, in the same form.
    """
    if not isinstance(given, str):
        return {key: value for key, value in given.items() if key != name}
    call = ast.parse(given.strip(), mode="eval").body
    if isinstance(call, ast.Call):
        call.keywords = [one for one in call.keywords if one.arg != name]
    return ast.unparse(call)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float())):
            return ast.literal_eval(node)
        case ast.List(elts=elements):
            return [_value(one) for one in elements]
        case ast.Tuple(elts=elements):
            return tuple(_value(one) for one in elements)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_value(key): _value(one) for key, one in zip(keys, values, strict=True) if key is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(one.arg for one in keywords):
            return {str(one.arg): _value(one.value) for one in keywords}
        case ast.Attribute() | ast.Name():
            return _class(ast.unparse(node))
    raise ValueError(f"{ast.unparse(node)!r} is not allowed")


def _class(dotted: str) -> type:
    if dotted in _CLASSES:
        return _CLASSES[dotted]
    first, *rest = dotted.split(".")
    value: Any = _MODULES.get(first)
    for name in rest:
        value = getattr(value, name, None)
    # Only what torch itself defines: its modules lead on to all of Python's.
    if not (isinstance(value, type) and issubclass(value, th.nn.Module | th.optim.Optimizer)):
        raise ValueError(f"{dotted!r} is no layer or optimiser of PyTorch")
    return value
