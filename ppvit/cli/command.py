"""The command with all its verbs, in the order of the help; each answers ``--json``, and its help has an example."""

import typer
from typer.models import CommandInfo

from ppvit.cli import comparing, demo, init, parties, ring, stages, tools, upkeep
from ppvit.cli.answers import answering
from ppvit.cli.base import app
from ppvit.cli.examples import EXAMPLES, epilog

__all__ = ["app", "comparing", "demo", "init", "parties", "ring", "stages", "tools", "upkeep"]


def _complete(group: typer.Typer, of: str = "") -> None:
    def name(command: CommandInfo) -> str:
        return f"{of}{command.name or getattr(command.callback, '__name__', '')}"

    order = [*EXAMPLES]
    group.registered_commands.sort(key=lambda each: order.index(name(each)) if name(each) in order else len(order))
    for command in group.registered_commands:
        if command.callback is not None:
            command.epilog = epilog(name(command))
            command.callback = answering(command.callback)
    for member in group.registered_groups:
        verb, callback = member.typer_instance, member.typer_instance and member.typer_instance.registered_callback
        if verb is not None and callback is not None and callback.callback is not None:
            callback.callback = answering(callback.callback)  # type: ignore[method-assign]  # a field
            member.epilog = epilog(f"{of}{member.name}")
            _complete(verb, f"{of}{member.name} ")


_complete(app)
