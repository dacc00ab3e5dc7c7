"""Why a record fails an expectation, as a sentence a person reads in the quarantine."""

from __future__ import annotations

import json
from typing import Final

from headwater.validation.contracts import Expectation

# The words are filled from the expectation's arguments; {bounds} and {column} from all of them.
_SENTENCES: Final = {
    "expect_column_values_to_not_be_null": "{column} is null",
    "expect_column_values_to_be_null": "{column} is not null",
    "expect_column_values_to_be_between": "{column} is not {bounds}",
    "expect_column_value_lengths_to_be_between": "the length of {column} is not {bounds}",
    "expect_column_value_lengths_to_equal": "the length of {column} is not {value}",
    "expect_column_values_to_be_in_set": "{column} is not one of {value_set}",
    "expect_column_values_to_not_be_in_set": "{column} is one of {value_set}",
    "expect_column_values_to_match_regex": "{column} does not match {regex}",
    "expect_column_values_to_not_match_regex": "{column} matches {regex}",
    "expect_column_values_to_match_strftime_format": "{column} is no date like {strftime_format}",
    "expect_column_values_to_be_dateutil_parseable": "{column} is no date",
    "expect_column_values_to_be_json_parseable": "{column} is not JSON",
    "expect_column_pair_values_to_be_equal": "{column} are not equal",
}


def sentence(expectation: Expectation) -> str:
    """One sentence without its full stop, saying what is wrong with a record that fails."""
    arguments = {name: _word(value) for name, value in expectation.kwargs.items()}
    words = {**arguments, "column": expectation.column, "bounds": _bounds(expectation)}
    template = _SENTENCES.get(expectation.type)
    if template:
        try:
            return template.format_map(words)
        except KeyError:
            pass
    said = ", ".join(f"{name}={value}" for name, value in arguments.items())
    return f"{expectation.type}({said}) does not hold"


def _bounds(expectation: Expectation) -> str:
    low, high = expectation.kwargs.get("min_value"), expectation.kwargs.get("max_value")
    if high is None:
        return f"at least {_word(low)}"
    return f"at most {_word(high)}" if low is None else f"between {_word(low)} and {_word(high)}"


def _word(value: object) -> str:
    if isinstance(value, list):
        text = ", ".join(_word(part) for part in value)
    elif isinstance(value, dict):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    return text if len(text) <= 200 else text[:199] + "…"
