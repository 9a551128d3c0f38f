"""What the scripts in `stages/` do, which DVC starts; the same as the verbs without an option."""

from __future__ import annotations

from pathlib import Path

from ppvit.core.process import prepared_process


def main(script: str) -> None:
    """Run the stage whose script is called, as DVC does: parameters and places of the folder it is in."""
    with prepared_process():
        from ppvit.cli.template import require_version
        from ppvit.config import load
        from ppvit.pipeline import STAGES
        from ppvit.pipeline.settings import write_settings
        from ppvit.places import Places, keep_to_owner

        require_version()
        config, name = load(), Path(script).stem
        if name == "settings":
            write_settings(config)
        else:
            stage, places = STAGES[name], Places.of(config)
            if "raw" in (*stage.inputs, *stage.outputs):  # every time: DVC restores it open to all
                keep_to_owner(places.raw)
            stage.run_as_asked(config, places)
