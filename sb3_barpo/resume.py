"""Records of finished work. They are replaced atomically, so a record that exists is complete."""

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
    :return: A temporary path to write to, which replaces the file if no error is raised.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    yield partial
    os.replace(partial, path)


def check_writable(folder: Path) -> None:
    """
    Check that a folder can be written, before work begins. Nothing is created.

    :param folder: The folder; it may be missing.
    :raises OSError: if it cannot be created or written.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"Cannot write to {str(folder)!r}: {str(existing)!r} is a file. Name another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f"Cannot write to {str(folder)!r}: no permission for {str(existing)!r}. Name another folder, or change its "
            "permissions."
        )


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
