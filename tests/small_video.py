"""Small videos, for the tests of processing and of the data way."""

import io
from fractions import Fraction

import av
import numpy as np


def make_video(frames: int, rate: str = "8", height: int = 48, width: int = 64, kind: str = "mp4") -> bytes:
    """Frame n is gray of 8 n, lossless but for colour conversion."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv444p"
        stream.options = {"qp": "0"}
        for number in range(frames):
            image = np.full((height, width, 3), 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
