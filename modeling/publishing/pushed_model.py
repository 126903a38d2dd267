"""Pushing a model: it is saved into a temporary folder, whose files are pushed in one commit."""

import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from .model_card import model_card
from .model_description import describe
from .push import push_files, pushed_files

PUSH_OPTIONS = ("commit_message", "private", "token", "revision", "create_pr")
"""Those of a model's `save_pretrained(push_to_hub=True)` that are for the push."""


class PushMethods:
    """Methods of a model for the Hub."""

    save_pretrained: Any  # of the model class that inherits this one

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Pushes config, tensors and a model card to the Hub in one commit.

        Args:
            repo_id: `user/name`, or a bare name for the namespace `ANY2POINT_NAMESPACE` or the logged-in user's.
            commit_message: of the commit.
            private: whether a new repository is private; by default as its owner has set.
            token: of the Hub; by default the logged-in user's.
            revision: branch to push to, made if it is not there.
            create_pr: open a pull request instead of committing.

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
                commit_message=commit_message,
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
            )

    def _push_folder(
        self, folder: Path, repo_id: str, commit_message: str = "Upload model", **options: Any
    ) -> CommitInfo:
        """Pushes the folder of the saved model; see `push_to_hub`."""
        model: Any = self
        return push_files(
            pushed_files(folder),
            repo_id,
            card=lambda name: str(model_card(describe(model, options.get("token")), name)),
            commit_message=commit_message,
            **options,
        )
