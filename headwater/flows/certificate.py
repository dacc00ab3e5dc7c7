"""The certificate of an erasure: what was done, the proof that nothing is left, a signature.

The proof is a scan of every object on the disk for the keyed hashes of what was erased. Anybody who
has the store can repeat it; it needs neither the keys nor the texts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.parquet as pq

from headwater import __version__
from headwater.config import KnowledgeBase, expand
from headwater.errors import ConfigError, MissingExtraError, NotFoundError, StoreError
from headwater.retrieval.segments import VECTORS, listed_hashes
from headwater.storage import files
from headwater.storage.manifest import format_time
from headwater.storage.objects import EMBEDDINGS, ObjectEntry, ObjectStore
from headwater.storage.redactions import FOLDER, Redaction, Redactions, subject_bytes
from headwater.storage.store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NOT_REACHED: Final = (
    "backups made before, until the next 'headwater backup' into the same folder",
    "copies of released datasets, and models trained on them",
    "the sources themselves, which are asked for the document again and not believed",
    "logs and artifacts that Prefect keeps in its own database",
    "blocks that the file system or the disk has freed and not overwritten",
)

_NAMES: Final = {"subject": ("source", "key"), "origin": ("source", "renamed_from")}
_LOOKED_AT: Final[dict[str, tuple[str, ...]]] = {
    "versions.parquet": ("subject", "origin", "content_hash"),
    "closures.parquet": ("subject",),
    "contents.parquet": ("content_hash",),
    "chunks.parquet": ("content_hash", "text_hash"),
    "quarantine.parquet": ("subject",),
    EMBEDDINGS: ("text_hash",),
    VECTORS: ("text_hash",),
}
"""Kind -> what its rows could give away."""


@dataclass(frozen=True)
class Scan:
    """What a scan looked at and found.

    Attributes:
        objects, bytes, rows: looked at.
        found: rows that hold something of the erased, one sentence per object; empty is the proof.
        state: SHA-256 over the names of all objects, sorted: what exactly was looked at.
    """

    objects: int
    bytes: int
    rows: int
    found: tuple[str, ...]
    state: str


def certificate_path(root: Path, record: Redaction) -> Path:
    """Where the certificate of an erasure lies in the store at `root`."""
    return root / FOLDER / f"{record.number:08d}.certificate.json"


def certify(kb: KnowledgeBase, store: Store, record: Redaction) -> Path:
    """Look through all objects, write the certificate, sign it where the configuration names a key.

    Raises:
        StoreError: something of the erased is still there; no certificate is written.
        ConfigError: the signing key cannot be used.
    """
    scan = scan_for(
        store.objects, store.redactions(), record.subjects, record.contents, record.texts
    )
    if scan.found:
        raise StoreError(
            "Something of the erased is still in the store",
            obj="; ".join(scan.found[:3]),
            todo="erase it again; there is no certificate",
        )
    body: dict[str, Any] = {
        "format": 1,
        "erasure": record.number,
        "record": record.name(),
        "headwater": __version__,
        "erased_at": record.at,
        "actor": record.actor,
        "run_id": record.run_id,
        "reason": record.reason,
        "snapshots": {"before": record.parent, "after": record.snapshot},
        "documents": list(record.subjects),
        "removed": dict(sorted(record.removed.items())),
        "kept_for_other_documents": dict(record.kept),
        "rewritten": {
            name: entry.name if entry else None for name, entry in sorted(record.objects.items())
        },
        "segments": [
            {"was": list(name), "is": now.vectors.name if now else None}
            for name, now in sorted(record.segments.items())
        ],
        "manifests": sorted(record.manifests),
        "datasets_revoked": list(record.datasets),
        "proof": {
            "at": format_time(datetime.now(UTC)),
            "method": "HMAC-SHA-256 of source and key, content hash and text hash of every row",
            "objects": scan.objects,
            "bytes": scan.bytes,
            "rows": scan.rows,
            "found": 0,
            "objects_sha256": scan.state,
        },
        "not_reached": list(NOT_REACHED),
    }
    path = certificate_path(store.root, record)
    data = json.dumps(body | _signature(kb, body), sort_keys=True, indent=1) + "\n"
    files.replace(path, data.encode(), tmp=store.root / "tmp")
    return path


def scan_for(
    objects: ObjectStore,
    redactions: Redactions,
    subjects: Collection[str],
    contents: Collection[str],
    texts: Collection[str],
) -> Scan:
    """Look for keyed hashes in every object on the disk.

    Raises:
        CorruptObjectError: an object is damaged.
    """
    wanted = {
        "subject": frozenset(subjects),
        "origin": frozenset(subjects),
        "content_hash": frozenset(contents),
        "text_hash": frozenset(texts),
    }
    count = size = rows = 0
    found: list[str] = []
    digest = hashlib.sha256()
    for entry, _ in objects.listing():
        count, size = count + 1, size + entry.bytes
        digest.update(f"{entry.name}\n".encode())
        for what in _LOOKED_AT.get(entry.kind, ()):
            values = _values(objects, entry, what)
            rows += len(values)
            if wanted[what] and (hits := _hits(redactions, values, wanted[what])):
                found.append(f"objects/{entry.name}: {hits} rows with a {what} that was erased")
    return Scan(count, size, rows, tuple(found), digest.hexdigest())


def _hits(redactions: Redactions, values: Collection[bytes], wanted: frozenset[str]) -> int:
    return sum(redactions.keyed(value) in wanted for value in values)


def _values(objects: ObjectStore, entry: ObjectEntry, what: str) -> list[bytes]:
    if entry.kind == VECTORS:
        return [value.tobytes() for value in listed_hashes(objects, entry)]
    columns = list(_NAMES.get(what, (what,)))
    table = pq.read_table(objects.path(entry), columns=columns, partitioning=None)
    if what in _NAMES:
        names = zip(*(table[column].to_pylist() for column in columns), strict=True)
        return [subject_bytes(source, key) for source, key in names if key is not None]
    found: list[bytes] = table[what].to_pylist()
    return found


# --- signing --------------------------------------------------------------------------------------


def open_signing_key(kb: KnowledgeBase) -> Ed25519PrivateKey | None:
    """The key that the configuration names, or None.

    Raises:
        ConfigError: there is no such file, or it holds no Ed25519 private key.
        MissingExtraError: `cryptography` is not installed.
    """
    named = kb.config.erasure.signing_key
    if named is None:
        return None
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise MissingExtraError.of("cryptography", "pipeline") from None
    path = kb.root / expand(named, where="erasure.signing_key")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise _no_key(path, str(error)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "it is of another kind")
    return key


def _signature(kb: KnowledgeBase, body: dict[str, Any]) -> dict[str, Any]:
    key = open_signing_key(kb)
    if key is None:
        return {"signature": None}
    return {
        "signature": {
            "algorithm": "Ed25519",
            "public_key": key.public_key().public_bytes_raw().hex(),
            "value": key.sign(_signed(body)).hex(),
        }
    }


def _signed(body: dict[str, Any]) -> bytes:
    """What is signed: the certificate without the signature, keys sorted, without white space."""
    rest = {name: value for name, value in body.items() if name != "signature"}
    return json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()


def read_certificate(store: Store, number: int) -> dict[str, Any]:
    """The certificate of one erasure.

    Raises:
        NotFoundError: no such erasure, or it is not finished.
        StoreError: it is damaged.
    """
    for record in store.redactions().records:
        if record.number == number and record.snapshot:
            path = certificate_path(store.root, record)
            try:
                found: dict[str, Any] = json.loads(files.read(path))
            except NotFoundError:
                raise NotFoundError(
                    "The erasure is not finished",
                    obj=str(number),
                    todo="run 'headwater refresh', or erase anything: it finishes first",
                ) from None
            except ValueError:
                raise StoreError("The certificate is damaged", obj=str(path)) from None
            return found
    raise NotFoundError("No such erasure", obj=str(number), todo="see 'headwater erasures'")


def check_erasure(store: Store, number: int) -> tuple[str, ...]:
    """What is wrong with an erasure today; empty when its certificate holds.

    Looks through every object again for the documents and for the contents that nobody else held.
    A text of one chunk may since have come back in a document of its own right.

    Raises:
        NotFoundError: no such erasure, or it is not finished.
        CorruptObjectError: an object is damaged.
    """
    body = read_certificate(store, number)
    redactions = store.redactions()
    record = redactions.records[number - 1]
    problems = []
    if body.get("record") != record.name():
        problems.append("the certificate belongs to another record")
    problems += _signature_problems(body)
    subjects = set(record.subjects) & redactions.suppressed
    contents = record.contents if subjects == set(record.subjects) else ()
    scan = scan_for(store.objects, redactions, subjects, contents, ())
    return (*problems, *scan.found)


def _signature_problems(body: dict[str, Any]) -> list[str]:
    signature = body.get("signature")
    if signature is None:
        return []
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise MissingExtraError.of("cryptography", "pipeline") from None
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature["public_key"]))
        key.verify(bytes.fromhex(signature["value"]), _signed(body))
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return ["the signature is not that of the key it names"]
    return []


def _no_key(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"The key that certificates are signed with cannot be used ({why})",
        obj=str(path),
        todo="make one: openssl genpkey -algorithm ed25519 -out FILE; nothing was erased",
    )
