"""Settings of algorithms on the command line."""

import argparse
from ast import literal_eval
from typing import Any


def setting(text: str) -> tuple[str, Any]:
    """
    :param text: ``name:value``.
    :return: The name, and the value as Python reads it, or as text where it does not.
    :raises argparse.ArgumentTypeError: for a text without a colon.
    """
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name:value, such as n_steps:256")
    return name, parsed(value)


def parsed(text: str) -> Any:
    """:return: The value as Python reads it, or the text where it does not."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text
