"""Promises of `qwenvl_jax.processing.image_sources`: every form gives the same pixels, every mistake is a sentence."""

import http.server
import io
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qwenvl_jax.processing import image_sources
from qwenvl_jax.processing.image_sources import read_image
from qwenvl_jax.processing.images import MAX_PIXELS, decode_image


def noise(mode: str = "RGB", size=(61, 47)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


@pytest.mark.parametrize("kind, mode", [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P")])
def test_all_forms_give_the_same_pixels(tmp_path, kind, mode) -> None:
    """Path (as string or Path), bytes, PIL image and array of one picture, odd sizes and other modes than RGB included."""
    file = tmp_path / "picture"
    noise(mode).save(file, kind)
    image = Image.open(file)
    forms = [str(file), file, file.read_bytes(), image, np.asarray(image.convert("RGB"))]
    first, *others = [decode_image(read_image(form)) for form in forms]
    for other in others:
        np.testing.assert_array_equal(other, first)
    assert read_image(file) == file.read_bytes()


def test_paths_of_any_length(tmp_path) -> None:
    """The original takes 254 bytes; here only the system sets a limit, and it is a sentence too."""
    folder = tmp_path
    while len(str(folder)) < 1200:
        folder /= "长" * 60
    folder.mkdir(parents=True)
    noise().save(folder / "a b.png")
    assert decode_image(read_image(str(folder / "a b.png"))).shape == (47, 61, 3)
    with pytest.raises(ValueError, match="cannot be read: File name too long"):
        read_image("x" * 5000)


def damaged(kind: str) -> bytes:
    file = io.BytesIO()
    noise().save(file, kind)
    return file.getvalue()[: len(file.getvalue()) // 2]


def huge() -> bytes:
    """A PNG header that promises more pixels than are allowed."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = (MAX_PIXELS).to_bytes(4) + (2).to_bytes(4)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("no/such.png", "no/such.png: there is no such file"),
        (".", "is a folder"),
        ("a\0b", "there is no such file"),
        (b"", "no readable picture"),
        (b"%PDF-1.4 ...", "no readable picture; give JPEG, PNG"),
        (damaged("PNG"), "cannot be decoded"),
        (damaged("JPEG"), "cannot be decoded"),
        (huge(), f"more than {MAX_PIXELS} pixels"),
        (np.zeros((4, 4), np.uint8), r"array of uint8 \[4, 4\] is no picture"),
        (np.zeros((4, 4, 3), np.float32), "array of float32"),
        (np.zeros((0, 4, 3), np.uint8), "is no picture"),
        (np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)), "pixels; make it smaller"),
        (Image.open(io.BytesIO(damaged("PNG"))), "RGB picture of 61x47 cannot be read"),
        (7, "cannot be a int"),
        ("https://example.com/a.png", "URLs are not fetched unless allowed"),
        ("HTTP://example.com/a.png", "URLs are not fetched unless allowed"),
        ("file:///etc/passwd", "file:// is none of them"),
    ],
)
def test_mistakes_are_a_sentence(source, sentence) -> None:
    """Whatever is given, one line says what is wrong; a file's name stands in it."""
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as raised:
        read_image(source)
    assert "\n" not in str(raised.value)


def test_a_damaged_file_is_named(tmp_path) -> None:
    """Among many pictures one knows which to replace."""
    file = tmp_path / "half.jpg"
    file.write_bytes(damaged("JPEG"))
    with pytest.raises(ValueError, match=r"half\.jpg: JPEG picture of 61x47 cannot be decoded"):
        read_image(file)


class Site(http.server.BaseHTTPRequestHandler):
    """/picture, /moved (to /picture), /leaves (to another scheme), /endless."""

    def do_GET(self) -> None:
        if self.path in ("/moved", "/leaves"):
            self.send_response(302)
            self.send_header("Location", "/picture" if self.path == "/moved" else "ftp://127.0.0.1/x")
            self.end_headers()
        elif self.path == "/gone":
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            if self.path == "/picture":
                noise().save(self.wfile, "PNG")
            while self.path == "/endless":
                try:
                    self.wfile.write(bytes(2**16))
                except OSError:
                    return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_urls_where_they_are_switched_on(site, monkeypatch) -> None:
    """A picture is fetched, over redirections within the web, and within limits of size and time."""
    monkeypatch.setenv("no_proxy", "*")
    expected = np.asarray(noise())
    for path in ("/picture", "/moved"):
        np.testing.assert_array_equal(decode_image(read_image(site + path, allow_urls=True)), expected)
    for path, sentence in (("/leaves", "it leads to ftp://"), ("/gone", "cannot be fetched: Not Found")):
        with pytest.raises(ValueError, match=sentence):
            read_image(site + path, allow_urls=True)
    monkeypatch.setattr(image_sources, "MAX_URL_BYTES", 2**20)
    with pytest.raises(ValueError, match="has more than 1048576 bytes"):
        read_image(site + "/endless", allow_urls=True)
    monkeypatch.setattr(image_sources, "MAX_URL_BYTES", 2**40)
    monkeypatch.setattr(image_sources, "MAX_URL_SECONDS", 0.2)
    with pytest.raises(ValueError, match="it took more than 0 s"):
        read_image(site + "/endless", allow_urls=True)
    with pytest.raises(ValueError, match="file:// is none of them"):
        read_image(Path(__file__).as_uri(), allow_urls=True)
