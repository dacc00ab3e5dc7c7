"""What this Python environment says about itself; nothing here is written or sent anywhere."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions

_SUFFIXES = {"text/markdown": ".md", "text/x-rst": ".rst", "text/plain": ".txt"}
README_CHARS = 10_000
"""How much of a readme is kept: what comes later mostly is a changelog, and costs time to embed."""

_ONE_LINE = 60
"""A longer licence field holds the licence itself, not its name."""


@dataclass(frozen=True)
class Package:
    """One installed distribution.

    Attributes:
        licence: its name, as the distribution gives it; None when it gives none.
        requires: what it needs to be installed, without its extras.
        readme: its first `README_CHARS` at most; empty when the distribution has none.
        readme_suffix: of the file that the readme belongs in.
        modules: what `import` finds at the top level.
        commands: names of its console scripts.
        plugins: `group: name` of its other entry points.
        files: how many it installed.
        kilobytes: that they take.
    """

    name: str
    version: str
    summary: str | None
    licence: str | None
    home_page: str | None
    requires_python: str | None
    requires: tuple[str, ...]
    readme: str
    readme_suffix: str
    modules: tuple[str, ...]
    commands: tuple[str, ...]
    plugins: tuple[str, ...]
    files: int
    kilobytes: int


@dataclass(frozen=True)
class Environment:
    """Everything the example knows.

    Attributes:
        python: the version that runs this.
        topics: name -> text of the reference topics that CPython ships for `help()`.
        packages: sorted by name, each name once.
    """

    python: str
    topics: dict[str, str]
    packages: tuple[Package, ...]


def read_environment() -> Environment:
    """Read the environment of the running interpreter."""
    from pydoc_data.topics import topics

    found: dict[str, Package] = {}
    for distribution in distributions():
        # Remains of an interrupted uninstall have no name; of two copies, the first is imported.
        name = _field(distribution, "Name")
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), _package(name, distribution))
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Environment(version, dict(topics), tuple(found[key] for key in sorted(found)))


def _package(name: str, distribution: Distribution) -> Package:
    files = distribution.files or []
    entries = list(distribution.entry_points)
    kind = (_field(distribution, "Description-Content-Type") or "text/x-rst").partition(";")[0]
    readme = _beginning((_field(distribution, "Description") or "").strip())
    return Package(
        name=name,
        version=_field(distribution, "Version") or "unknown",
        summary=_clean(_field(distribution, "Summary")),
        licence=_licence(distribution),
        home_page=_home_page(distribution),
        requires_python=_clean(_field(distribution, "Requires-Python")),
        requires=tuple(
            requirement
            for requirement in distribution.requires or []
            if not re.search(r"\bextra\s*==", requirement)
        ),
        readme="" if readme == "UNKNOWN" else readme,
        readme_suffix=_SUFFIXES.get(kind.strip().lower(), ".txt"),
        modules=_modules(distribution),
        commands=tuple(sorted(e.name for e in entries if e.group == "console_scripts")),
        plugins=tuple(
            sorted(f"{e.group}: {e.name}" for e in entries if not e.group.endswith("_scripts"))
        ),
        files=len(files),
        kilobytes=sum(file.size or 0 for file in files) // 1000,
    )


def _beginning(text: str) -> str:
    """The whole paragraphs within the first `README_CHARS`."""
    if len(text) <= README_CHARS:
        return text
    end = text.rfind("\n\n", 0, README_CHARS)
    return text[: end if end > 0 else README_CHARS]


def _field(distribution: Distribution, name: str) -> str | None:
    """A field of the metadata; the first, when it is given more than once."""
    values = distribution.metadata.get_all(name)
    return str(values[0]) if values else None


def _clean(value: str | None) -> str | None:
    text = " ".join((value or "").split())
    return None if text in ("", "UNKNOWN") else text


def _licence(distribution: Distribution) -> str | None:
    stated = _clean(_field(distribution, "License-Expression")) or _clean(
        _field(distribution, "License")
    )
    if stated and len(stated) <= _ONE_LINE:
        return stated
    classifiers = distribution.metadata.get_all("Classifier") or []
    named = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License ::")]
    return ", ".join(named) or None


def _home_page(distribution: Distribution) -> str | None:
    if page := _clean(_field(distribution, "Home-page")):
        return page
    links = dict(
        link.partition(", ")[::2] for link in distribution.metadata.get_all("Project-URL") or []
    )
    wanted = ("homepage", "repository", "source", "documentation")
    by_label = {label.lower(): url for label, url in links.items()}
    return next((by_label[label] for label in wanted if label in by_label), None)


def _modules(distribution: Distribution) -> tuple[str, ...]:
    found = set()
    for file in distribution.files or []:
        top, _, rest = file.as_posix().partition("/")
        name = top if rest else top.partition(".")[0]
        if (file.suffix in (".py", ".so", ".pyd")) and name.isidentifier():
            found.add(name)
    return tuple(sorted(found))
