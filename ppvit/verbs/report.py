"""Write one page from all results."""

from __future__ import annotations

from ppvit.config import Config
from ppvit.places import Places
from ppvit.report.page import write_page


def run(config: Config, places: Places) -> None:
    """Write the page and print its summary.

    Args:
        config: the parameters that were read, shown in the page.
        places: ``raw`` (for examples and class names), ``finetuned`` (which results must be of) and all results are
            read; ``page`` is written.

    Raises:
        PpvitError: a result is missing.
    """
    print(write_page(config, places))
