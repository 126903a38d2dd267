"""Names of adapters (a folder, `user/name` on the Hub, or a bare `name`), and pulling an adapter by its name.

A name on the Hub may end in `@` and a revision. `pinned_name` makes it one commit, for whatever pulls more than once.

A bare name is looked for in this order: a local folder, the Hub's repository of exactly that name, then the repository
of that name in the namespace `ANY2POINT_NAMESPACE` or, without it, in that of the logged-in user.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from ..errors import CheckpointError, HubError
from ..files import check_plain_files, finish_saving
from .calls import hub_calls, resolved_commit

NAMESPACE_VARIABLE = "ANY2POINT_NAMESPACE"
LARGEST_FILES = {".json": 2**20, ".safetensors": 2**31}
"""The most bytes of an adapter's files, by the ending of their names."""

PULL_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")

logger = logging.getLogger(__name__)


def pushed_name(name: str) -> str:
    """Returns the repository that a push to a name goes to; without a namespace, the Hub adds the logged-in user's.

    Raises:
        HubError: no repository can have that name.
    """
    namespace = os.environ.get(NAMESPACE_VARIABLE)
    name = f"{namespace}/{name}" if namespace and "/" not in name else name
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HubError(f"a repository is called name or user/name, got {name!r}. {error}") from error
    return name


def check_name(name: str | os.PathLike, files: Sequence[str] = ("config.json",)) -> None:
    """Checks, without a call, that an adapter's name is a folder here, or may be that of a repository on the Hub.

    Raises:
        CheckpointError: neither.
    """
    if not os.path.isdir(name) and not is_repository_name(name):
        raise _not_found(str(name), files, [f"the folder {name} (there is none)"])


def is_repository_name(name: str | os.PathLike) -> bool:
    """Whether a repository may be called so; `@` and a revision may follow."""
    try:
        validate_repo_id(str(name).partition("@")[0])
    except HFValidationError:
        return False
    return True


def check_adapter_folder(folder: Path) -> None:
    """Checks that an adapter's folder is there.

    Raises:
        CheckpointError: it is not.
    """
    if not folder.is_dir():
        raise CheckpointError(f"an adapter must be a folder with config.json, and there is no folder {folder}.")


def pull_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Selects the options of a `from_pretrained` that `pulled_folder` takes."""
    return {name: options[name] for name in PULL_OPTIONS if options.get(name) is not None}


def pulled_folder(
    name: str | os.PathLike,
    files: Sequence[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> Path:
    """Returns the folder that holds an adapter's files: a local one, or that of one commit in the Hub's cache.

    Without a network, or if the Hub fails, the files in the cache are used, with a warning.

    Args:
        name: a folder, `user/name`, or a bare name; the latter two may have `@revision` at their end.
        files: names of the files that are needed.
        revision: branch, tag or commit on the Hub, unless the name has one.
        token: of the Hub; by default the logged-in user's, False for none.
        cache_dir: instead of the Hub's usual cache.
        local_files_only: make no call, as with `HF_HUB_OFFLINE=1`.
        force_download: whether to load files again that are in the cache.
        subfolder: the folder of the repository that the files are in.

    Raises:
        CheckpointError: the name exists nowhere, or a file or the revision is not there; everything tried is listed.
            Or a local folder's unfinished saving cannot be finished, or it holds a pipe.
        HubError: the Hub does not answer, refuses or breaks off, and the cache does not help.
    """
    if os.path.isdir(name):
        return _settled(Path(name), subfolder)
    check_name(name, files)
    tried = [f"the folder {name} (there is none)"]
    name, _, own_revision = str(name).partition("@")
    revision = own_revision or revision
    files = [f"{subfolder}/{file}" if subfolder else file for file in files]
    cache_dir = Path(cache_dir or constants.HF_HUB_CACHE)
    if local_files_only or constants.is_offline_mode():
        folder = _cached_folder(name, files, revision, cache_dir, tried)
        if folder is None:
            raise _not_found(name, files, tried, " Calls to the Hub are switched off: pull it once without.")
        return folder
    options = {"revision": revision, "token": token, "cache_dir": cache_dir}
    try:
        with hub_calls(f"to pull {name!r}", LARGEST_FILES):
            for repo_id in _repo_ids(name, token, tried):
                folder = _download(repo_id, files, force_download, options, tried)
                if folder is not None:
                    return folder
    except HubError as error:
        folder = None if force_download else _cached_folder(name, files, revision, cache_dir, tried)
        if folder is None:
            raise
        logger.warning(f"{name} is taken from the cache ({folder}). {error}")
        return folder
    raise _not_found(name, files, tried)


def pinned_name(name: str | os.PathLike, **options: Any) -> str:
    """Returns the name under which all that is pulled is of one commit: `user/name@commit`, or a folder as it is.

    Args:
        name: as of `pulled_folder`.
        options: of `pulled_folder`.

    Raises:
        CheckpointError: there is no such adapter.
        HubError: the Hub does not answer, refuses or breaks off, and the config is not in the cache.
    """
    if os.path.isdir(name):
        return str(name)
    commit = pulled_folder(name, ("config.json",), **options)  # …/models--user--name/snapshots/commit
    return f"{'/'.join(commit.parents[1].name.split('--')[1:])}@{commit.name}"


def _settled(folder: Path, subfolder: str) -> Path:
    """Returns a local folder, in which no saving is unfinished."""
    try:
        finish_saving(folder / subfolder)
    except OSError as error:
        raise CheckpointError(
            f"the last saving into {folder} was killed, and its files must be moved into their places, which failed: "
            f"{error}. Make the folder writable, or copy it."
        ) from error
    check_plain_files(folder / subfolder)
    return folder


def _repo_ids(name: str, token: str | bool | None, tried: list[str]) -> Iterator[str]:
    """Yields the repositories that a name may mean; asks who is logged in only after those before were not found."""
    yield name
    if "/" in name:
        return
    namespace = os.environ.get(NAMESPACE_VARIABLE)
    if not namespace and token is not False and (isinstance(token, str) or get_token()):
        namespace = HfApi().whoami(token=token)["name"]
    if namespace:
        yield f"{namespace}/{name}"
    else:
        tried.append(f"<user>/{name} on the Hub (nobody is logged in, and {NAMESPACE_VARIABLE} is not set)")


def _download(
    repo_id: str, files: list[str], force_download: bool, options: dict[str, Any], tried: list[str]
) -> Path | None:
    """Downloads files of one commit; returns their folder in the cache, or None, with the reason added to `tried`."""
    try:
        options = options | {"revision": resolved_commit(repo_id, **options)}
        paths = [hf_hub_download(repo_id, file, force_download=force_download, **options) for file in files]
    except GatedRepoError:
        reason = "gated: ask for access on its page, and log in"
    except RepositoryNotFoundError:
        reason = "not there, or private"
    except RevisionNotFoundError:
        reason = f"has no revision {options['revision']!r}"
    except RemoteEntryNotFoundError as error:
        missing = next((file for file in files if str(error.response.url).endswith(file)), "a file of the adapter")
        reason = f"has no {missing}"
    except HfHubHTTPError as error:
        if error.response.status_code != 401:
            raise
        reason = "401: not there, or private, or a wrong token"
    else:
        folder = _root(paths[0], files[0])
        if any(_root(path, file) != folder for path, file in zip(paths, files, strict=True)):
            raise HubError(
                f"the Hub must send the files of one commit of {repo_id}, and sent those of several. Check"
                " HF_ENDPOINT and the proxy."
            )
        return folder
    tried.append(f"{repo_id} on the Hub ({reason})")
    return None


def _cached_folder(name: str, files: list[str], revision: str | None, cache_dir: Path, tried: list[str]) -> Path | None:
    """Finds, without a call, the folder in the cache that an earlier `_download` left; None if a file is not there."""
    for repo_id in _cached_repo_ids(name, cache_dir, tried):
        paths: list[Any] = [try_to_load_from_cache(repo_id, file, cache_dir, revision) for file in files]
        if all(isinstance(path, str) for path in paths):
            folders = {_root(path, file) for path, file in zip(paths, files, strict=True)}
            if len(folders) == 1:  # of one commit
                return folders.pop()
        tried.append(f"{repo_id} in the cache (not there, or not with {', '.join(files)})")
    return None


def _cached_repo_ids(name: str, cache_dir: Path, tried: list[str]) -> list[str]:
    """Lists the repositories that a name may mean, without a call that asks who is logged in.

    A bare name also means the repository of that name under any user, if the cache has exactly one.
    """
    if "/" in name:
        return [name]
    namespace = os.environ.get(NAMESPACE_VARIABLE)
    if namespace:
        return [name, f"{namespace}/{name}"]
    of_users = ["/".join(folder.name.split("--")[1:]) for folder in sorted(cache_dir.glob(f"models--*--{name}"))]
    if len(of_users) > 1:
        tried.append(f"the cache without the user's name (it has {', '.join(of_users)}: name one)")
    return [name, *(of_users if len(of_users) == 1 else [])]


def _root(path: str, file: str) -> Path:
    """Returns the folder that contains `file` (a name that may have folders in it), which lies at `path`."""
    return Path(path).parents[file.count("/")]


def _not_found(name: str, files: Sequence[str], tried: list[str], advice: str = "") -> CheckpointError:
    return CheckpointError(
        f"an adapter must be a folder or a Hub repository with {', '.join(files)}, and {name!r} is neither. Tried: "
        f"{'; '.join(tried)}.{advice} Check the spelling and the revision; a private or gated repository needs a login "
        "by `hf auth login` or HF_TOKEN."
    )
