"""What the page on APIs and web pages says is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headwater import config
from headwater.config import ApiConfig, WebConfig
from headwater.flows.sources.api_pages import STYLES
from headwater.flows.sources.api_walk import READINGS
from headwater.flows.sources.http import LONGEST_RETRY_AFTER_S, MAX_REDIRECTS, MAX_WAITS

PAGE = (Path(__file__).parents[3] / "docs" / "sources-apis.md").read_text("utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_is_valid(block: str) -> None:
    """Whoever copies it gets a working file."""
    assert config.parse(block.encode()).sources


def test_the_table_of_styles_is_the_registry() -> None:
    """No style is missing and none is made up."""
    table = PAGE.partition("| `style` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE) == list(STYLES)


def test_every_option_that_is_named_exists() -> None:
    """An option in the text or a table is one of the configuration."""
    table = PAGE.partition("| option | |")[2].partition("\n\n")[0]
    options = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert options and set(options) <= set(ApiConfig.model_fields) & set(WebConfig.model_fields)
    for name in ("max_age", "hosts", "robots", "feeds", "user_agent", "page_bytes"):
        assert f"`{name}" in PAGE and name in WebConfig.model_fields


def test_the_numbers_are_those_of_the_code() -> None:
    """Limits that the page states."""
    assert (READINGS, MAX_REDIRECTS, MAX_WAITS, LONGEST_RETRY_AFTER_S) == (4, 5, 20, 120)
    for text in ("four readings", "at most five", "twenty times a request", "two minutes a time"):
        assert text in PAGE
    assert WebConfig.model_fields["rate"].default == 5
