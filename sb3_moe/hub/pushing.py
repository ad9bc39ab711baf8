"""Upload a folder, with the Hub's own library."""

from __future__ import annotations

import re
from pathlib import Path

from sb3_moe.extras import require
from sb3_moe.layers.checks import words, yes_or_no

CARD = "README.md"
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def check_repo_id(repo_id: object) -> None:
    """Raise unless a value is a repository's name.

    :raises TypeError: if it is no text
    :raises ValueError: if it isn't ``"user/name"``
    """
    words("repo_id", repo_id)
    if not REPO_ID.fullmatch(str(repo_id)):
        raise ValueError(f"`repo_id` must be 'user/name', got {repo_id!r}")


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str = "Upload an agent",
) -> str:
    """Upload a folder of :func:`write_folder`, and return its address.

    Everything in the folder is uploaded.

    :param folder: with a card
    :param repo_id: ``"user/name"``; it is made if it isn't there
    :param private: whether a new one is yours alone
    :param token: None: that of ``hf auth login``, or of ``HF_TOKEN``
    :param message: of the commit
    :raises ImportError: without the extra ``hub``
    :raises ValueError: if the folder has no card, or ``repo_id`` is no such name
    """
    check_repo_id(repo_id)
    yes_or_no("private", private)
    if not (Path(folder) / CARD).is_file():
        raise ValueError(f"`folder` must have a {CARD}, as write_folder makes it, got {folder}")
    require("sb3_moe.hub.push", "huggingface_hub")
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    uploaded = api.upload_folder(repo_id=repo_id, folder_path=str(folder), commit_message=message)
    return str(uploaded)
