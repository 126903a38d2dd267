"""Pushing a model: it is saved into a temporary folder, whose files are pushed in one commit."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from .model_card import model_card
from .model_description import describe
from .push import files_of_processor, push_files, pushed_files

PUSH_OPTIONS = (
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
    "tags",
    "processor",
)
"""Those of a model's `save_pretrained(push_to_hub=True)` that are for the push."""


class PushMethods:
    """Methods of a model for the Hub."""

    save_pretrained: Any  # of the model class that inherits this one
    processor: Any = None
    """The model's `Any2PointProcessor`, pushed beside it, where a trainer or a pipeline has told which one it is."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        processor: Any = None,
        commit_message: str = "Upload model",
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = None,
        tags: str | Sequence[str] = (),
    ) -> CommitInfo:
        """Pushes config, tensors, processor and a model card to the Hub in one commit.

        Args:
            repo_id: `user/name`, or a bare name for the namespace `ANY2POINT_NAMESPACE` or the logged-in user's.
            processor: the model's `Any2PointProcessor`, without which no pipeline can use the repository; by default
                the one that `make_trainer` or a pipeline was made with.
            commit_message: of the commit.
            commit_description: of the commit, below its message.
            private: whether a new repository is private; by default as its owner has set.
            token: of the Hub; by default the logged-in user's.
            revision: branch to push to, made if it is not there.
            create_pr: open a pull request instead of committing.
            max_shard_size: taken, but of no effect: the tensors of an adapter are one file.
            tags: added to those of the card.

        Returns:
            The commit, a string that is its URL.

        Raises:
            HubError: the Hub does not answer, refuses or breaks off; the repository is as it was.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return self._push_folder(
                Path(folder),
                repo_id,
                processor=processor,
                commit_message=commit_message,
                commit_description=commit_description,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                tags=tags,
            )

    def _push_folder(
        self,
        folder: Path,
        repo_id: str,
        processor: Any = None,
        commit_message: str = "Upload model",
        tags: str | Sequence[str] = (),
        **options: Any,
    ) -> CommitInfo:
        model: Any = self
        processor, files = processor or self.processor, pushed_files(folder)
        if processor is not None:
            files |= files_of_processor(processor.to_json_string())
        return push_files(
            files,
            repo_id,
            card=lambda name: str(model_card(describe(model, options.get("token")), name)),
            commit_message=commit_message,
            tags=[tags] if isinstance(tags, str) else tags,
            **options,
        )
