"""Data sets on the Hub, `user/name[@revision][#config]`: pulled at one commit into the Hub's cache, opened as a folder.

Unusual here: `load_dataset("user/name")` would ask a dead Hub for minutes, and then take any commit from its cache.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.data_files import sanitize_patterns
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import (
    DatasetCard,
    HfApi,
    constants,
    get_cached_repo_tree,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.hf_api import RepoFile
from transformers.utils import logging
from yaml import YAMLError

from ..modeling.errors import DatasetError, HubError, did_you_mean, listed
from ..modeling.hub.calls import hub_calls, resolved_commit
from .names import PULLED_EXTENSIONS, TABLE_EXTENSIONS, HubDataset, parse_hub_name

_CARD = "README.md"
_UP = re.compile(r"(^|[/\\])\.\.([/\\]|$)")  # a step out of a folder

logger = logging.get_logger(__name__)


def pinned(source: Any) -> Any:
    """The source with its commit in place of its revision, if it is on the Hub; anything else as it is.

    Raises:
        DatasetError: there is no such data set or revision.
        HubError: the Hub fails, and the cache does not help.
    """
    name = parse_hub_name(source)
    return source if name is None else str(pull_dataset(name)[1])


def pull_dataset(name: HubDataset) -> tuple[Path, HubDataset]:
    """Pulls the data files of one commit; without a network, or if the Hub fails, the cache's are used with a warning.

    Returns:
        The folder in the cache, and the name with its commit as the revision.

    Raises:
        DatasetError: no such data set, revision or config, or no file in it that can be read.
        HubError: the Hub does not answer, refuses or breaks off, and the cache does not help.
    """
    if constants.is_offline_mode():
        pulled = _pull(name, local_files_only=True)
        if pulled is None:
            raise _missing(
                name, "calls to the Hub are switched off, and its cache does not have it whole (load it once without)"
            )
        return pulled
    try:
        with hub_calls(f"to load the data set {name.repo_id!r} (there is no such path here)"):
            pulled = _pull(name)
            assert pulled is not None  # only a cache can lack it without an error
            return pulled
    except HubError as error:
        pulled = _pull(name, local_files_only=True)
        if pulled is None:
            raise
        logger.warning(f"{name} is taken from the cache (commit {pulled[1].revision}). {error}")
        return pulled


def _pull(name: HubDataset, *, local_files_only: bool = False) -> tuple[Path, HubDataset] | None:
    """As `pull_dataset`; None if only the cache may be used and it is not complete."""
    repository: Any = {"repo_id": name.repo_id, "repo_type": "dataset"}
    options: Any = {"local_files_only": local_files_only}
    try:
        commit = resolved_commit(revision=name.revision, **repository, **options)
        repository["revision"] = commit
        files = _list_files(repository, local_files_only)
        card = hf_hub_download(filename=_CARD, **repository, **options) if _CARD in files else None
        patterns = _patterns(_config_in_card(card, name))
        folder = Path(snapshot_download(allow_patterns=patterns, **repository, **options))
        get_cached_repo_tree(**repository)  # without the list, a part would have been taken for the whole
    except GatedRepoError as error:
        raise _missing(name, "it is gated: ask for access on its page, and log in by `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise _missing(name, "the Hub has no such data set, or it is private and needs a login") from error
    except HFValidationError as error:
        raise _missing(name, f"no data set can have this name ({' '.join(str(error).split())[:150]})") from error
    except RevisionNotFoundError as error:
        raise _missing(name, f"it has no revision {name.revision!r}") from error
    except (OSError, RevisionResolutionError, CachedRepoTreeNotFoundError) as error:
        if local_files_only:
            return None
        if isinstance(error, CachedRepoTreeNotFoundError):
            raise HubError(f"the Hub broke off while it listed the files of {name}. Do the same again.") from error
        raise  # `hub_calls` translates it
    if not any(path.is_file() and path.name != _CARD for path in folder.rglob("*")):
        raise _missing(name, _no_data(files))
    return folder, name._replace(revision=commit)


def _list_files(repository: dict[str, Any], local_files_only: bool) -> list[str]:
    """The paths of a commit's files, whether they are in the cache or not.

    Raises:
        HubError: one lies outside of the repository.
    """
    try:
        entries: Iterable[Any] = get_cached_repo_tree(**repository)
    except CachedRepoTreeNotFoundError:
        if local_files_only:
            raise
        entries = HfApi().list_repo_tree(recursive=True, **repository)
    paths = [entry.path for entry in entries if isinstance(entry, RepoFile)]
    wrong = [path for path in paths if not isinstance(path, str) or path[:1] in ("/", "\\") or _UP.search(path)]
    if wrong:
        raise HubError(
            f"the Hub must list files of {repository['repo_id']}, and lists {str(wrong[0])[:80]!r}. Check HF_ENDPOINT "
            "and the proxy, or tell the data set's owner."
        )
    return paths


def config_arguments(folder: Path, config: str | None) -> tuple[Path, dict[str, Any]] | None:
    """What makes `load_dataset` load a config of the card in a folder: a path and options; None without configs.

    Raises:
        DatasetError: no such config, several without a default, or one whose files lie outside of the folder.
    """
    card = folder / _CARD
    chosen = _config_in_card(card if card.is_file() else None, HubDataset(str(folder), config=config))
    if chosen is None:
        return None
    name, settings = chosen
    if settings.get("data_files"):  # given, because `datasets` would also look for the files of the other configs
        return folder, {"name": name, "data_files": settings["data_files"]}
    return folder / settings.get("data_dir", ""), {}


def _config_in_card(card: str | Path | None, name: HubDataset) -> tuple[str, dict[str, Any]] | None:
    """The chosen config's name and settings; None without configs in the card."""
    if card is None:
        return None  # what follows # may be the variant of an official data set
    try:
        configs = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
        chosen = name.config or configs.get_default_config_name()
        files = {config: _files_of(settings) for config, settings in configs.items()}
    except (ValueError, TypeError, AttributeError, YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DatasetError(f"{name}: its card ({_CARD}) must be valid: {reason}. Correct its metadata.") from error
    names = listed(configs)
    if not configs:
        return None
    if chosen is None:
        raise DatasetError(f"{name} has the configs {names}, and none is the default. Choose one: {name.repo_id}#NAME.")
    if chosen not in configs:
        hint = did_you_mean(chosen, configs)
        raise DatasetError(f"{name.repo_id} must have the config after #, got {chosen!r}; it has {names}.{hint}")
    for pattern in files[chosen]:
        if "://" in pattern or pattern.startswith(("/", "\\")) or ".." in PurePosixPath(pattern).parts:
            raise DatasetError(f"{name.repo_id}: its card names files outside of the data set: {pattern!r}.")
    return chosen, configs[chosen]


def _files_of(settings: dict[str, Any]) -> list[str]:
    patterns = sanitize_patterns(settings["data_files"]).values() if settings.get("data_files") else []
    folder = [settings["data_dir"].rstrip("/") + "/*"] if settings.get("data_dir") else []
    return [str(pattern) for part in patterns for pattern in part] or folder


def _patterns(config: tuple[str, dict[str, Any]] | None) -> list[str]:
    """Which files to pull: the config's, or all of a kind that is read."""
    files = _files_of(config[1]) if config else []
    files += [file.replace("**/", "") for file in files]  # which `datasets` also takes for no folder at all
    endings = (form for ending in PULLED_EXTENSIONS for form in (f"*{ending}", f"*{ending.upper()}"))
    return [_CARD, *(files or endings)]


def _no_data(files: list[str]) -> str:
    found = Counter(PurePosixPath(file).suffix for file in files).most_common()
    endings = listed(ending or "nothing" for ending, _ in found)
    return (
        f"it has no data files that are read ({', '.join(TABLE_EXTENSIONS)} or point clouds; pickles and scripts never "
        f"are), but {'files ending in ' + endings if files else 'no files at all'}"
    )


def _missing(name: HubDataset, reason: str) -> DatasetError:
    return DatasetError(
        f"Cannot load a data set from {str(name)!r}: there is no such path here, and on the Hub "
        f"({constants.ENDPOINT}): {reason}. Check the spelling."
    )
