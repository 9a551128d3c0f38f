"""What a person does by hand with the key ring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppvit.cli.answers import Answer, Table
from ppvit.cli.base import PARAMS, Params, app
from ppvit.core.errors import printable
from ppvit.places import Places

KeyRing = Annotated[
    Path | None, typer.Option(help="Default: $PPVIT_KEYRING or the user's config folder.", show_default=False)
]


@app.command()
def keys(params: Params = PARAMS, keyring: KeyRing = None) -> Answer:
    """List keys by their ids: labels, how each is kept, what in this project is of it. No secret is shown."""
    from ppvit import config
    from ppvit.verbs import keys

    chosen = config.load(params) if params.exists() else None
    listed = keys.run(chosen, Places.of(chosen or config.load(None)), keyring)
    lines = []
    for each in listed:
        lines.append("  ".join(filter(None, (each.key_id, printable(each.label), each.kept))))
        for name, told in (("problem", each.problem), ("used", ", ".join(each.used))):
            if told:
                lines.append(f"    {name}: {printable(told)}")
    if not listed:
        lines.append("there are no keys; make one: ppvit keygen")
    rows = [(each.key_id, each.label, each.kept, ", ".join(each.used), each.problem) for each in listed]
    return Answer(listed, lines, Table(("key", "label", "kept", "used", "problem"), rows))


@app.command()
def keygen(
    label: Annotated[str, typer.Option(help="A note for you, kept beside the key file.")] = "",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Lock it; $PPVIT_PASSPHRASE_FILE, or you at the terminal, open it.")
    ] = False,
    keychain: Annotated[
        bool,
        typer.Option("--keychain", help="Keep it in the system's keychain, not in a file; needs the extra keychain."),
    ] = False,
    keyring: KeyRing = None,
) -> Answer:
    """Make a secret key and print its public id, for cipher.key_id in params.yaml."""
    from ppvit.ciphers import keys
    from ppvit.ciphers.passphrase import ask

    key = keys.generate()
    locked_by = ask(key.id, new=True) if passphrase else None
    if keychain:
        keys.save_in_keychain(key, keyring, label, locked_by)
        saved = "saved in the keychain of this system"
    else:
        saved = f"saved in {keys.save(key, keyring, label, locked_by)}"
    told = " and remember the passphrase" if passphrase else ""
    typer.echo(f"{saved}; keep a backup of it{told}: without it nothing can be decrypted or predicted", err=True)
    return Answer({"key_id": key.id, "label": label, "passphrase": passphrase, "keychain": keychain}, [key.id])
