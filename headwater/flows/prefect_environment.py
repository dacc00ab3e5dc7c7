"""The settings Prefect reads while it is imported: quiet, local, nothing sent anywhere.

Each is a default. A variable that the user set wins, and so do the user's Prefect profiles.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from headwater.config import KnowledgeBase
from headwater.errors import MissingExtraError, StorageUnavailableError

SETTINGS: Final[dict[str, str]] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    # A busy machine needs more than the 20 s that Prefect waits for its own server.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "GX_ANALYTICS_ENABLED": "false",
}


def prepare(kb: KnowledgeBase) -> None:
    """Set the environment for Prefect, then import it. The runs it starts inherit all of it.

    Raises:
        MissingExtraError: Prefect is not installed.
        StorageUnavailableError: the folder for Prefect's files cannot be created.
    """
    for name, value in environment(kb).items():
        os.environ.setdefault(name, value)
    home = Path(os.environ["PREFECT_HOME"])
    try:
        # Prefect creates the folder, but none above it.
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageUnavailableError.of(error, home) from None
    try:
        import prefect  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(error.name or "prefect", "schedule") from None


def environment(kb: KnowledgeBase) -> dict[str, str]:
    """What `prepare` sets where the user set nothing."""
    home = kb.root.resolve() / ".headwater" / "prefect"
    found = {**SETTINGS, "PREFECT_HOME": str(home)}
    profiles = Path.home() / ".prefect" / "profiles.toml"
    if "PREFECT_HOME" not in os.environ and profiles.is_file():
        # Another home would hide the server that `prefect config set` or a login wrote there.
        found["PREFECT_PROFILES_PATH"] = str(profiles)
    return found
