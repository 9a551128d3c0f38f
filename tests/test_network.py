"""Tests reach no other machine, nor does what they start; what tries is found even if it hides the error."""

import os
import socket
import subprocess
import sys
import urllib.request

import pytest
from no_network import network_tries

ADDRESS = ("192.0.2.1", 80)  # of RFC 5737, which is nobody's


def tries(*hosts: str) -> None:
    found = network_tries()
    assert [line.split(" in ")[0] for line in found] == list(hosts)


def test_a_try_fails_and_is_written_down():
    with pytest.raises(OSError, match=r"reach no network, so not 192\.0\.2\.1"):
        socket.create_connection(ADDRESS, timeout=1)
    tries("192.0.2.1")
    with pytest.raises(OSError, match=r"reach no network, so not example\.org"):
        urllib.request.urlopen("http://example.org", timeout=1)
    tries("example.org")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pytest.raises(OSError, match="reach no network"),
    ):
        datagrams.sendto(b"", ADDRESS)
    tries("192.0.2.1")


SWALLOWS = """
import contextlib, socket
with contextlib.suppress(OSError):
    socket.create_connection(("192.0.2.1", 80), timeout=1)
with contextlib.suppress(OSError):
    socket.getaddrinfo("example.org", 80)
print("done")
"""


def test_so_does_one_of_a_process_that_hides_it():
    done = subprocess.run([sys.executable, "-c", SWALLOWS], capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    tries("192.0.2.1", "example.org")


def test_a_test_with_a_hidden_try_fails(tmp_path):
    (tmp_path / "test_try.py").write_text("import subprocess, sys\ndef test_try():\n")
    with (tmp_path / "test_try.py").open("a") as file:
        file.write(f"    subprocess.run([sys.executable, '-c', {SWALLOWS!r}], check=True)\n")
    folders = os.pathsep.join([os.path.dirname(__file__), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no_network", "-c", os.devnull, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": folders}
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the network was tried: ['192.0.2.1 in -c', 'example.org in -c']" in done.stdout


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
    assert socket.getaddrinfo("localhost", 80)
