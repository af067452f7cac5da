"""Records of finished work: written at once, so that a record that exists is whole."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    :param path: File to write.
    :return: Where to write it: a name of this process's own, which becomes the file's when all went well.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    yield partial
    os.replace(partial, path)


def read_record(path: Path) -> Any:
    """:return: What :func:`write_record` stored, ``None`` where there is nothing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_record(path: Path, content: Any) -> None:
    """
    :param path: File to write.
    :param content: What JSON can hold.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
