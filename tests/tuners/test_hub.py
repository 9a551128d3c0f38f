"""No stage asks a hub for an adapter, whatever is missing from the folder: a hub on this machine is asked nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import make_config, make_places, tiny_backbone, write_raw
from PIL import Image

from ppvit.adaptation.adapt import adapt_model
from ppvit.ciphers import keys
from ppvit.ciphers.keyed import load_cipher
from ppvit.models import save_model
from ppvit.verbs import encrypt, evaluate, finetune, verify

# In a process of its own, since the libraries read the hub's address when they are imported. The folders are named as
# in the pipeline: relative, so that they look like repositories.
DRIVER = """
import json, os, shutil, sys
from pathlib import Path

from ppvit.config import Config
from ppvit.core.errors import PpvitError
from ppvit.export import export
from ppvit.places import Places
from ppvit.tuners import export_lora, load_adapter
from ppvit.verbs import evaluate, predict, robustness, verify

config = Config.model_validate_json(sys.argv[1])
places = Places.of(config)
stages = {
    "evaluate": lambda: evaluate.run(config, places),
    "verify": lambda: verify.run(config, places),
    "robustness": lambda: robustness.run(config, places),
    "predict": lambda: predict.run(config, places, [Path("query.png")]),
    "export": lambda: export(config, places, Path("exported")),
    "export_lora": lambda: export_lora(load_adapter(places.adapted, places.finetuned, 3), Path("lora")),
}
told = {}
whole = Path("models/whole")
shutil.copytree("models/finetuned", whole)
for damage in ("adapter_model.safetensors", "adapter_config.json", "base"):
    shutil.rmtree("models/finetuned")
    shutil.copytree(whole, "models/finetuned")
    if damage == "base":
        path = Path("models/finetuned/adapter_config.json")
        path.write_text(path.read_text().replace("models/adapted", "somebody/model"))
    else:
        Path("models/finetuned", damage).unlink()
    for stage in ("predict", "export", "export_lora") if damage == "base" else stages:
        run = stages[stage]
        try:
            run()
            told[f"{damage} {stage}"] = ""
        except PpvitError as error:
            told[f"{damage} {stage}"] = str(error)
asked = len(Path(sys.argv[2]).read_text())

# what was done before: the library asks, so that this test would see it
import peft
from ppvit.models import load_model

shutil.rmtree("models/finetuned")
try:
    peft.PeftModel.from_pretrained(load_model(places.adapted, "adapt", 3), "models/finetuned")
except Exception:
    pass
print(json.dumps([told, asked, len(Path(sys.argv[2]).read_text())]))
"""


@pytest.fixture
def hub(tmp_path) -> Iterator[tuple[str, Path]]:
    """Address of a hub that has nothing, and the file in which it notes what it is asked for."""
    log = tmp_path / "asked"
    log.touch()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with log.open("a") as file:
                file.write(self.path + "\n")
            self.send_error(404)

        do_HEAD = do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", log
    server.shutdown()
    server.server_close()
    thread.join()


def test_no_stage_asks_for_an_adapter(tmp_path, hub):
    address, log = hub
    root = tmp_path / "run"
    key = keys.Key(bytes(range(32)))
    keys.save(key, Path(os.environ["PPVIT_KEYRING"]), "")
    config = make_config(
        dataset={"image_size": 16},
        cipher={"key_id": key.id, "name": "block", "block_size": 4},
        finetune={"rank": 2, "epochs": 1, "batch_size": 8},
        robustness={"attack": "pgd", "images": 2},
    )
    places = make_places(root, config)
    write_raw(places.raw, {"train": 24, "test": 12})
    encrypt.run(config, places)
    cipher, backbone = load_cipher(config), tiny_backbone()
    adapt_model(backbone, cipher)
    save_model(places.adapted, backbone, {**cipher.record, "model": config.model.name, "adapted": True})
    here = Path.cwd()
    os.chdir(root)  # so that the adapter names its base as the pipeline does
    try:
        finetune.run(config, make_places(Path(), config))
    finally:
        os.chdir(here)
    evaluate.run(config, places)
    verify.run(config, places)
    Image.new("RGB", (16, 16)).save(root / "query.png")
    paths = os.pathsep.join([str(here), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "HF_ENDPOINT": address, "PYTHONPATH": paths}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", DRIVER, config.model_dump_json(), str(log)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told, asked, asked_before = json.loads(done.stdout.splitlines()[-1])
    assert asked == 0, log.read_text()
    assert asked_before > 0
    for case, line in told.items():
        missing, stage = case.split()
        assert line.count("\n") == 0
        if missing != "base":
            assert line, case
            assert missing in line or stage == "export", case  # which sees another identity first
        else:
            assert bool(line) == (stage == "export"), line
