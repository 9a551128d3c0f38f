"""The trainer in a process of its own, as the stage ``he`` starts it: ``python -m ppvit.he.parties FOLDER``.

It is given its folder and nothing else, and loads nothing of the owner's. People use ``ppvit he train``, which does the
same.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ppvit.core.children import end_with_parent
from ppvit.core.process import prepared_process

if __name__ == "__main__":
    end_with_parent()
    with prepared_process(of_another=True):
        from ppvit.he.parties import trainer

        trainer.run(Path(sys.argv[1]))
