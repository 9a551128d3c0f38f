"""One party in a process of its own, as the stage ``he`` starts it: ``python -m ppvit.he.parties <verb> <paths>``.

The trainer is given its folder and nothing else, and loads nothing of the owner's. People use ``ppvit he``, whose verbs
do the same.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ppvit.core.process import prepared_process, sigterm_exits

if TYPE_CHECKING:  # the trainer loads neither
    from ppvit.config import Config
    from ppvit.places import Places


def main(verb: str, *paths: str) -> None:
    """Be a party; what the verb does not need is not loaded.

    Args:
        verb: keys, encrypt, train, refresh or decrypt.
        paths: ``train``: the trainer's folder; ``refresh``: the owner's and the trainer's; others: a file that the
            stage wrote, see :func:`_task`.
    """
    given = [Path(path) for path in paths]
    if verb == "train":
        from ppvit.he.parties import trainer

        trainer.run(*given)
    elif verb == "decrypt":
        from ppvit.he.parties import head

        head.run(*_task(given[0]))
    else:
        from ppvit.he.parties import owner

        if verb == "refresh":
            owner.refresh(*given)
        elif verb == "keys":
            owner.make_keys(*_task(given[0]), train_here=True)
        else:
            owner.encrypt(*_task(given[0]))


def _task(path: Path) -> tuple[Config, Places, Path, Path]:
    """What the stage pickled, in a folder of its own: settings, places, the owner's and the trainer's folder."""
    task: tuple[Config, Places, Path, Path] = pickle.loads(path.read_bytes())
    return task


if __name__ == "__main__":
    with prepared_process(), sigterm_exits():
        main(*sys.argv[1:])
