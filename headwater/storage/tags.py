"""Tags: `tags/<name>` holds a snapshot's name, as CURRENT does. A tagged snapshot never expires."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.errors import ConfigError, NotFoundError, StoreError
from headwater.storage import files

if TYPE_CHECKING:
    from headwater.storage.store import Store

_TAG = re.compile(r"[a-z][a-z0-9._-]{0,62}")
_SNAPSHOT = re.compile(r"\d{8}-[0-9a-f]{16}")
_RESERVED = "current"


def is_tag_name(text: str) -> bool:
    """Whether `text` can name a tag: it begins with a letter, as no snapshot or time does."""
    return bool(_TAG.fullmatch(text)) and text != _RESERVED


def read_tag(root: Path, name: str) -> str | None:
    """The snapshot that a tag of the store at `root` names, or None when there is no such tag.

    Raises:
        StoreError: the tag holds something else.
    """
    path = root / "tags" / name
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            "A tag cannot be read",
            obj=f"{path}: {error}",
            todo=f"check its owner and mode, or: headwater tag {name} --delete",
        ) from None
    if not _SNAPSHOT.fullmatch(text):
        raise StoreError(
            "A tag is damaged", obj=str(path), todo=f"headwater tag {name} SNAPSHOT writes it anew"
        )
    return text


def read_tags(root: Path) -> dict[str, str]:
    """Tag -> snapshot, sorted by tag.

    Raises:
        StoreError: a tag is damaged.
    """
    folder = root / "tags"
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    found = {name: read_tag(root, name) for name in names if is_tag_name(name)}
    return {name: snapshot for name, snapshot in found.items() if snapshot}


def set_tag(store: Store, name: str, ref: str | None = None) -> str:
    """Point the tag `name` at a snapshot; a tag that exists moves.

    Args:
        store: that holds the snapshot.
        name: lower-case letters, digits, `.`, `_`, `-`; begins with a letter.
        ref: as for `Store.resolve`; the current snapshot when None.

    Returns:
        the snapshot's name.

    Raises:
        ConfigError: that is no name for a tag.
        NotFoundError: no such snapshot, or it has expired.
    """
    if not is_tag_name(name):
        raise ConfigError(
            "This cannot name a tag",
            obj=name,
            todo="begin with a lower-case letter; then letters, digits, '.', '_' and '-', "
            "at most 63; 'current' is taken",
        )
    # Under the lock: a vacuum either sees the tag, or has let the snapshot expire before.
    with files.locked(store.root / "LOCK", wait_s=60, holder=f"tag {name}"):
        snapshot = store.resolve(ref).name()
        files.replace(store.root / "tags" / name, f"{snapshot}\n".encode(), tmp=store.root / "tmp")
    return snapshot


def delete_tag(store: Store, name: str) -> None:
    """Remove a tag; its snapshot stays as long as the retention keeps it.

    Raises:
        NotFoundError: there is no such tag.
    """
    path = store.root / "tags" / name
    if not is_tag_name(name) or not path.is_file():
        raise unknown_tag(store.root, name)
    files.remove(path)
    files.sync_folder(path.parent)


def unknown_tag(root: Path, name: str) -> NotFoundError:
    """What to tell somebody who asks for a tag that is not there; it lists those that are."""
    known = ", ".join(read_tags(root)) or "(none)"
    return NotFoundError(
        "This names no snapshot, no tag and no time",
        obj=name,
        todo=f"tags: {known}; 'headwater log' has names and numbers; a time is 2026-11-22T10:00Z",
    )
