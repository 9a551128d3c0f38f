"""One party in a process of its own, as the stage ``he`` starts it: ``python -m ppvit.he.parties <verb> [<folder>]``.

The trainer is given its folder and nothing else, and loads nothing of the owner's. The owner's parties read settings
and places from their standard input. People use ``ppvit he``, whose verbs do the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppvit.core.children import end_with_parent
from ppvit.core.process import prepared_process

if TYPE_CHECKING:  # the trainer loads none of these
    from ppvit.config import Config
    from ppvit.he.parties.folders import OwnersFiles
    from ppvit.places import Places


def main(verb: str, folder: str = "") -> None:
    """Be a party; what the verb does not need is not loaded.

    Args:
        verb: keys, encrypt, train, refresh or decrypt.
        folder: the trainer's, for ``train``; the others read a task, see :func:`_read_task`.
    """
    if verb == "train":
        from ppvit.he.parties import trainer

        trainer.run(Path(folder))
        return
    config, places, owners, trainers = _read_task(sys.stdin.read())
    if verb == "decrypt":
        from ppvit.he.parties import head

        head.run(config, places, owners, trainers)
        return
    from ppvit.he.parties import owner

    if verb == "refresh":
        owner.refresh(owners, trainers)
    elif verb == "keys":
        owner.make_keys(config, places, owners, trainers, train_here=True)
    else:
        owner.encrypt(config, places, owners, trainers)


def _read_task(text: str) -> tuple[Config, Places, OwnersFiles, Path]:
    """Settings, places, and the owner's and the trainer's files, as the stage wrote them."""
    from ppvit.config import Config
    from ppvit.he.parties.folders import OwnersFiles
    from ppvit.places import Places

    task = json.loads(text)
    places, owner = ({name: Path(path) for name, path in task[kind].items()} for kind in ("places", "owner"))
    kinds: dict[str, Any] = {name: field.annotation for name, field in Config.model_fields.items()}
    sections = {name: kinds[name].model_validate(values) for name, values in task["config"].items()}
    config = Config.model_construct(set(sections), **sections)  # the stage reads a few sections alone
    return config, Places(**places), OwnersFiles(**owner), Path(task["trainer"])


if __name__ == "__main__":
    end_with_parent()
    with prepared_process(of_another=True):
        main(*sys.argv[1:])
