"""Keeps every process of the tests on this machine; a try to leave it fails, and is written down for the test to fail.

`tests/conftest.py` puts this folder into PYTHONPATH, so that Python imports the file in every process that tests start.
A look at a hub that is swallowed by an ``except`` is found that way, too.
"""

import errno
import os
import sys

TRIES = "PPVIT_TESTS_NETWORK_TRIES"
"""environment variable: file that tries are appended to, a line each"""

_HERE = ("127.", "::1", "localhost", "0.0.0.0", "::")
_LOOKS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}


def watch(event: str, arguments: tuple) -> None:
    """An audit hook, see :func:`sys.addaudithook`.

    Raises:
        OSError: the event reaches for another machine.
    """
    if event not in _LOOKS:
        return
    host = arguments[_LOOKS[event]]
    if isinstance(host, tuple):  # of an internet socket; those of Unix have paths
        host = host[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        return
    host = host.decode(errors="replace") if isinstance(host, bytes) else host
    if not isinstance(host, str) or not host or host.startswith(_HERE) or host == os.uname().nodename:
        return
    if TRIES in os.environ:
        with open(os.environ[TRIES], "a", encoding="utf-8") as file:
            file.write(f"{host} in {' '.join(sys.argv[:2])}\n")
    raise OSError(errno.ENETUNREACH, f"tests reach no network, so not {host}")


if not hasattr(sys, "ppvit_network_watched"):
    sys.ppvit_network_watched = True  # type: ignore[attr-defined]
    sys.addaudithook(watch)
