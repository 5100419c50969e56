"""Small PDFs, written by hand: pages of given operators, Helvetica as F1, and a font F2 that draws what it calls Chinese."""

from collections.abc import Sequence
from pathlib import Path

HELVETICA = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
CHINESE = "中文测试"
NAMES = ("a", "b", "c", "d")
"""A Type 3 font draws its own glyphs; codes 97 .. 100 are filled squares, which its map says are `CHINESE`."""


def text_at(x: float, y: float, text: str, size: float = 20, before: str = "") -> str:
    """Operators that write a line."""
    return f"q BT {before} /F1 {size} Tf {x} {y} Td ({text}) Tj ET Q "


def write_pdf(path: Path, pages: Sequence[str], size: str = "0 0 300 400", extra: str = "") -> Path:
    """A PDF with these pages' operators; `extra` stands in every page, as /Rotate does."""
    objects: list[bytes] = []

    def add(data: bytes) -> int:
        objects.append(data)
        return len(objects)

    def stream(data: bytes, head: bytes = b"") -> int:
        return add(b"<< /Length %d %s>>\nstream\n%s\nendstream" % (len(data), head, data))

    add(b"<< /Type /Catalog /Pages 2 0 R >>")
    add(b"")
    codes = "".join(f"<{97 + n:02x}> <{ord(c):04x}>\n" for n, c in enumerate(CHINESE))
    named = stream(
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def\n"
        b"1 begincodespacerange <00> <ff> endcodespacerange\n"
        b"%d beginbfchar\n%s endbfchar endcmap end end" % (len(CHINESE), codes.encode())
    )
    glyph = stream(b"1000 0 0 0 900 900 d1 0 0 900 900 re f")
    drawn = b" ".join(b"/%s %d 0 R" % (name.encode(), glyph) for name in NAMES)
    listed = b" ".join(b"/%s" % name.encode() for name in NAMES)
    chinese = add(
        b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 1000 1000] /FontMatrix [0.001 0 0 0.001 0 0] /CharProcs << %s >> "
        b"/Encoding << /Type /Encoding /Differences [97 %s] >> /FirstChar 97 /LastChar 100 "
        b"/Widths [1000 1000 1000 1000] /ToUnicode %d 0 R /Resources << >> >>" % (drawn, listed, named)
    )
    helvetica = add(HELVETICA)
    kids = []
    for operators in pages:
        content = stream(operators.encode("latin-1"))
        kids.append(
            add(
                b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] %s /Contents %d 0 R "
                b"/Resources << /Font << /F1 %d 0 R /F2 %d 0 R >> >> >>"
                % (size.encode(), extra.encode(), content, helvetica, chinese)
            )
        )
    references = b" ".join(b"%d 0 R" % kid for kid in kids)
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (references, len(kids))
    return finish(path, objects)


def finish(path: Path, objects: Sequence[bytes], trailer: bytes = b"") -> Path:
    """Numbers the objects and writes the table of their places; object 1 is the catalog."""
    data, places = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, len(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data + b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table) + end)
    return path


def write_locked_pdf(path: Path) -> Path:
    """A PDF whose encryption (RC4, 40 bits) no empty password opens: its check value is none."""
    locked = b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (b"11" * 32, b"22" * 32)
    catalog, pages = b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 400] >>"
    return finish(path, [catalog, pages, page, locked], b"/Encrypt 4 0 R /ID [<00> <00>]")


def write_song_pdf(path: Path) -> Path:
    """A page whose font is Adobe's Song by name alone, as old Chinese files have it."""
    text = CHINESE.encode("utf-16-be").hex()
    content = f"BT /F1 20 Tf 50 300 Td <{text}> Tj ET".encode()
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 400] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [6 0 R] >>",
        b"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /FontDescriptor 7 0 R "
        b"/CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 2 >> >>",
        b"<< /Type /FontDescriptor /FontName /STSong-Light /Flags 4 /FontBBox [0 -200 1000 900] /ItalicAngle 0 "
        b"/Ascent 752 /Descent -271 /CapHeight 737 /StemV 58 >>",
    )
    return finish(path, objects)
