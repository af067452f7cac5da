"""The RL Zoo's upload to the Hugging Face Hub: repaired, and with our commands in the model card."""

import contextlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sb3_barpo.algorithms import OURS


def model_card(text: str) -> str:
    """
    :param text: A model card as the Zoo writes it.
    :return: The card; for our algorithms with the commands that know them.
    """
    ours = re.sub(rf"python -m rl_zoo3\.(\w+)(?= --algo (?:{'|'.join(OURS)}) )", r"python -m sb3_barpo \1", text)
    return text if ours == text else ours.replace("pip install rl_zoo3", 'pip install "sb3-barpo[zoo]"')


@contextlib.contextmanager
def upload() -> Iterator[None]:
    """Within, the Zoo's upload works and its model card names our commands."""
    from huggingface_hub import repocard

    # Not by `from`: the package has a function of the same name.
    uploads = importlib.import_module("huggingface_sb3.push_to_hub")
    save = repocard.metadata_save

    # The Zoo's own function for the card cannot be replaced, since the program that calls it defines it. This one adds
    # the figures to the card, last before the upload.
    def save_ours(local_path: str | Path, data: dict[str, Any]) -> None:
        path = Path(local_path)
        path.write_text(model_card(path.read_text(encoding="utf-8")), encoding="utf-8")
        save(local_path, data)

    # The Zoo imports it by its name of before sb3-team-hf-integration 3.2, and wants a dict of it.
    renamed = not hasattr(uploads, "generate_metadata")
    if renamed:
        uploads.generate_metadata = lambda *args: uploads._generate_metadata(*args).to_dict()  # type: ignore[attr-defined]
    repocard.metadata_save = save_ours
    try:
        yield
    finally:
        repocard.metadata_save = save
        if renamed:
            del uploads.generate_metadata
