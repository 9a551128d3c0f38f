"""A project of one's own: the files that a clone of ppvit has beside its code, in a folder of git and DVC.

What is in ``files`` are links to those of the clone; a wheel has copies. In ``dvc.yaml`` the version of ppvit stands in
place of its code, on which stages depend in a clone.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from pathlib import Path

from ppvit import __version__
from ppvit.core.errors import PpvitError, UsageError

REQUIREMENTS = "requirements.txt"
_FILES = Path(__file__).parent / "files"
_NAMES = {  # in the project: in this package
    ".gitignore": "gitignore",
    ".dvcignore": "dvcignore",
    "README.md": "README.md",
    "data/none": "data_none",
    "data/local/README.md": "data_local.md",
    "models/none": "models_none",
    "models/local/README.md": "models_local.md",
    "stages/python": "python",
    "dvc.yaml": "pipeline.yaml",  # by its own name DVC would take it for another pipeline of the clone
}
_MAY_BE_THERE = {".gitignore", "README.md"}  # as whoever makes repositories writes them
_PLOTS = {"page.html": "dvc_page.html", "calibration.json": "dvc_calibration.json"}  # in .dvc/plots
_DVC_CONFIG = "[core]\n    analytics = false\n[plots]\n    html_template = plots/page.html\n"
_VERSION = re.compile(r"^ppvit(?:\[[\w, -]*\])?\s*==\s*([^\s;#]+)", re.M)


def make_project(folder: Path) -> None:
    """Write a project that ``dvc repro`` runs, and make the folder one of git and DVC where it is none.

    A run that was stopped is taken up again: files that are there and as they should be stay.

    Args:
        folder: may be there, and hold other files; a ``.gitignore`` gets lines added, a ``README.md`` stays.

    Raises:
        UsageError: it is a project already, or has a file that would be overwritten; then nothing is written.
        PpvitError: git is not installed, git or DVC refuse, or the folder cannot be written.
    """
    from ppvit.core.files import atomic_output

    files = _contents()
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"{folder} is a file, or a link that leads nowhere; name a folder, which need not exist")
    written = {name for name, data in files.items() if _is_there(folder / name, data)}
    if written == files.keys() and (folder / ".dvc" / "config").is_file():
        raise UsageError(f"{folder} is a project already; name another folder")
    for name in files.keys() - written - _MAY_BE_THERE:
        if (folder / name).exists():
            raise UsageError(
                f"{folder / name} is there, and would be overwritten; move it away, or name another folder"
            )
    inner = {parent for name in (*files, ".dvc/config") for parent in (folder / name).parents}
    for path in sorted(inner - {folder, *folder.parents}):
        if os.path.lexists(path) and not path.is_dir():
            raise UsageError(f"{path} is a file, where a folder is to be; move it away, or name another folder")
    subdirectory = _prepare_git(folder)
    for name, data in files.items():
        path = folder / name
        if name in written or (name == "README.md" and path.exists()):
            continue
        if path.exists():  # .gitignore
            data = path.read_bytes().rstrip(b"\n") + b"\n\n# of ppvit\n" + data
        with atomic_output(path) as temporary:
            temporary.write_bytes(data)
            temporary.chmod(0o755 if name == "stages/python" else 0o644)
    _prepare_dvc(folder, subdirectory)


def require_version(folder: Path = Path()) -> None:
    """Refuse to run a project's stage with another ppvit than it names: DVC would take the results for that one's.

    Raises:
        PpvitError: names both versions.
    """
    file = folder / REQUIREMENTS
    found = _VERSION.search(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else None
    if found and found[1] != __version__:
        raise PpvitError(
            f"{file} names ppvit {found[1]}, and {__version__} is installed; pip install -r {file}, or write "
            f"{__version__} there, after which all stages run again"
        )


def _is_there(path: Path, data: bytes) -> bool:
    if not path.is_file():
        return False
    there = path.read_bytes()
    return data in there if path.name in _MAY_BE_THERE else data == there


def _contents() -> dict[str, bytes]:
    """The files by their names in the project; ``dvc.yaml`` is the last."""
    from ppvit.config import default_yaml
    from ppvit.config.schema import schema_json
    from ppvit.pipeline import STAGES
    from ppvit.places import EMBEDDED

    script = (_FILES / "stage.txt").read_text(encoding="utf-8")
    files = {
        REQUIREMENTS: "# every stage runs again when this file changes, so other packages belong elsewhere\n"
        f"ppvit[he,robust]=={__version__}\n",
        "params.yaml": default_yaml(),
        "params.schema.json": schema_json(),
        **{f"stages/{name}.py": script.replace("adapt", name) for name in ("settings", *STAGES) if name != "pretrain"},
    }
    texts = {name: (_FILES / source).read_text(encoding="utf-8") for name, source in _NAMES.items()}
    texts["dvc.yaml"] = without_code(texts["dvc.yaml"])
    for name in ("data/local/README.md", "models/local/README.md"):
        texts[name] = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1 of ppvit", texts[name])
    weights = {f"models/pretrained/{EMBEDDED.name}": EMBEDDED.read_bytes()}
    return {name: text.encode() for name, text in files.items()} | weights | {n: t.encode() for n, t in texts.items()}


def without_code(text: str) -> str:
    """The clone's ``dvc.yaml`` for a project: ``requirements.txt`` in place of code, and no embedded model to train."""
    text = re.sub(r"^# Code dependencies.*\n", f"# {REQUIREMENTS} stands for the code of ppvit.\n", text, flags=re.M)
    text = text.replace("#   pretrain   download ->", "#              download ->")
    parts = [part for part in text.split("\n\n") if "\n  pretrain:\n" not in part]
    code = re.compile(r"(?:^      - ppvit/\S+\n)+", re.M)
    return "\n\n".join(code.sub(f"      - {REQUIREMENTS}\n", part) for part in parts)


def _prepare_git(folder: Path) -> bool:
    """Make the folder a repository unless it lies in one; whether it lies deeper in one."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--show-prefix"], cwd=folder, capture_output=True, text=True, check=False
        )
        if found.returncode == 0:
            return bool(found.stdout.strip())
        made = subprocess.run(["git", "init", "--quiet"], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PpvitError("git is not installed, in which DVC keeps experiments; install it") from None
    if made.returncode:
        raise PpvitError(f"git init failed in {folder}: {' '.join(made.stderr.split())}")
    return False


def _prepare_dvc(folder: Path, subdirectory: bool) -> None:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    config = folder / ".dvc" / "config"
    if config.is_file() and config.stat().st_size:
        return
    if not config.is_file():
        try:
            logging.getLogger("dvc.repo.init").setLevel(logging.WARNING)  # it greets
            Repo.init(str(folder), subdir=subdirectory, force=config.parent.exists()).close()
        except DvcException as error:
            raise PpvitError(f"DVC cannot be set up in {folder}: {' '.join(str(error).split())}") from None
    (config.parent / "plots").mkdir(exist_ok=True)
    for name, source in _PLOTS.items():
        (config.parent / "plots" / name).write_bytes((_FILES / source).read_bytes())
    config.write_text(_DVC_CONFIG, encoding="utf-8")  # the last: what it names is there
