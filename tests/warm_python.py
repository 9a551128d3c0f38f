"""An interpreter for stages and DVC that starts at once: forks of one process that has imported what nearly all import.

Importing torch, timm and peft takes a stage of the pipeline's tests ten times as long as its work. A stage sees its own
working folder, environment, arguments and streams, and imports `ppvit` itself. Not for what depends on how an
interpreter starts: its options, variables that Python or OpenMP read at once, and which packages are loaded.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType

IMPORTED = (
    *("torch", "timm", "peft", "accelerate", "sklearn.model_selection", "webdataset", "skimage.metrics"),
    *("torchmetrics.classification", "dvclive.live", "dvc.cli.parser", "dvc.repo.experiments.queue.workspace"),
)
_CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
message = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(message).to_bytes(8, "big")], [0, 1, 2])
server.sendall(message)
sys.exit(int(server.recv(16) or 1))
"""


class WarmPython:
    """A server of interpreters, which ends with this process.

    ``path`` is a program that is used as python is, with a script, ``-c`` or ``-m``, and arguments. What is killed is
    the client, whose interpreter goes on; where a signal ended that, the exit code is what a shell makes of it.
    """

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="ppvit-warm-"))  # short, since addresses of sockets are
        self.path = folder / "python"
        address = str(folder / "s")
        self.path.write_text(_CLIENT.format(python=sys.executable, address=address))
        self.path.chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._ready = False

    def wait(self) -> None:
        """Until it answers: it takes some seconds to import, in which others can be made ready."""
        if not self._ready:
            assert self._server.stdout.readline() == b"ready\n"
            self._ready = True


@cache
def shared() -> WarmPython:
    """The one for all tests of this process, started when it is asked for first."""
    return WarmPython()


def python() -> str:
    """The program of :func:`shared`, when it answers."""
    shared().wait()
    return str(shared().path)


def serve(address: str) -> None:
    gc.disable()  # until a fork works
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # or forks would copy what the collector touches
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    print("ready", flush=True)
    while True:
        if sys.stdin in select.select([server, sys.stdin], [], [])[0]:  # who asks has ended
            shutil.rmtree(Path(address).parent)
            return
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            if os.fork() == 0:  # this one waits and tells how the script ended
                script = _receive(client)
                break
            os._exit(0)
        client.close()
        os.wait()  # for the first fork, which has ended already
    if worker := os.fork():
        _, status = os.waitpid(worker, 0)
        code = os.waitstatus_to_exitcode(status)
        client.sendall(str(code if code >= 0 else 128 - code).encode())
        os._exit(0)
    client.close()
    gc.enable()
    _end(_run(script))


def _run(arguments: list[str]) -> int:
    """The exit code of a script, a module or code, as a new interpreter is given them."""
    sys.orig_argv = [sys.executable, *arguments]
    what, *sys.argv = arguments if arguments[0] in ("-c", "-m") else ["script", *arguments]
    first = str(Path(sys.argv[0]).resolve().parent) if what == "script" else os.getcwd() if what == "-m" else ""
    sys.path[:1] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        if what == "-m":
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        elif what == "-c":
            code, sys.argv[0] = sys.argv[0], "-c"
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(code, vars(main))
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit_:
        if exit_.code is None or isinstance(exit_.code, int):
            return exit_.code or 0
        print(exit_.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> None:
    """As the interpreter ends, but without giving back what was imported: that takes a fork several seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _receive(client: socket.socket) -> list[str]:
    """Become what the client is: its streams, folder and environment; returns the script and its arguments."""
    size, streams, _, _ = socket.recv_fds(client, 8, 3)
    message = b""
    while len(message) < int.from_bytes(size, "big"):
        message += client.recv(65536)
    arguments, folder, environment = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return arguments


if __name__ == "__main__":
    serve(sys.argv[1])
