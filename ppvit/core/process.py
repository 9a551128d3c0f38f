"""What every process of ppvit needs before it works: threads that wait without burning time, an end in one line."""

from __future__ import annotations

import gc
import io
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ppvit.core.children import end_with_parent
from ppvit.core.errors import one_line_errors
from ppvit.core.launching import errors_to_launcher, started_here
from ppvit.core.stopping import stops_in_one_line

_POLL_SECONDS = 0.2
_LAST_SECONDS = 30.0  # for cleaning up, once DVC has ended
_SHELLS = ("sh", "bash", "dash", "zsh", "fish", "ksh", "busybox")


def share_processors() -> None:
    """Let threads of OpenMP sleep soon while they wait; must be called before torch is loaded, which reads it then.

    By default they spin: beside other work each waits for one that the system has put aside, and all burn processor
    time. Sleeping at once costs a fifth of the speed on an idle machine, so GNU's library, which torch brings on Linux,
    spins a little; ``benchmarks/busy.py`` has the figures. LLVM's and Intel's follow the policy. What the user has set
    stays: either variable, and ``KMP_BLOCKTIME``, which goes before the policy. Processes that this one starts inherit
    it. Nothing is set for OpenBLAS, which numpy brings: no stage was faster with one thread of it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "4000")


@contextmanager
def prepared_process(of_another: bool = False) -> Iterator[None]:
    """The body of a stage or verb: :func:`share_processors`, then errors, SIGTERM and Ctrl-C in one line.

    A stage of DVC ends with DVC, however that ends; what was started by hand does not end with its shell.

    Args:
        of_another: whether this process is a part of another one of ppvit, which will say what stopped it.
    """
    launched = started_here()
    if launched:
        end_with_parent()
        of_another = True
    errors = errors_to_launcher() if launched else one_line_errors()
    with errors, stops_in_one_line("" if of_another else command()):
        share_processors()
        _open_what_is_closed()
        _print_any_letter()
        _quieten_trackers()
        if "DVC_STAGE" in os.environ and not of_another:
            # from a thread: the shell that DVC may have started us with would go on without it
            threading.Thread(target=_end_with_dvc, daemon=True).start()
        yield


@contextmanager
def without_collecting() -> Iterator[None]:
    """For importing: all that is made stays, and looking for garbage among it takes a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def command() -> str:
    """What to type to run this process again."""
    if "DVC_STAGE" in os.environ:
        return "dvc repro"
    program, *arguments = sys.argv
    name = os.path.basename(program)
    return shlex.join(["ppvit" if name == "__main__.py" else name, *arguments])


def _open_what_is_closed() -> None:
    """A caller may have closed an output (``>&-``): what goes there is lost, and nothing else is."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the end


def _print_any_letter() -> None:
    """Print names of classes and files in any encoding of the terminal: what it lacks is escaped, as on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _quieten_trackers() -> None:
    """Python's processes that clean up after killed ones are to do so without a list of what they clean up."""
    quiet, before = "ignore:resource_tracker:UserWarning", os.environ.get("PYTHONWARNINGS")
    if before is None or quiet not in before:
        os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet


def _end_with_dvc() -> None:
    import psutil

    with suppress(psutil.NoSuchProcess):  # it has ended
        dvc = psutil.Process().parent()
        while dvc is not None and dvc.name() in _SHELLS and "-c" in dvc.cmdline():
            dvc = dvc.parent()
        # an orphan's parent is the first process, which in a container can be DVC
        if dvc is not None and (dvc.pid != 1 or any("dvc" in word for word in dvc.cmdline())):
            while dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_LAST_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """While this lasts SIGTERM ends the process as an error does: folders of secrets are removed, processes ended.

    Where :func:`prepared_process` sees to that already, nothing is changed.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
