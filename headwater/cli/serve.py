"""The command that answers applications: serve."""

from __future__ import annotations

from pathlib import Path

import click

from headwater.cli.options import kb_option, open_kb


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option("--insecure", is_flag=True, help="Let a network in although no key is configured.")
@click.option("--new-key", metavar="NAME", help="Print a fresh key, shown this once, and stop.")
@kb_option
def serve(host: str, port: int, insecure: bool, new_key: str | None, kb_path: Path) -> int:
    """Answer searches over HTTP, for applications that are not Python, until interrupted.

    GET /openapi.json says what can be asked. Who may ask is in headwater.yaml under 'serving';
    without keys there, this machine alone may. The service follows what is published.
    """
    if new_key is not None:
        from headwater.serving.keys import new_key as make_key

        key, lines = make_key(new_key)
        click.echo(f"{key}\n\nThis key is shown once. Add to headwater.yaml:\n\n{lines}")
        return 0
    from headwater.serving.server import serve as run

    def ready(url: str, note: str) -> None:
        click.echo(f"Serving {kb.config.name} at {url} (Ctrl-C stops)", err=True)
        if note:
            click.echo(f"headwater: {note}", err=True)

    kb = open_kb(kb_path)
    run(kb, host=host, port=port, insecure=insecure, ready=ready)
    return 0


SERVE = (serve,)
