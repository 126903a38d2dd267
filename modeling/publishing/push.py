"""Pushing an adapter: exactly its own files, in one commit."""

import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from ..errors import HubError
from ..hub.calls import hub_calls
from ..hub.names import pushed_name
from .model_card import GENERATED, renamed, tagged
from .model_description import hub_repository, last_name
from .remote_code import AUTO_MAP, CODE, MODULE, OF_MODEL, OF_PROCESSOR

CARD = "README.md"
CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
PUSHED = (
    CONFIG,
    "model.safetensors",
    PROCESSOR,
    "lora/*.json",
    "lora/*.safetensors",
    CARD,
    "images/*.png",
)
# Phrases in cards that transformers generates; such cards are replaced by ours.
_OTHERS_GENERATED = (
    "generated automatically according to the information the Trainer",
    "has been automatically generated",
)


def pushed_files(folder: Path) -> dict[str, Path | bytes]:
    """Lists the files of an adapter's folder that are pushed: path or content by name in the repository.

    Nothing else is ever pushed, such as checkpoints and their pickles. The config is `pushed_config`; it and the
    processor's name the module by which transformers loads them (`remote_code.py`).
    """
    paths = [path for pattern in PUSHED for path in sorted(folder.glob(pattern))]
    files: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in paths}
    if PROCESSOR in files:
        files |= files_of_processor((folder / PROCESSOR).read_text(encoding="utf-8"))
    return files | {CONFIG: pushed_config(folder), MODULE: CODE}


def files_of_processor(settings: str) -> dict[str, Path | bytes]:
    """The files of a processor in a repository, by name; `settings` is its `preprocessor_config.json`."""
    return {PROCESSOR: _as_json(json.loads(settings) | {AUTO_MAP: OF_PROCESSOR}), MODULE: CODE}


def _as_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def pushed_config(folder: Path) -> bytes:
    """Returns the config.json of a saved adapter for other machines, without the path of a folder of this one.

    A backbone in the Hub's cache is named by its Hub id and commit. Any other folder is named by `./` and the last part
    of its path, which never is a Hub id, with a warning.
    """
    text = (folder / CONFIG).read_text(encoding="utf-8")
    backbone = json.loads(text).get("backbone")
    repository, commit = hub_repository(backbone)
    changes: dict[str, Any] = {AUTO_MAP: OF_MODEL}
    if repository is not None and repository != backbone:
        changes |= {"backbone": repository, "backbone_revision": commit}
    elif repository is None and backbone is not None:
        changes |= {"backbone": f"./{last_name(backbone)}"}
        warnings.warn(
            f"the backbone of this adapter is a folder of this machine ({backbone}), recorded on the Hub as "
            f"{changes['backbone']}: those who pull the adapter have to pass the same backbone as backbone=… "
            "(--backbone on the command line). Train on a Hub id to spare them that.",
            stacklevel=3,
        )
    return _as_json(json.loads(text) | changes)


def push_files(
    files: Mapping[str, Path | bytes],
    name: str,
    *,
    commit_message: str,
    commit_description: str | None = None,
    tags: Sequence[str] = (),
    card: Callable[[str], str] | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Makes the repository if it is not there, and commits those of the files that have changed.

    A hand-written README.md on the Hub is replaced only by a hand-written one among `files`.

    Args:
        files: path or content of each file, by its name in the repository.
        name: `user/name` or a bare name.
        commit_message: of the commit.
        commit_description: of the commit, below its message.
        tags: added to those of the README.md, if there is or will be one.
        card: a function of the Hub id that makes the README.md. It is used where `files` has none, and the repository
            has none or one that transformers generated.
        private: whether a new repository is private; by default as its owner has set.
        token: of the Hub; by default the logged-in user's.
        revision: branch to push to, made if it is not there.
        create_pr: open a pull request instead of committing.

    Returns:
        The commit, a string that is its URL.

    Raises:
        HubError: the Hub does not answer, refuses or breaks off (the repository is as it was), or a name that no
            repository can have.
    """
    name = pushed_name(name)
    if create_pr and revision is not None:
        raise HubError(f"a pull request is opened against the main branch, got revision={revision!r} as well.")
    with hub_calls(f"to push to {name}"):
        api = HfApi(token=token)
        repo_id = api.create_repo(name, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        files = dict(files)
        if CARD in files:
            given = files[CARD]
            text = given if isinstance(given, bytes) else given.read_bytes()
            files[CARD] = renamed(text.decode(), repo_id).encode()
            if GENERATED.encode() in text and not is_generated(_card_on_hub(api, repo_id, revision), GENERATED):
                del files[CARD]
        elif card is not None and is_generated(_card_on_hub(api, repo_id, revision)):
            files[CARD] = card(repo_id).encode()
        if tags:
            current = files.get(CARD) or (_card_on_hub(api, repo_id, revision) or "").encode()
            current = current if isinstance(current, bytes) else current.read_bytes()
            files |= {CARD: tagged(current.decode(), tags).encode()} if current else {}
        operations = [
            CommitOperationAdd(path_in_repo, content if isinstance(content, bytes) else os.fspath(content))
            for path_in_repo, content in files.items()
        ]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def _card_on_hub(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    try:
        return Path(api.hf_hub_download(repo_id, CARD, revision=revision)).read_text(encoding="utf-8", errors="replace")
    except EntryNotFoundError as error:
        if not isinstance(error, HfHubHTTPError):  # the card may be there, but the Hub is out of reach
            raise
        return None


def is_generated(card: str | None, *marks: str) -> bool:
    """Whether a repository has no card (None), or a generated one: with a mark or a phrase of transformers' cards."""
    return card is None or any(mark in card for mark in (*_OTHERS_GENERATED, *marks))
