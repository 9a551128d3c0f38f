"""One party in a process of its own, as the stage ``he`` starts it: ``python -m ppvit.he.parties <verb> <paths>``.

The trainer is given its folder and nothing else, and loads nothing of the owner's. People use ``ppvit he``, whose verbs
do the same.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from ppvit.core.process import prepared_process, sigterm_exits


def main(verb: str, *paths: str) -> None:
    """Be a party; what the verb does not need is not loaded.

    Args:
        verb: keys, encrypt, train, refresh or decrypt.
        paths: ``train``: the trainer's folder; ``refresh``: the owner's and the trainer's; others: a file with the
            pickled arguments of the owner's function, from the stage.
    """
    given = [Path(path) for path in paths]
    if verb == "train":
        from ppvit.he.parties import trainer

        trainer.run(*given)
    elif verb == "decrypt":
        from ppvit.he.parties import head

        head.run(*pickle.loads(given[0].read_bytes()))
    else:
        from ppvit.he.parties import owner

        if verb == "refresh":
            owner.refresh(*given)
        elif verb == "keys":
            owner.make_keys(*pickle.loads(given[0].read_bytes()), train_here=True)
        else:
            owner.encrypt(*pickle.loads(given[0].read_bytes()))


if __name__ == "__main__":
    with prepared_process(), sigterm_exits():
        main(*sys.argv[1:])
