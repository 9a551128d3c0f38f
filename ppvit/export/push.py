"""Sending an export to the Hugging Face Hub, whole or not at all: one commit, and no repository left of a failure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppvit.core.errors import PpvitError, UsageError
from ppvit.export.names import CARD, FILES, RECORD

if TYPE_CHECKING:
    from huggingface_hub import HfApi


_SILENT_SECONDS = 60  # of the Hub, after which it counts as out of reach


@dataclass(frozen=True)
class Repository:
    """A model repository of the Hub, which may be still to be made.

    Attributes:
        name: ``owner/name``, or a name alone, which is then one's own.
        public: whether it is made for all to see; one that is there stays as it is.
    """

    name: str
    public: bool = False

    @classmethod
    def ready(cls, name: str, with_key_material: bool, public: bool = False) -> Repository:
        """Check all that can be checked before there is anything to send.

        Raises:
            UsageError: no name of a repository; tensors that reveal the key are to be exported.
            PpvitError: the Hub cannot be reached, or does not know the user.
        """
        from huggingface_hub import HfApi, get_session
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in an __all__

        if with_key_material:
            raise UsageError("--push sends nothing that reveals the key; leave out --push or --with-key-material")
        try:
            validate_repo_id(name)
            get_session().timeout = _SILENT_SECONDS  # by default it waits for ever
            api = HfApi()
            user = api.whoami()["name"]
            api.repo_exists(name)
        except HFValidationError:
            raise UsageError(
                f"--push {name[:100]}: a repository is named as somebody/name, of letters, digits and . _ -"
            ) from None
        except Exception as error:
            raise PpvitError(f"nothing was sent: {_why(error, name)}") from None
        return cls(name if "/" in name else f"{user}/{name}", public)

    def push(self, folder: Path) -> str:
        """Send an export, replacing what an earlier one left there; the repository is made where there is none.

        Args:
            folder: as :func:`ppvit.export.export` wrote it, without key material; no other file in it is sent.

        Returns:
            The address of the repository.

        Raises:
            PpvitError: the Hub refused something or could not be reached; the repository is as it was before.
        """
        from huggingface_hub import HfApi, ModelCard

        api, made = HfApi(), False
        try:
            ModelCard((folder / CARD).read_text(encoding="utf-8")).validate()
            if not api.repo_exists(self.name):
                api.create_repo(self.name, private=not self.public)
                made = True
            operations = self._operations(api, folder)
            api.create_commit(self.name, operations, commit_message="Export of ppvit")
        except BaseException as error:  # of Ctrl-C too
            left = ""
            if made:
                left = f"an empty repository {self.name} is left there, delete it; "
                with suppress(Exception):
                    api.delete_repo(self.name)
                    left = ""
            if not isinstance(error, Exception):
                raise
            raise PpvitError(
                f"nothing of {folder} was sent: {_why(error, self.name)}; {left}{folder} is whole: run again with "
                f"--force, or {shlex.join(['hf', 'upload', self.name, str(folder)])}"
            ) from None
        return f"{api.endpoint}/{self.name}"

    def _operations(self, api: HfApi, folder: Path) -> list[Any]:
        """All files of the export, and the removal of those that only an earlier one had."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        ours = (RECORD, CARD, *FILES)
        sent = [name for name in ours if (folder / name).is_file()]
        stale = [name for name in api.list_repo_files(self.name) if name in ours and name not in sent]
        added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in sent]
        return [*added, *(CommitOperationDelete(path_in_repo=name) for name in stale)]


def _why(error: BaseException, name: str) -> str:
    """What the Hub or the way to it lacks, and the remedy."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    login = "`hf auth login`, or set HF_TOKEN to a token that may write"
    known = (OfflineModeIsEnabled, LocalTokenNotFoundError, HfHubHTTPError)
    error = next((each for each in _led_to(error) if isinstance(each, known)), error)
    text = " ".join(str(error).split())[:300]
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids it; unset it"
    if isinstance(error, LocalTokenNotFoundError):
        return f"there is no token of the Hub here; {login}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return f"the Hub does not know your token; {login}"
        if status == 403:
            return f"your token may not write to {name}; {login}"
        remedy = "try again later" if status >= 500 or status == 429 else "see whether HF_ENDPOINT is right"
        return f"the Hub answered {status} ({text}); {remedy}"
    if isinstance(error, KeyError | TypeError | json.JSONDecodeError):
        return "what answered is not the Hub, or something on the way to it; see whether HF_ENDPOINT is right"
    if type(error) is ValueError:  # of what checks the card
        return f"the Hub refuses the card ({text}); see --license"
    return f"the Hub cannot be reached ({type(error).__name__}: {text}); check the network"


def _led_to(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from: uploads wrap the Hub's answer."""
    while error is not None:
        yield error
        error = error.__cause__
