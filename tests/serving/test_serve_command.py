"""`headwater serve` as its own process: start, keys, refusals and the way it stops."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

HEADWATER = str(Path(sys.executable).with_name("headwater"))


def run(*arguments):
    """The command, run to its end."""
    return subprocess.run(
        [HEADWATER, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def started(root, *arguments):
    """The command on a free port: the process, and the URL that it prints."""
    command = [HEADWATER, "serve", "--port", "0", "--kb", str(root), *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            found = re.search(r"http://\S+", line)
            assert found, line + process.stderr.read()
            yield process, found[0]
        finally:
            process.kill()


def fetched(url, **headers):
    """The JSON of a GET."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as reply:
        return json.load(reply)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop_and_then_ends_well(base, number):
    """It prints where it is, answers, and ends with 0 and without a traceback."""
    name = base.publish(base.first)
    with started(base.root) as (process, url):
        assert fetched(f"{url}/search?q=tea&k=1")["snapshot"] == name
        assert fetched(f"{url}/status")["fresh"]
        process.send_signal(number)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in rest, rest


def test_an_empty_knowledge_base_is_served_with_a_note(base):
    """It starts, says what to do, and answers after the first publication."""
    with started(base.root) as (process, url):
        assert "Nothing is published yet" in process.stderr.readline()
        assert "headwater refresh" in process.stderr.readline()
        assert fetched(f"{url}/healthz") == {"alive": True}
        name = base.publish(base.first)
        assert fetched(f"{url}/search?q=tea")["snapshot"] == name


def test_a_network_is_not_let_in_without_keys(base):
    """Exit code 2 and the way out; with a key, or on purpose, it starts."""
    base.publish(base.first)
    refused = run("serve", "--host", "0.0.0.0", "--port", "0", "--kb", str(base.root))
    assert refused.returncode == 2
    assert "--new-key" in refused.stderr and "--insecure" in refused.stderr
    made = run("serve", "--new-key", "app")
    assert made.returncode == 0
    key = made.stdout.split()[0]
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert made.stdout.count(key) == 1 and digest in made.stdout
    base.configure(serving={"api_keys": [{"name": "app", "sha256": digest}]})
    with started(base.root, "--host", "0.0.0.0") as (_, url):
        local = url.replace("0.0.0.0", "127.0.0.1")
        assert fetched(f"{local}/status", Authorization=f"Bearer {key}")["fresh"]


def test_what_cannot_be_served_is_said_at_the_start(base, tmp_path):
    """A port that is taken, a folder that is no knowledge base, a damaged store: no traceback."""
    base.publish(base.first)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        busy = run("serve", "--port", port, "--kb", str(base.root))
    assert busy.returncode == 2 and f"127.0.0.1:{port}" in busy.stderr
    elsewhere = run("serve", "--port", "0", "--kb", str(tmp_path / "nowhere"))
    assert elsewhere.returncode == 2 and "no knowledge base" in elsewhere.stderr
    (base.root / "store" / "CURRENT").write_text("nonsense\n")
    damaged = run("serve", "--port", "0", "--kb", str(base.root))
    assert damaged.returncode == 6 and "CURRENT is damaged" in damaged.stderr
    for done in (busy, elsewhere, damaged):
        assert "Traceback" not in done.stderr


def test_without_its_extra_the_command_says_what_to_install(base, tmp_path):
    """Where FastAPI is missing: exit code 10, and the name of the extra."""
    (tmp_path / "fastapi.py").write_text("raise ImportError('not here', name='fastapi')\n")
    done = subprocess.run(
        [HEADWATER, "serve", "--port", "0", "--kb", str(base.root)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 10 and "headwater[serve]" in done.stderr, done.stderr
