"""The process that parses what may crash, hang or eat the memory.

Run as a module it is the child: it reads frames from its input and answers each on its output. The
child has a bound on memory, may write no file, and knows no secret of the parent's environment.
`ParserWorker` is the parent's side: it starts the child, waits no longer than the deadline, and
replaces a child that hung or died.

A frame is four bytes of length (big endian) and JSON; in a request the document's bytes follow.
The answer is JSON and no pickle, as a parser that was taken over could answer anything.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import headwater
from headwater.errors import EnvironmentLacksError, HeadwaterError, ParseError
from headwater.flows.sources.parsing import MAX_TEXT, ParsedDocument
from headwater.flows.sources.parsing.formats import BY_NAME, Format, finish

DEADLINE_S = 30.0
_START_S = 60.0
MEMORY_BYTES = 1_536 << 20
_MODULE = "headwater.flows.sources.parsing.worker"
_RECYCLE_AFTER = 500
_LENGTH = struct.Struct(">I")
# JSON spells a character in up to twelve bytes; more than this no honest child sends.
_LARGEST = 12 * MAX_TEXT + (1 << 20)
_KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
# Each thread reserves address space, which the bound on memory counts.
_THREADS = {"MALLOC_ARENA_MAX": "2", "TOKIO_WORKER_THREADS": "1", "RAYON_NUM_THREADS": "1"}


class ParserWorker:
    """One child process, started with the first document and kept for the next ones.

    Args:
        deadline_s: wall seconds a document may take.
        memory_bytes: address space of the child.
    """

    def __init__(self, *, deadline_s: float = DEADLINE_S, memory_bytes: int = MEMORY_BYTES) -> None:
        self._deadline_s = deadline_s
        self._memory_bytes = memory_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._served = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is no child."""
        return self._child.pid if self._child else None

    def parse(self, fmt: Format, data: bytes, *, name: str, encoding: str) -> ParsedDocument:
        """Parse one document in the child.

        Raises:
            ParseError: the parser refused it, took too long, or took its process down.
            EnvironmentLacksError: no child can be started here.
        """
        child = self._started()
        fresh = self._served == 0
        reply = self._ask(child, fmt, data, name=name, encoding=encoding)
        self._served += 1
        if reply is None or reply.get("last"):
            how = self._end()
            # A verdict must depend on this document alone, not on what earlier ones did to the
            # child: the document is tried again in a fresh one.
            if not fresh:
                return self.parse(fmt, data, name=name, encoding=encoding)
            if reply is None:
                raise ParseError("The document took its parser down", obj=name, todo=how)
        elif self._served >= _RECYCLE_AFTER:
            self.close()
        return _understand(reply, name)

    def _ask(
        self, child: subprocess.Popen[bytes], fmt: Format, data: bytes, *, name: str, encoding: str
    ) -> dict[str, Any] | None:
        """One request and its answer, None when the child died.

        Raises:
            ParseError: it took longer than the deadline; the child is gone.
        """
        header = {"format": fmt.name, "name": name, "encoding": encoding, "size": len(data)}

        def talk(requests: BinaryIO, replies: BinaryIO) -> dict[str, Any] | None:
            _write(requests, header, data)
            return _read(replies)

        reply, expired = _within(self._deadline_s, child, talk)
        if expired:
            self.close()
            raise ParseError(
                "The document took too long", obj=name, todo=f"over {self._deadline_s:g} seconds"
            )
        return reply

    def close(self) -> None:
        """End the child; the next document starts another."""
        child, self._child = self._child, None
        self._served = 0
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _end(self) -> str:
        """End a child that is dying, and say how it ended."""
        code: int | None = None
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._child.wait(timeout=5)
        self.close()
        return f"signal {-code}" if code is not None and code < 0 else f"exit {code}"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.close()
        try:
            child = subprocess.Popen(
                [sys.executable, "-B", "-P", "-m", _MODULE, *self._limits()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=tempfile.gettempdir(),
                env=_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise _cannot_start(str(error)) from None
        self._child = child
        ready, _ = _within(_START_S, child, lambda _, back: _read(back))
        if ready is None:
            self.close()
            raise _cannot_start("it ended before it was ready")
        return child

    def _limits(self) -> list[str]:
        return [str(self._memory_bytes), str(math.ceil(self._deadline_s) + 5)]


def _within(
    seconds: float,
    child: subprocess.Popen[bytes],
    talk: Callable[[BinaryIO, BinaryIO], dict[str, Any] | None],
) -> tuple[dict[str, Any] | None, bool]:
    """Talk to `child`, and kill it after `seconds`; returns its answer and whether it was killed.

    The pipes block, on every system alike; the end of the child is what unblocks them.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        child.kill()

    watch = threading.Timer(seconds, expire)
    watch.daemon = True
    watch.start()
    reply = None
    try:
        reply = talk(cast(BinaryIO, child.stdin), cast(BinaryIO, child.stdout))
    except (OSError, ValueError):
        pass
    finally:
        watch.cancel()
    return reply, expired.is_set()


def _cannot_start(why: str) -> EnvironmentLacksError:
    return EnvironmentLacksError(
        "The parser process does not start",
        obj=why,
        todo=f"try 'python -m {_MODULE}' to see what it says",
    )


def _environment() -> dict[str, str]:
    """Just what a Python needs to start: no secret of ours goes to where documents are read."""
    kept = {key: os.environ[key] for key in _KEPT if key in os.environ}
    package = str(Path(headwater.__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([package, inherited] if inherited else [package])
    return {**kept, **_THREADS, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}


def _understand(reply: dict[str, Any], name: str) -> ParsedDocument:
    if "what" in reply:
        raise ParseError(str(reply["what"]), obj=name, todo=str(reply.get("todo", "")))
    text, title, metadata = reply.get("text"), reply.get("title"), reply.get("metadata")
    if not isinstance(text, str) or not isinstance(metadata, dict):
        raise ParseError("The parser's answer makes no sense", obj=name)
    return ParsedDocument(text, title if isinstance(title, str) else None, metadata)


def _write(stream: BinaryIO, header: dict[str, Any], data: bytes = b"") -> None:
    frame = json.dumps(header).encode()
    stream.write(_LENGTH.pack(len(frame)) + frame)
    stream.write(data)
    stream.flush()


def _read(stream: BinaryIO) -> dict[str, Any] | None:
    """The next frame; None at the end of the stream, also in the middle of a frame."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > _LARGEST:
        return None
    frame = stream.read(size)
    if len(frame) < size:
        return None
    value = json.loads(frame)
    return value if isinstance(value, dict) else None


# --- the child ------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Answer frames until the input ends.

    Args:
        arguments: the bound on memory in bytes, and the seconds after which a document that the
            parent no longer waits for ends this process.
    """
    memory_bytes, alarm_s = (int(one) for one in arguments or [str(MEMORY_BYTES), "65"])
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # A library that prints must not break the frames.
    os.dup2(2, 1)
    _confine(memory_bytes)
    _write(replies, {"ready": True})
    while (header := _read(requests)) is not None:
        data = requests.read(header["size"])
        if len(data) < header["size"]:
            break
        _set_alarm(alarm_s)
        reply = _answer(header, data)
        _set_alarm(0)
        _write(replies, reply)
        if reply.get("last"):
            break
    return 0


def _answer(header: dict[str, Any], data: bytes) -> dict[str, Any]:
    try:
        parse = BY_NAME[header["format"]].parser()
        parsed = finish(
            parse(data, name=header["name"], encoding=header["encoding"]), name=header["name"]
        )
        return {"text": parsed.text, "title": parsed.title, "metadata": dict(parsed.metadata)}
    except HeadwaterError as error:
        return {"what": error.what, "todo": error.todo}
    except MemoryError:
        return {"what": "The document needs too much memory", "last": True}
    except RecursionError:
        return {"what": "The document is nested too deeply"}
    except Exception as error:  # noqa: BLE001 - whatever a parser raises is about its document
        reason = f"{type(error).__name__}: {error}"[:300]
        return {"what": "The document cannot be read", "todo": reason}


def _confine(memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: the deadline still holds.
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    bound = memory_bytes if most == resource.RLIM_INFINITY else min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _set_alarm(seconds: int) -> None:
    """End this process if the parent is gone and the document never ends."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
