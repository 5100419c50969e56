"""Pictures as users have them (a path, a PIL image, an array, encoded bytes, a URL), read into encoded bytes; and videos.

Everything behind this file knows one form: the bytes of a picture or video file. What is in memory as pixels becomes a BMP,
which is written and read without loss. Pictures that come out of here can be decoded.
"""

import http.client
import io
import time
import urllib.error
import urllib.request
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from qwenvl_jax.processing.images import MAX_PIXELS, decode_image, image_size
from qwenvl_jax.processing.video import probe_video

ImageSource = str | PathLike[str] | bytes | np.ndarray | Image.Image

MAX_URL_BYTES = 32 * 2**20
MAX_URL_SECONDS = 20.0
"""Limits of a download: its size, and the time that connecting, and then the transfer, may take."""
_WEB = ("http", "https")


def read_image(source: ImageSource, allow_urls: bool = False) -> bytes:
    """The encoded picture of a source. Paths may be of any length; the pixels are those that the original would read.

    Args:
      source: path, encoded bytes (JPEG, PNG, ...), [H, W, 3] uint8 RGB, PIL image, or with `allow_urls` an http(s) URL.
      allow_urls: addresses are fetched, those of the local network too: only where the text of queries is trusted.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no picture, is cut off or too large, or a URL is not allowed or cannot be fetched.
    """
    name = "picture"
    if isinstance(source, np.ndarray):
        data = _from_array(source)
    elif isinstance(source, Image.Image):
        data = _from_pil(source)
    elif isinstance(source, bytes | bytearray):
        data = bytes(source)
    elif isinstance(source, str) and "://" in source[:16]:
        name, data = source, _download(source, allow_urls)
    elif isinstance(source, str | PathLike):
        name, data = fspath(source), _from_file(Path(source))
    else:
        kind = type(source).__name__
        raise ValueError(f"a picture cannot be a {kind}; give a path, a PIL image, an array [H, W, 3] uint8 or bytes")
    try:
        image_size(data)  # the limits first: what is too large is not decoded
        decode_image(data)
    except ValueError as error:
        raise ValueError(f"{_shortened(name)}: {error}") from error
    return data


def read_video(source: str | PathLike[str] | bytes) -> bytes:
    """The encoded video of a path, or of encoded bytes; its frames are counted, none is decoded.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no video of `qwenvl_jax.processing.video.FORMATS`.
    """
    if not isinstance(source, bytes | bytearray | str | PathLike):
        raise ValueError(f"a video cannot be a {type(source).__name__}; give a path or the bytes of a file")
    if isinstance(source, str | PathLike):
        name, data = fspath(source), _from_file(Path(source))
    else:
        name, data = "video", bytes(source)
    try:
        probe_video(data)
    except ValueError as error:
        raise ValueError(f"{_shortened(name)}: {error}") from error
    return data


def _shortened(name: str, length: int = 120) -> str:
    return name if len(name) <= length else f"...{name[-length:]}"


def _from_file(path: Path) -> bytes:
    try:
        if path.is_file():
            return path.read_bytes()
        problem = "is a folder; name a file in it" if path.is_dir() else "there is no such file"
    except (OSError, ValueError) as error:  # not permitted; longer than the system allows; a zero byte in the name
        raise ValueError(f"{_shortened(str(path))} cannot be read: {error.args[-1]}") from error
    raise FileNotFoundError(f"{_shortened(str(path))}: {problem}")


def _from_array(pixels: np.ndarray) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"an array of {pixels.dtype} {list(pixels.shape)} is no picture; give uint8 [H, W, 3] in RGB")
    return _from_pil(Image.fromarray(pixels))


def _from_pil(image: Image.Image) -> bytes:
    if image.width * image.height > MAX_PIXELS:  # before a lazily opened file is decoded
        raise ValueError(f"picture has more than {MAX_PIXELS} pixels; make it smaller")
    file = io.BytesIO()
    try:
        image.convert("RGB").save(file, "BMP")
    except Exception as error:  # readers of broken files raise KeyError, struct.error and whatever else
        raise ValueError(f"{image.mode} picture of {image.width}x{image.height} cannot be read ({error})") from error
    return file.getvalue()


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https alone; urllib would follow them to ftp too."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in _WEB:
            raise urllib.error.URLError(f"it leads to {newurl[:60]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, allowed: bool) -> bytes:
    scheme = urlsplit(url).scheme.lower()
    if scheme not in _WEB:
        raise ValueError(f"{_shortened(url)}: pictures come from files, http and https; {scheme}:// is none of them")
    if not allowed:
        raise ValueError(f"{_shortened(url)}: URLs are not fetched unless allowed (--allow-urls, allow_urls)")
    opener = urllib.request.build_opener(_WebOnly)
    until = time.monotonic() + MAX_URL_SECONDS
    data = bytearray()
    try:
        with opener.open(url, timeout=MAX_URL_SECONDS) as answer:
            while piece := answer.read1(2**16):
                data += piece
                if len(data) > MAX_URL_BYTES:
                    raise ValueError(f"{_shortened(url)} has more than {MAX_URL_BYTES} bytes; download and shrink it")
                if time.monotonic() > until:
                    raise TimeoutError(f"it took more than {MAX_URL_SECONDS:.0f} s")
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise ValueError(f"{_shortened(url)} cannot be fetched: {getattr(error, 'reason', error)}") from error
    return bytes(data)
