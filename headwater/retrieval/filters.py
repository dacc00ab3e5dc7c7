"""The filter language: a text such as `source = 'docs' and meta.year >= 2024` as an `Expression`.

    expression = and {"or" and}            and = unary {"and" unary}
    unary      = "not" unary | "(" expression ")" | predicate
    predicate  = field op value | field ["not"] "in" "(" value {"," value} ")"
               | field ["not"] "like" text | field "is" ["not"] "null"

docs/filters.md explains it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from headwater.errors import ConfigError
from headwater.retrieval.document_columns import META
from headwater.retrieval.filter_expressions import (
    COMPARISONS,
    MAX_DEPTH,
    And,
    Compare,
    Expression,
    In,
    IsNull,
    Like,
    Not,
    Or,
    too_deep,
)
from headwater.retrieval.filter_terms import ALIASES, FIELDS, Field, Literal, unknown_field
from headwater.storage.manifest import parse_time

__all__ = [
    "And",
    "Compare",
    "Expression",
    "Field",
    "In",
    "IsNull",
    "Like",
    "Literal",
    "Not",
    "Or",
    "parse",
]

MAX_LENGTH: Final = 65_536
"""Characters that a filter may have."""

_LONGEST_NUMBER = 60
_TOKEN = re.compile(
    r"""\s*+(?:
    (?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt][0-9:.]+(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?)?)
  | (?P<number>[+-]?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)
  | (?P<text>'(?:[^']|'')*+')
  | (?P<name>[^\W\d]\w*+(?:\.(?:[\w-]++|"(?:[^"]|"")*+"))*+)
  | (?P<op><=|>=|!=|=|<|>)
  | (?P<mark>[(),])
  | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_PART = re.compile(r"""[\w-]+|"(?:[^"]|"")*\"""")
_WORDS: Final = frozenset({"and", "or", "not", "in", "like", "is", "null", "true", "false"})


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def parse(text: str) -> Expression:
    """Read a filter.

    Args:
        text: at most `MAX_LENGTH` characters.

    Raises:
        ConfigError: it is no filter, names an unknown field, compares what cannot be compared, or
            is too long or nested too deeply. The message says where.
    """
    if len(text) > MAX_LENGTH:
        raise ConfigError(
            "The filter is too long",
            obj=f"{len(text)} characters",
            todo=f"at most {MAX_LENGTH} are read",
        )
    return _parsed(text)


@lru_cache(maxsize=64)
def _parsed(text: str) -> Expression:
    return _Parser(text).expression_to_end()


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while True:
        found = _TOKEN.match(text, at)
        if found is None:
            here = at + len(text[at:]) - len(text[at:].lstrip())
            what = "a text that does not end" if text[here] in "'\"" else "an unknown sign"
            raise _unreadable(what, text[here : here + 20], here + 1)
        kind = str(found.lastgroup)
        word = found[kind]
        if kind == "name" and word.lower() in _WORDS:
            kind, word = "word", word.lower()
        yield _Token(kind, word, found.start(found.lastgroup or 0) + 1)
        if kind == "end":
            return
        at = found.end()


def _unreadable(expected: str, found: str, position: int, todo: str = "") -> ConfigError:
    return ConfigError(
        "The filter cannot be read",
        obj=f"{expected}, at character {position}: {found[:40]!a}",
        todo=todo or "such as: source = 'docs' and (meta.year >= 2024 or title like 'Guide%')",
    )


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens)
        self._depth = 0

    def expression_to_end(self) -> Expression:
        found = self._any_of()
        if self._next.kind != "end":
            raise self._expected("'and', 'or' or the end is expected")
        return found

    def _any_of(self) -> Expression:
        operands = self._joined("or", self._all_of)
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _all_of(self) -> Expression:
        operands = self._joined("and", self._unary)
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _joined(self, word: str, operand: Callable[[], Expression]) -> list[Expression]:
        operands = [operand()]
        while self._took(word):
            operands.append(operand())
        return operands

    def _unary(self) -> Expression:
        at = self._next.position
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise too_deep(at)
        if self._took("not"):
            found: Expression = Not(self._unary())
        elif self._took("("):
            found = self._any_of()
            self._need(")")
        else:
            found = self._predicate()
        self._depth -= 1
        return found

    def _predicate(self) -> Expression:
        token = self._next
        if token.kind != "name":
            raise self._expected("the name of a field is expected")
        self._take()
        at = _field(token)
        if self._next.kind == "op":
            return Compare(at, self._take().text, self._value(at), token.position)
        if self._took("is"):
            negative = self._took("not")
            self._need("null")
            return _negated(IsNull(at, token.position), negative)
        negative = self._took("not")
        if self._took("in"):
            return _negated(In(at, self._list(at), token.position), negative)
        if self._took("like"):
            return _negated(Like(at, self._pattern(), token.position), negative)
        raise self._expected(f"one of {' '.join(COMPARISONS)} in like is is expected")

    def _list(self, at: Field) -> tuple[Literal, ...]:
        self._need("(")
        values = [self._value(at)]
        while self._took(","):
            values.append(self._value(at))
        self._need(")")
        return tuple(values)

    def _pattern(self) -> str:
        if self._next.kind != "text":
            raise self._expected("a text is expected after 'like'")
        return _unquoted(self._take().text, "'")

    def _value(self, at: Field) -> Literal:
        token = self._next
        read = _VALUES.get(token.kind)
        if read is None or token.text in _WORDS - {"true", "false"}:
            todo = "ask 'is null' or 'is not null'" if token.text == "null" else ""
            todo = "put a text in single quotes" if token.kind == "name" else todo
            raise self._expected("a value is expected", todo)
        self._take()
        if token.kind == "text" and at.kind == "time":
            return _time(_Token("time", _unquoted(token.text, "'"), token.position))
        return read(token)

    def _take(self) -> _Token:
        token = self._next
        self._next = next(self._tokens)
        return token

    def _took(self, text: str) -> bool:
        """Whether this word or sign was next; if so it is taken."""
        found = self._next.kind in ("word", "mark") and self._next.text == text
        if found:
            self._take()
        return found

    def _need(self, text: str) -> None:
        if not self._took(text):
            raise self._expected(f"'{text}' is expected")

    def _expected(self, what: str, todo: str = "") -> ConfigError:
        found = self._next
        return _unreadable(what, found.text or "the end", found.position, todo)


def _negated(found: Expression, negative: bool) -> Expression:
    return Not(found) if negative else found


def _field(token: _Token) -> Field:
    first, _, rest = token.text.partition(".")
    name = ALIASES.get(first, first)
    path = tuple(
        _unquoted(part, '"') if part.startswith('"') else part for part in _PART.findall(rest)
    )
    if (name == META) != bool(path) or name not in (*FIELDS, META):
        raise unknown_field(token.text, token.position)
    return Field(name, path)


def _text(token: _Token) -> Literal:
    return Literal.of(_unquoted(token.text, "'"))


def _number(token: _Token) -> Literal:
    whole = token.text.lstrip("+-").isdigit()
    if len(token.text) <= _LONGEST_NUMBER:
        try:
            return Literal.of(int(token.text) if whole else float(token.text))
        except ConfigError:
            pass
    raise _unreadable("a number out of range", token.text, token.position, "write a smaller one")


def _time(token: _Token) -> Literal:
    try:
        return Literal.of(parse_time(token.text))
    except (ValueError, OverflowError):
        todo = "write 2026-11-22 or 2026-11-22T10:00:00Z"
        raise _unreadable("no time", token.text, token.position, todo) from None


def _boolean(token: _Token) -> Literal:
    return Literal.of(token.text == "true")


_VALUES: Final[dict[str, Callable[[_Token], Literal]]] = {
    "text": _text,
    "number": _number,
    "time": _time,
    "word": _boolean,
}


def _unquoted(text: str, quote: str) -> str:
    return text[1:-1].replace(quote * 2, quote)
