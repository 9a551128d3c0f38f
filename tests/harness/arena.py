"""One hostile case: a fork reads the files through the real command, watched and bounded, and is judged."""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CPU_SECONDS = 10
WALL_SECONDS = 300  # for what waits; work ends by its processor time, also on a machine that others keep busy
LEAVE_SECONDS = 20.0  # for what was started and ends by itself
MEMORY = 2 * 2**30
FILE_BYTES = 512 * 2**20
PASSPHRASE = "passphrase"  # in the key ring, the file that holds the one of the locked key
CANARY = "canary"  # made in its folder by every payload of ours, should one run

_PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn", "subprocess.Popen")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethost", "socket.sendto", "urllib.Request", "http.client")
_WRITES = {
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
}
_SHARED = tuple(f"/dev/shm/{name}" for name in ("pym-", "sem.", "mp-", "torch_", "joblib", "loky"))
_UNTOUCHED = ("/etc/passwd", "/etc/shadow", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/stdin", "/dev/tty")
_PICKLE_SAFE = re.compile(
    r"(torch|numpy|collections|_codecs|concurrent\.futures|multiprocessing|builtins\.(set|dict|list|complex|bytearray))\b"
)


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        code: exit code; negative for a signal.
        out, err: what it printed.
        traceback: of an error that it did not tell in a line, else empty.
        events: forbidden things that it did.
        seconds: of processor time; memory_bytes: resident, at most.
        imported: modules that it loaded itself, in their order.
    """

    code: int
    out: str
    err: str
    traceback: str
    events: tuple[str, ...]
    seconds: float
    memory_bytes: int
    imported: tuple[str, ...] = field(default=(), repr=False)

    def faults(self, usual: tuple[str, ...]) -> list[str]:
        """What must not be: everything that breaks the promise of one line, bounds and nothing executed.

        Args:
            usual: lines on stderr that the command prints for untouched files too.
        """
        found = [f"did {event}" for event in self.events]
        lines = [line for line in self.err.splitlines() if line not in usual and not line.startswith("warning: ")]
        if self.traceback:
            found.append("traceback: " + self.traceback)
        elif self.code < 0:
            found.append(f"killed by {signal.Signals(-self.code).name} after {self.seconds:.0f} s")
        elif self.code not in (0, 1, 2):
            found.append(f"exit code {self.code}")
        elif self.code and (len(lines) != 1 or not lines[0].startswith("error: ")):
            found.append(f"not one line: {lines[:4]}")
        elif self.code and len(lines[0]) > 1500:
            found.append(f"a line of {len(lines[0])} characters")
        elif not self.code and any(line.startswith("error") for line in lines):
            found.append(f"an error and exit code 0: {lines[:2]}")
        if unprintable := re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", self.out + self.err):
            found.append(f"printed {unprintable[0]!r}")
        if self.memory_bytes > MEMORY:
            found.append(f"took {self.memory_bytes / 2**20:.0f} MiB")
        return found


def run(arguments: list[str], folder: Path, prepare: Callable[[], None] = lambda: None) -> Ending:
    """Run ``ppvit`` with these arguments in a fork of this process, in the folder, with what is the user's inside it.

    The process must have imported whatever takes long, and must not have computed with torch.

    Args:
        arguments: verb and options.
        folder: absolute; the working folder.
        prepare: called in the fork first.
    """
    streams = [folder / name for name in (".out", ".err", ".told")]
    child = os.fork()
    if not child:
        _become_command(arguments, folder, streams, prepare)
    watched = os.pidfd_open(child)
    if not select.select([watched], [], [], WALL_SECONDS)[0]:
        os.kill(child, signal.SIGKILL)
    os.close(watched)
    _, status, usage = os.wait4(child, 0)
    left = _end_group(child)
    out, err, told = (path.read_text("utf-8", "backslashreplace") if path.exists() else "" for path in streams)
    record = json.loads(told) if told else {"traceback": "", "events": [], "imported": []}
    events = [*record["events"], *left]
    if (folder / CANARY).exists():
        events.append("run a payload")
    events += [f"leave {path.name}" for path in folder.rglob(".*.partial")]
    return Ending(
        os.waitstatus_to_exitcode(status),
        out,
        err,
        record["traceback"],
        tuple(dict.fromkeys(events)),
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        tuple(record["imported"]),
    )


def warm(ending: Ending) -> None:
    """Import here what a command on sound files imported, once for all forks to come."""
    for name in ending.imported:
        with suppress(ImportError, AttributeError):  # some are made by others, such as six.moves
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or forks would copy what the collector touches


def _end_group(child: int) -> list[str]:
    """End what the command left; what ends with it by itself gets a moment to do so."""
    until = time.monotonic() + LEAVE_SECONDS
    while True:
        try:
            os.killpg(child, 0)
        except ProcessLookupError:
            return []
        if not (living := _living(child)):
            return []  # dead, and not yet reaped by the system
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    return [f"leave a process: {', '.join(living)}"]


def _living(group: int) -> list[str]:
    """Command names of the processes of a group that are no zombies, as in proc(5)."""
    names = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = status.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        state, _, of_group = after.split()[:3]
        if int(of_group) == group and state != "Z":
            names.append(before.partition("(")[2])
    return names


def _become_command(arguments: list[str], folder: Path, streams: list[Path], prepare: Callable[[], None]) -> None:
    """Never returns."""
    code, told = 70, ""
    try:
        gc.disable()
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        out, err = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for path in streams[:2])
        for number, descriptor in enumerate((null, out, err)):
            os.dup2(descriptor, number)
        # pytest has put streams of its own in their place
        sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        os.chdir(folder)
        (folder / "tmp").mkdir(exist_ok=True)
        os.environ.update(
            PPVIT_KEYRING="keyring",
            PPVIT_PASSPHRASE_FILE=f"keyring/{PASSPHRASE}",
            PPVIT_SCRATCH="scratch",
            PPVIT_CACHE="cache",
            TMPDIR=str(folder / "tmp"),
        )
        import tempfile

        tempfile.tempdir = None
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        events: list[str] = []
        sys.addaudithook(_watch(folder, events))
        sys.argv = ["ppvit", *arguments]
        before = set(sys.modules)
        from ppvit.cli import run as command

        trace = ""
        try:
            prepare()
            command()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException as error:
            trace = _brief(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        told = json.dumps(
            {
                "traceback": trace,
                "events": events[:20],
                "imported": [each for each in sys.modules if each not in before],
            }
        )
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            streams[2].write_text(told, encoding="utf-8")
        finally:
            os._exit(code)


def _brief(error: BaseException) -> str:
    """Kind and message of an error, and the last lines of ours and of all that it passed through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/ppvit/" in frame.filename]
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*ours[-2:], *frames[-1:])]
    return f"{type(error).__name__}: {str(error)[:150]!r} at {' '.join(dict.fromkeys(places))}"


def _watch(folder: Path, events: list[str]) -> Any:
    """An audit hook (PEP 578) that notes what no file may bring about."""
    inside = str(folder) + os.sep

    def outside(path: Any) -> str | None:
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        text = os.path.abspath(os.fsdecode(path))
        return (
            None
            if (text + os.sep).startswith(inside) or text == os.devnull or text.startswith((*_SHARED, "/proc/self/fd/"))
            else text
        )

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and (text := outside(path)):
                events.append(f"write {text}")
            elif os.fsdecode(path) in _UNTOUCHED:
                events.append(f"open {os.fsdecode(path)}")
        elif event in _WRITES:
            events.extend(f"{event} {text}" for each in _WRITES[event] if (text := outside(arguments[each])))
        elif event == "subprocess.Popen" and _is_git(arguments[1]):
            return
        elif event.startswith(_PROCESSES) or event.startswith(_NETWORK):
            events.append(f"{event} {str(arguments)[:100]}")
        elif event == "pickle.find_class" and not _PICKLE_SAFE.match(".".join(map(str, arguments))):
            events.append(f"{event} {arguments}")

    return hook


def _is_git(command: Any) -> bool:
    taken = (["git", "describe"], ["git", "show"], ["git", "rev-parse"])
    return isinstance(command, list | tuple) and list(command[:2]) in taken
