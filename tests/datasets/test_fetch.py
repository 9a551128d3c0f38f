"""Downloads: verified, resumed where the server can, restarted cleanly where it cannot; a local server stands in."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ppvit.config import NO_DATA
from ppvit.core.errors import PpvitError
from ppvit.datasets import fetch as fetch_module
from ppvit.datasets import open_source
from ppvit.datasets.fetch import fetch

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; the first ``cuts`` answers end after ``cut_at`` bytes; ``log`` holds every Range header."""

    cuts, cut_at, ranges, status, content = 0, 400_000, True, 200, CONTENT

    def url(self, name="file.bin"):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.log.append(wanted)
        if server.status != 200:
            return self.send_error(server.status)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges else 0
        if start >= len(server.content) and start:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            body = body[: server.cut_at]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch_module.time, "sleep", lambda _: None)
    server = Server(("127.0.0.1", 0), Handler)
    server.log = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_download_then_nothing_more(server, tmp_path):
    target = tmp_path / "cache/file.bin"
    assert fetch((server.url(),), target, MD5) == target
    assert target.read_bytes() == CONTENT
    fetch((server.url(),), target, MD5)
    assert server.log == [None]
    assert not list(target.parent.glob("*.part"))


def test_an_interrupted_transfer_goes_on_by_itself(server, tmp_path):
    server.cuts = 2
    fetch((server.url(),), tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.log == [None, "bytes=400000-", "bytes=800000-"]


def test_the_next_run_resumes_what_was_left(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    fetch((server.url(),), tmp_path / "file.bin", MD5)
    assert server.log == ["bytes=1000-"]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_stopped_just_before_the_renaming(server, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    fetch((server.url(),), tmp_path / "file.bin", MD5)
    assert server.log == []
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_means_a_clean_restart(server, tmp_path):
    server.cuts, server.ranges = 1, False
    fetch((server.url(),), tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5)])
def test_a_part_of_another_file_means_a_clean_restart(server, tmp_path, left):
    (tmp_path / "file.bin.part").write_bytes(left)
    fetch((server.url(),), tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_wrong_checksum_is_an_error_and_nothing_stays(server, tmp_path):
    server.content = b"not what was published"
    with pytest.raises(PpvitError, match=r"MD5 [0-9a-f]{32} instead of") as caught:
        fetch((server.url(),), tmp_path / "file.bin", MD5)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_spoilt_file_in_the_cache_is_fetched_again(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(b"spoilt")
    fetch((server.url(),), tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_the_second_mirror_is_tried(server, tmp_path):
    fetch(("http://127.0.0.1:9/file.bin", server.url()), tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (503, 2)])
def test_a_server_that_refuses_is_named(server, tmp_path, status, tries):
    server.status = status
    with pytest.raises(PpvitError, match=rf"file\.bin from 127\.0\.0\.1.*({status}|Service)"):
        fetch((server.url(),), tmp_path / "file.bin", MD5)
    assert len(server.log) == tries


def test_a_connection_that_keeps_breaking_leaves_its_part_for_the_next_run(server, tmp_path):
    server.cuts, server.cut_at = 99, 1000
    with pytest.raises(PpvitError, match="ended after 4000 of 1024000 bytes"):
        fetch((server.url(),), tmp_path / "file.bin", MD5)
    assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:4000]


def test_too_small_a_disk_is_noticed_before_the_transfer(server, tmp_path, monkeypatch):
    monkeypatch.setattr("ppvit.core.files.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(PpvitError, match="free some space"):
        fetch((server.url(),), tmp_path / "file.bin", MD5)


@pytest.mark.parametrize(
    ("name", "patch", "file"),
    [
        ("pneumoniamnist", "ppvit.datasets.medmnist._URL", "pneumoniamnist.npz"),
        ("imagenette", "ppvit.datasets.imagenette._URL", "imagenette2-320.tgz"),
        ("cifar10", "torchvision.datasets.CIFAR10.url", "cifar-10-python.tar.gz"),
        ("mnist", "torchvision.datasets.MNIST.mirrors", "train-images-idx3-ubyte.gz"),
        ("fashion_mnist", "torchvision.datasets.FashionMNIST.mirrors", "train-images-idx3-ubyte.gz"),
        ("kmnist", "torchvision.datasets.KMNIST.mirrors", "train-images-idx3-ubyte.gz"),
        ("emnist", "torchvision.datasets.EMNIST.url", "gzip.zip"),
        ("svhn", "torchvision.datasets.SVHN.split_list", "train_32x32.mat"),
        ("usps", "torchvision.datasets.USPS.split_list", "usps.bz2"),
        ("stl10", "torchvision.datasets.STL10.url", "stl10_binary.tar.gz"),
    ],
)
def test_without_network_the_error_says_what_to_do(tmp_path, monkeypatch, name, patch, file):
    monkeypatch.setattr(fetch_module.time, "sleep", lambda _: None)
    dead = "http://127.0.0.1:9/"
    lists = {"mirrors": [dead], "split_list": {split: [dead, file, "0" * 32] for split in ("train", "test")}}
    monkeypatch.setattr(patch, lists.get(patch.rpartition(".")[2], f"{dead}{file}"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PpvitError, match=r"; fetch it yourself and set dataset\.path to the file") as caught:
        open_source(name, NO_DATA, tmp_path / "cache", 0.2, 0)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "refused" in str(caught.value)
