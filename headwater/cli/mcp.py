"""The command that offers the knowledge base to agents: mcp."""

from __future__ import annotations

from pathlib import Path

import click

from headwater.cli.options import kb_option, open_kb


@click.command()
@click.option("--http", is_flag=True, help="Streamable HTTP, instead of standard input and output.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="With --http: where to listen."
)
@click.option(
    "--port",
    default=8001,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="With --http; 0: a free one.",
)
@click.option("--insecure", is_flag=True, help="With --http: let a network in without a key.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    help="Without --http: what the agent may see; everything if left out.",
)
@kb_option
def mcp(
    http: bool, host: str, port: int, insecure: bool, labels: tuple[str, ...], kb_path: Path
) -> int:
    """Offer the knowledge base to an agent as tools, by the Model Context Protocol.

    An agent's configuration names this command: 'headwater mcp --kb DIR'. With --http it serves
    many of them, with the keys of headwater.yaml. docs/mcp.md has both.
    """
    from headwater.serving.mcp_server import serve_http, serve_stdio

    kb = open_kb(kb_path)
    if not http:
        serve_stdio(kb, labels=labels)
        return 0
    if labels:
        raise click.UsageError(
            "--label is for standard input and output; over HTTP keys have labels"
        )

    def ready(url: str) -> None:
        click.echo(f"Serving {kb.config.name} to agents at {url} (Ctrl-C stops)", err=True)

    serve_http(kb, host=host, port=port, insecure=insecure, ready=ready)
    return 0


MCP = (mcp,)
