"""Fetching weights from timm's hub: an end in seconds where there is no network, and no word on every try."""

from __future__ import annotations

import logging
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_SECONDS = 10  # in which the host must take a connection


@contextmanager
def tried_once() -> Iterator[None]:
    """While this lasts, huggingface_hub is silent, and asks no host that does not answer: its cache is read either way.

    By itself it tries every file six times, which takes more than a minute without a network.

    Raises:
        ConnectionError: what was asked for is not in the cache, and there is no host to ask.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import logging as talk

    verbosity, offline = talk.get_verbosity(), constants.HF_HUB_OFFLINE
    unanswered = not offline and not _answers(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = offline or unanswered
    talk.set_verbosity(logging.ERROR)
    try:
        yield
    except Exception as error:  # of kinds of its own, and of those of the libraries that it asks with
        raise ConnectionError(_reason(offline, unanswered) or str(error)) from error
    finally:
        constants.HF_HUB_OFFLINE = offline
        talk.set_verbosity(verbosity)


def _reason(offline: bool, unanswered: bool) -> str:
    if unanswered:
        return "its host does not answer, and they are not in the cache"
    return "HF_HUB_OFFLINE is set, and they are not in the cache" if offline else ""


def _answers(address: str) -> bool:
    if urllib.request.getproxies():  # which answers in the host's place
        return True
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), _SECONDS).close()
    except OSError:
        return False
    return True
