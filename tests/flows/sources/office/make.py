"""Makes the office files beside this script with LibreOffice: `python make.py [path of soffice]`.

The files are committed, so that tests need no LibreOffice; make them anew when a newer LibreOffice
writes them differently, and look at what the tests then say.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
_NAMES = " ".join(
    f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{long}:1.0"'
    for short, long in (
        ("office", "office"),
        ("style", "style"),
        ("text", "text"),
        ("table", "table"),
        ("draw", "drawing"),
        ("presentation", "presentation"),
        ("fo", "xsl-fo-compatible"),
        ("svg", "svg-compatible"),
        ("number", "datastyle"),
    )
)

HANDBOOK = """<html><head><title>River gauge handbook</title>
<style>* { font-family: "DejaVu Sans"; font-weight: normal; font-style: normal }</style></head><body>
<h1>River gauge handbook</h1>
<p>Every gauge reports the water level in centimetres.</p>
<h2>Stations</h2>
<table border="1"><tr><th>Station</th><th>Level</th><th>Kept by</th></tr>
<tr><td>Ostermühle</td><td>214</td><td>the miller of the lower mill</td></tr>
<tr><td>Old weir</td><td>87</td><td>nobody</td></tr></table>
<h2>Alarm</h2>
<p>Two stages are told apart.</p>
<h3>First stage</h3>
<p>At 300 cm the ferry stops, and the harbour office is called.</p>
<ul><li>call the lock keeper</li><li>close the gate</li></ul>
<h3 style="page-break-before: always">Second stage</h3>
<p>At 420 cm the lower town is warned by siren.</p>
</body></html>"""

TALK = f"""<?xml version="1.0" encoding="UTF-8"?>
<office:document {_NAMES} office:version="1.3"
 office:mimetype="application/vnd.oasis.opendocument.presentation">
<office:automatic-styles><style:page-layout style:name="wide"><style:page-layout-properties
 fo:page-width="28cm" fo:page-height="15.75cm"/></style:page-layout></office:automatic-styles>
<office:styles>
<style:style style:name="Default-title" style:family="presentation"/>
<style:style style:name="Default-outline1" style:family="presentation"/>
<style:style style:name="Default-notes" style:family="presentation"/></office:styles>
<office:master-styles>
<style:master-page style:name="Default" style:page-layout-name="wide">
 <draw:frame presentation:style-name="Default-title" presentation:class="title"
  presentation:placeholder="true" svg:x="1cm" svg:y="1cm" svg:width="20cm" svg:height="3cm">
  <draw:text-box/></draw:frame>
 <draw:frame presentation:style-name="Default-outline1" presentation:class="outline"
  presentation:placeholder="true" svg:x="1cm" svg:y="5cm" svg:width="20cm" svg:height="8cm">
  <draw:text-box/></draw:frame>
</style:master-page>
</office:master-styles>
<office:body><office:presentation>
<draw:page draw:name="one" draw:master-page-name="Default">
 <draw:frame presentation:style-name="Default-title" presentation:class="title" svg:x="1cm" svg:y="1cm" svg:width="20cm" svg:height="3cm">
  <draw:text-box><text:p>Why gauges drift</text:p></draw:text-box></draw:frame>
 <draw:frame presentation:style-name="Default-outline1" presentation:class="outline" svg:x="1cm" svg:y="5cm" svg:width="20cm" svg:height="8cm">
  <draw:text-box><text:list><text:list-item><text:p>Silt settles at the foot</text:p>
  <text:list><text:list-item><text:p>most of it in spring</text:p></text:list-item></text:list>
  </text:list-item><text:list-item><text:p>The staff sinks</text:p></text:list-item></text:list>
  </draw:text-box></draw:frame>
 <presentation:notes><draw:frame presentation:style-name="Default-notes" presentation:class="notes" svg:x="1cm" svg:y="12cm"
  svg:width="15cm" svg:height="8cm"><draw:text-box>
  <text:p>Tell the story of the gauge that showed dry land during the flood.</text:p>
  </draw:text-box></draw:frame></presentation:notes>
</draw:page>
<draw:page draw:name="two" draw:master-page-name="Default">
 <draw:frame presentation:style-name="Default-title" presentation:class="title" svg:x="1cm" svg:y="1cm" svg:width="20cm" svg:height="3cm">
  <draw:text-box><text:p>Corrections of 2024</text:p></draw:text-box></draw:frame>
 <draw:frame svg:x="1cm" svg:y="5cm" svg:width="20cm" svg:height="5cm">
  <table:table><table:table-column/><table:table-column/>
  <table:table-row><table:table-cell><text:p>Gauge</text:p></table:table-cell>
  <table:table-cell><text:p>Offset</text:p></table:table-cell></table:table-row>
  <table:table-row><table:table-cell><text:p>Ostermühle</text:p></table:table-cell>
  <table:table-cell><text:p>+3 cm</text:p></table:table-cell></table:table-row>
  </table:table></draw:frame>
</draw:page>
</office:presentation></office:body></office:document>"""


def _cell(value: str) -> str:
    kind = f'office:value-type="float" office:value="{value}"'
    if not value.replace(".", "").isdigit():
        kind = 'office:value-type="string"'
    if value.count("-") == 2:
        kind = f'office:value-type="date" office:date-value="{value}" table:style-name="day"'
    return f"<table:table-cell {kind}><text:p>{value}</text:p></table:table-cell>"


def _sheet(name: str, rows: list[list[str]]) -> str:
    lines = "".join(
        f"<table:table-row>{''.join(map(_cell, row))}</table:table-row>" for row in rows
    )
    return f'<table:table table:name="{name}">{lines}</table:table>'


LEVELS = [
    ["Day", "Ostermühle", "Old weir"],
    ["2024-03-01", "214", "87.5"],
    ["2024-03-02", "220", "90"],
]
PEOPLE = [["Gauge", "Kept by"], ["Ostermühle", "the miller"], ["Old weir", "nobody"]]
BOOK = f"""<?xml version="1.0" encoding="UTF-8"?>
<office:document {_NAMES} office:version="1.3"
 office:mimetype="application/vnd.oasis.opendocument.spreadsheet">
<office:automatic-styles><number:date-style style:name="iso"><number:year number:style="long"/>
<number:text>-</number:text><number:month number:style="long"/><number:text>-</number:text>
<number:day number:style="long"/></number:date-style>
<style:style style:name="day" style:family="table-cell" style:data-style-name="iso"/>
</office:automatic-styles>
<office:body><office:spreadsheet>{_sheet("Levels", LEVELS)}{_sheet("People", PEOPLE)}
</office:spreadsheet></office:body></office:document>"""

_PDF = (
    'pdf:writer_pdf_Export:{"ExportBookmarks":{"type":"boolean","value":"true"},'
    '"UseTaggedPDF":{"type":"boolean","value":"%s"}}'
)


def main() -> None:
    """Write handbook.docx, .odt, .pdf (tagged) and -plain.pdf, talk.pptx, levels.xlsx."""
    soffice = sys.argv[1] if len(sys.argv) > 1 else "soffice"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)

        def convert(given: Path, to: str, *options: str) -> Path:
            profile = f"-env:UserInstallation=file://{work}/profile"
            command = [soffice, "--headless", profile, *options, "--convert-to", to]
            subprocess.run([*command, "--outdir", str(work), str(given)], check=True)
            return work / f"{given.stem}.{to.partition(':')[0]}"

        def keep(made: Path, name: str) -> None:
            (HERE / name).write_bytes(made.read_bytes())

        page = work / "handbook.html"
        page.write_text(HANDBOOK, "utf-8")
        text = convert(page, "odt:writer8", "--infilter=HTML (StarWriter)")
        keep(text, "handbook.odt")
        keep(convert(text, "docx"), "handbook.docx")
        keep(convert(text, _PDF % "true"), "handbook.pdf")
        keep(convert(text, _PDF % "false"), "handbook-plain.pdf")
        talk = work / "talk.fodp"
        talk.write_text(TALK, "utf-8")
        keep(convert(talk, "pptx"), "talk.pptx")
        book = work / "levels.fods"
        book.write_text(BOOK, "utf-8")
        keep(convert(book, "xlsx"), "levels.xlsx")


if __name__ == "__main__":
    main()
