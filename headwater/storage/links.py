"""The links of the chain of snapshots: names and times, without the objects that manifests list.

A manifest grows with what it names, and who looks for a time looks at many of them. Its bytes are
checked against its name like those of any other; only the JSON is not parsed where the few values
can be taken from the places at which `Manifest.to_json` puts them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime

from headwater.errors import StoreError
from headwater.storage.manifest import FORMAT, Manifest, parse_time


@dataclass(frozen=True, slots=True)
class Link:
    """What a manifest says about its place in the chain.

    Attributes:
        name: of the snapshot.
        seq, parent, parent_sha256, observed_at, cause: as in the `Manifest`.
        sha256: of its file, as it was published.
    """

    name: str
    seq: int
    parent: str
    parent_sha256: str
    observed_at: str
    cause: str
    sha256: str

    @property
    def time(self) -> datetime:
        """`observed_at` as an aware datetime."""
        return parse_time(self.observed_at)


def link_of(manifest: Manifest) -> Link:
    """A manifest's place in the chain."""
    return Link(
        manifest.name(),
        manifest.seq,
        manifest.parent,
        manifest.parent_sha256,
        manifest.observed_at,
        manifest.cause,
        manifest.sha256(),
    )


# Sorted keys, one space before those of the manifest itself: a line break inside of a string is
# written `\n`, and what lies deeper is indented further, so that nothing else looks like these.
_CAUSE = re.compile(rb'\{\n "cause": "([^"\\]*)",\n')
_FORMAT = re.compile(rb'\n "format": (\d+),\n')
_PLACE = re.compile(
    rb'\n "observed_at": "([^"\\]*)",\n "parent": "([^"\\]*)",\n "parent_sha256": "([^"\\]*)",\n'
)
_SEQ = re.compile(rb'\n "seq": (\d+),\n')


def read_link(data: bytes, name: str) -> Link | None:
    """Read a manifest's place in the chain.

    Args:
        data: the file's bytes.
        name: the snapshot's name.

    Returns:
        None where only `manifest.from_json` can tell: the bytes are not those the name promises, a
        newer headwater wrote them, or they are not as `Manifest.to_json` writes them.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    # `find` looks at a long file many times faster than a pattern does.
    cause = _CAUSE.match(data)
    written = _FORMAT.match(data, max(0, data.find(b'\n "format": ')))
    place = _PLACE.match(data, max(0, data.find(b'\n "observed_at": ')))
    seq = _SEQ.match(data, max(0, data.find(b'\n "seq": ', place.end() if place else 0)))
    if cause is None or written is None or place is None or seq is None:
        return None
    found = f"{int(seq[1]):08d}-{sha256[:16]}"
    if found != name or int(written[1]) > FORMAT:
        return None
    observed_at, parent, parent_sha256 = (value.decode() for value in place.groups())
    return Link(found, int(seq[1]), parent, parent_sha256, observed_at, cause[1].decode(), sha256)


def broken_chain(name: str) -> StoreError:
    """What to tell about a manifest that is not the one its child was made from."""
    return StoreError(
        "The chain of snapshots is broken",
        obj=name,
        todo="restore that file below snapshots/ from a backup of the store",
    )
