"""Formats of text: reStructuredText, notebooks, messages, gzip, and every encoding of them."""

from __future__ import annotations

import gzip
import json
import random
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import ParseError
from headwater.flows.sources.parsing import ParsedDocument
from headwater.flows.sources.parsing.decoding import decode_naming
from headwater.flows.sources.parsing.formats import BY_NAME, finish


def _parse(fmt: str, data: bytes | str, *, name: str = "given") -> ParsedDocument:
    raw = data.encode() if isinstance(data, str) else data
    return finish(BY_NAME[fmt].parser()(raw, name=name, encoding="auto"), name=name)


def _refused(fmt: str, data: bytes | str, *, name: str = "given") -> str:
    with pytest.raises(ParseError) as caught:
        _parse(fmt, data, name=name)
    return f"{caught.value.what}: {caught.value.todo}"


# --- encodings ------------------------------------------------------------------------------------

_TEXTS = {
    "cp1252": "Die Mühle läßt sich für fünf Gäste öffnen; über Ostern schließen wir früher. "
    "Das Café gehört nicht dazu – fragen Sie die Müllerin.",
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy. Žádost o vrácení zboží musí být podána "
    "do třiceti dnů od doručení zásilky.",
    "cp1251": "Заявление о возврате подаётся в течение тридцати дней после получения. "
    "Магазин открыт с девяти до шести.",
    "koi8_r": "Заявление о возврате подаётся в течение тридцати дней после получения. "
    "Магазин открыт с девяти до шести.",
    "shift_jis": "返品は到着後三十日以内にお申し込みください。店は九時に開き、六時に閉まります。",
    "gb18030": "退货申请必须在收到货物后三十天内提出。商店九点开门，六点关门。周日休息。",
    "cp1253": "Η αίτηση επιστροφής υποβάλλεται εντός τριάντα ημερών από την παράδοση.",
    "utf-16-le": "A refund must be requested within thirty days of delivery.",
    "utf-16-be": "Die Mühle läßt sich für fünf Gäste öffnen.",
}


@pytest.mark.parametrize("encoding", sorted(_TEXTS))
def test_an_encoding_is_detected_and_named(encoding: str) -> None:
    """Text without a mark is read as it was written; the metadata says that it was a guess."""
    text = _TEXTS[encoding]
    parsed = _parse("text", text.encode(encoding))
    assert parsed.text == text
    assert parsed.metadata["encoding"]
    assert parsed == _parse("text", text.encode(encoding)), "the same bytes, the same guess"


def test_utf8_is_never_guessed() -> None:
    """What is UTF-8 is read so, and nothing is said about it."""
    for text in _TEXTS.values():
        assert _parse("text", text).metadata == {}
        assert _parse("text", text).text == text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1))
@settings(max_examples=200, deadline=None)
def test_any_utf8_stays_what_it_is(text: str) -> None:
    """No text in UTF-8 is taken for another encoding, however odd it looks."""
    assert decode_naming(text.encode(), name="x", encoding="auto") == (text.replace("\r", "\n"), {})


def test_binary_is_not_guessed_to_be_text() -> None:
    """Bytes that hold control characters in every encoding are refused, with the place."""
    noise = random.Random(7).randbytes(4000)
    assert "looks binary" in _refused("text", b"MZ\0\0" + noise) or "not utf-8" in _refused(
        "text", noise
    )
    assert "byte 2" in _refused("text", b"zw\x81lf")


def test_a_configured_encoding_is_not_second_guessed() -> None:
    """Whoever names an encoding gets it, or an error."""
    with pytest.raises(ParseError, match="ascii"):
        decode_naming("zwölf".encode(), name="x", encoding="ascii")


# --- reStructuredText -----------------------------------------------------------------------------

_RST = """.. _gauges:

Gauges
======

:Author: The lock keeper
:Status: final, and
   read by many

Intro with ``code``.

=========  =====
Station    Level
=========  =====
Old mill   214
Old weir   87
           (dry)
=========  =====

+---------+-------+
| Gauge   | Range |
+=========+=======+
| One     | 5 m   |
|         | more  |
+---------+-------+
| Two | x | 3 m   |
+---------+-------+

.. code-block:: python
   :linenos:

   def level():
       return 214

After.
"""


def test_rst_tables_code_and_fields_become_markdown() -> None:
    """Simple and grid tables, code blocks and the field list survive as what they are."""
    parsed = _parse("rst", _RST)
    assert parsed.title == "Gauges"
    assert parsed.metadata == {"author": "The lock keeper", "status": "final, and read by many"}
    assert parsed.text == (
        "# Gauges\n\nIntro with ``code``.\n\n"
        "| Station | Level |\n| --- | --- |\n| Old mill | 214 |\n| Old weir | 87 (dry) |\n\n"
        "| Gauge | Range |\n| --- | --- |\n| One | 5 m more |\n| Two \\| x | 3 m |\n\n"
        "```python\ndef level():\n    return 214\n```\n\nAfter."
    )


def test_rst_tables_with_spans_stay_as_they_are() -> None:
    """A table that markdown cannot say keeps its own marks, and every word."""
    page = "T\n=====\n\n+---+---+\n| a | b |\n+---+---+\n| both  |\n+---+---+\n\nend\n"
    text = _parse("rst", page).text
    assert "| both  |" in text
    assert "+---+---+" in text
    assert text.endswith("end")


@given(st.text(alphabet="=-~+| \n\tab:.`", max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_rst_loses_a_letter(page: str) -> None:
    """Whatever the marks, the letters are all there, in their order, or became fields."""
    try:
        parsed = _parse("rst", page)
    except ParseError:
        return
    if not parsed.metadata and ".. _" not in page and "::" not in page:
        assert [ch for ch in parsed.text if ch in "ab"] == [ch for ch in page if ch in "ab"]


# --- notebooks ------------------------------------------------------------------------------------


def _notebook(*cells: dict[str, Any], **more: Any) -> str:
    about = {"kernelspec": {"language": "python", "name": "python3"}}
    return json.dumps({"nbformat": 4, "metadata": about, "cells": list(cells), **more})


def test_notebooks_keep_text_code_and_what_it_printed() -> None:
    """Cells in order; tables as tables, streams and errors in fences, no images."""
    table = "<table><tr><th>a</th></tr><tr><td>1</td></tr></table>"
    page = _notebook(
        {"cell_type": "raw", "source": "---\nstatus: final\n---"},
        {"cell_type": "markdown", "source": ["# Levels\n", "\n", "How high?"]},
        {
            "cell_type": "code",
            "source": "print(214)",
            "outputs": [
                {"output_type": "stream", "text": ["214\n"]},
                {
                    "output_type": "display_data",
                    "data": {"image/png": "iVBOR", "text/plain": "<F>"},
                },
                {"output_type": "execute_result", "data": {"text/html": [table]}},
                {
                    "output_type": "error",
                    "ename": "ValueError",
                    "evalue": "dry",
                    "traceback": ["x"],
                },
            ],
        },
    )
    parsed = _parse("notebook", page)
    assert parsed.title == "Levels"
    assert parsed.metadata == {"language": "python", "status": "final"}
    assert parsed.text == (
        "# Levels\n\nHow high?\n\n```python\nprint(214)\n```\n\n```\n214\n```\n\n```\n<F>\n```\n\n"
        "| a |\n| --- |\n| 1 |\n\n```\nValueError: dry\n```"
    )


def test_old_notebooks_are_read() -> None:
    """Format 3 kept its cells in sheets, and headings in cells of their own."""
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Old"]},
        {"cell_type": "code", "input": ["x = 1"], "outputs": []},
    ]
    page = json.dumps({"nbformat": 3, "worksheets": [{"cells": cells}]})
    assert _parse("notebook", page).text == "## Old\n\n```\nx = 1\n```"


@pytest.mark.parametrize("page", ["{", "[]", "{}", '{"cells": 3}', "NaN"])
def test_what_is_no_notebook_is_refused(page: str) -> None:
    """JSON without cells, or no JSON, says so."""
    assert "notebook" in _refused("notebook", page)


# --- messages -------------------------------------------------------------------------------------


def _message(body: str = "The gauge shows 214 cm.\n", **headers: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {
        "Subject": "Level of the Ostermühle",
        "From": "Müllerin <mill@example.org>",
        "To": "lock@example.org",
        "Date": "Fri, 01 Mar 2024 09:30:00 +0100",
        **headers,
    }.items():
        message[name] = value
    message.set_content(body)
    return message


def test_a_message_says_who_when_and_what() -> None:
    """Subject, people and date lead; attachments are named; the plain text wins over HTML."""
    message = _message()
    message.add_alternative("<p>The <b>gauge</b></p>", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="level.pdf")
    parsed = _parse("mail", message.as_bytes())
    assert parsed.title == "Level of the Ostermühle"
    assert parsed.text == (
        "# Level of the Ostermühle\n\nFrom: Müllerin <mill@example.org>\nTo: lock@example.org\n"
        "Date: 2024-03-01T08:30:00+00:00\n\nThe gauge shows 214 cm."
    )
    assert parsed.metadata == {
        "from": "Müllerin <mill@example.org>",
        "to": "lock@example.org",
        "date": "2024-03-01T08:30:00+00:00",
        "attachments": ["level.pdf"],
    }


def test_a_page_is_read_where_there_is_no_text() -> None:
    """HTML alone becomes markdown."""
    message = _message()
    message.set_content("<h2>Levels</h2><ul><li>214</li></ul>", subtype="html")
    assert _parse("mail", message.as_bytes()).text.endswith("## Levels\n\n- 214")


def test_a_forwarded_message_follows() -> None:
    """What was forwarded is part of the text, a level below."""
    outer = _message("See below.\n")
    outer.add_attachment(_message(Subject="Inner"))
    text = _parse("mail", outer.as_bytes()).text
    assert "See below." in text
    assert "## Inner" in text
    assert text.endswith("The gauge shows 214 cm.")


def test_messages_in_messages_have_an_end() -> None:
    """Deeper than two is refused, and not half read."""
    message = _message()
    for _ in range(4):
        outer = _message()
        outer.add_attachment(message)
        message = outer
    assert "nested too deeply" in _refused("mail", message.as_bytes())


@pytest.mark.parametrize("data", [b"no header\n\nbody", b"\n\n", b"From \xff\xfe\n\nx", b"Date: x"])
def test_odd_messages_raise_nothing_else(data: bytes) -> None:
    """What is no message is refused; a wrong date is no reason."""
    try:
        _parse("mail", data)
    except ParseError as error:
        assert error.what


# --- gzip -----------------------------------------------------------------------------------------


def test_gzip_is_read_by_the_parser_of_what_is_in_it() -> None:
    """`page.html.gz` is a page; members that follow each other are one file."""
    page = gzip.compress(b"<h1>Levels</h1>") + gzip.compress(b"<p>214</p>")
    assert _parse("gzip", page, name="a/page.html.gz").text == "# Levels\n\n214"


def test_a_damaged_gzip_is_refused() -> None:
    """Cut short, damaged, no gzip, or of no known format: each says which."""
    data = gzip.compress(b"# Levels\n" * 50)
    assert "cut short" in _refused("gzip", data[:-10], name="a.md.gz")
    assert "not valid gzip" in _refused("gzip", data[:-6] + b"abcdef", name="a.md.gz")
    assert "not gzip" in _refused("gzip", b"# Levels", name="a.md.gz")
    assert "No parser" in _refused("gzip", data, name="a.exe.gz")


def test_a_gzip_bomb_is_refused() -> None:
    """A small file does not grow without bound."""
    data = gzip.compress(b"\0" * 150_000_000, 9)
    assert "too large" in _refused("gzip", data, name="a.txt.gz")
