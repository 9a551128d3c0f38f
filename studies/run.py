"""Run a study: every variant of a size whose result is missing or out of date, or one of them.

python studies/run.py lin2025 tiny                    # a study that was interrupted goes on
python studies/run.py lin2025 tiny/plain-melo_r4-0    # one variant, whether or not it has a result
python studies/run.py lin2025 tiny/plain-melo_r4-0 -S finetune.learning_rate=0.01    # a trial: printed, not kept
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from disk import announce
from measure import Run
from study import STUDIES, Study
from table import write

from ppvit.core.errors import UsageError
from ppvit.core.executor import Executor
from ppvit.core.files import write_json
from ppvit.core.process import prepared_process
from ppvit.core.reading import read_json
from ppvit.core.workers import clustered


def run_all(study: Study, size: str) -> None:
    """Bring all results of a size up to date, and make their tables."""
    variants = study.variants(size)
    if clustered():
        run_on_cluster(study, size)
    for path in set((study.folder / "results" / size).glob("*.json")) - {variant.path for variant in variants}:
        path.unlink()
        print(f"{path.name} removed: no variant has this name", flush=True)
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as folder:
        announce([each for each in variants if not Run(each, Path(folder)).is_current()], Path(folder))
    for number, variant in enumerate(variants, start=1):
        with tempfile.TemporaryDirectory(prefix="ppvit-study-") as folder:
            run = Run(variant, Path(folder))
            if not run.is_current():
                print(f"{number} of {len(variants)}: {variant.name}", flush=True)
                write_json(variant.path, run.result())
    write(study, size)


def run_on_cluster(study: Study, size: str) -> None:
    """Measure what has no result, or one that is out of date by its settings, each variant by a machine of the cluster.

    All machines have this folder and its data, and the environment variables that ``shared.yaml`` asks for.
    """
    variants = [
        variant
        for variant in study.variants(size)
        if not variant.path.exists() or variant.outdated(read_json(variant.path, study.name))
    ]
    for variant in variants[:1]:  # the data are brought by one
        Run(variant, Path()).data_id()
    with Executor(1) as executor:
        commands = (([__file__, study.name, f"{size}/{variant.name}"],) for variant in variants)
        for number, told in enumerate(executor.each(_apart, commands), start=1):
            print(f"{number} of {len(variants)}: {told}", flush=True)


def _apart(command: list[str]) -> str:
    """Run a variant as a process of its own, on one machine; the last line that it said, if it failed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PPVIT_ENGINE")}
    done = subprocess.run([sys.executable, *command], env=own, capture_output=True, text=True, check=False)
    said = done.stderr.strip().rpartition("\n")[2]
    return f"{command[-1]} {f'failed: {said}' if done.returncode else 'done'}"


def run_one(study: Study, size: str, name: str, extra: tuple[str, ...] = ()) -> None:
    """Measure one variant; with ``extra`` overrides print its figures only, as they belong to no table."""
    found = [variant for variant in study.variants(size) if variant.name == name]
    if not found:
        raise UsageError(f"{study.name} has no variant '{name}' of size '{size}'; see the axes in its variants.yaml")
    with tempfile.TemporaryDirectory(prefix="ppvit-study-") as folder:
        result = Run(found[0], Path(folder), extra).result()
    for figure, value in result.items():
        print(f"{figure}: {value}")
    if not extra:
        write_json(found[0].path, result)
        write(study, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a folder here")
    parser.add_argument("what", nargs="?", default="tiny", help="size, or size/variant (default: tiny)")
    parser.add_argument("-S", dest="overrides", action="append", default=[], metavar="section.name=value")
    chosen = parser.parse_args()
    study, (size, _, name) = Study(STUDIES / chosen.study), chosen.what.partition("/")
    if chosen.overrides and not name:
        raise UsageError("-S is for a trial of one variant: name it as size/variant")
    if name:
        run_one(study, size, name, tuple(chosen.overrides))
    else:
        run_all(study, size)


if __name__ == "__main__":
    with prepared_process():
        main()
