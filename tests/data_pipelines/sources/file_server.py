"""A web server for the tests of remote sources, whose files may hang, be cut, or be refused."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer(ThreadingHTTPServer):
    """Serves a folder. `faults` says of a file's last name what goes wrong: "hang", "cut", or a status; `asked` has every
    GET, `times` how often a fault is left (endless without)."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults, self.times, self.asked = folder, {}, {}, []
        self.released = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(SimpleHTTPRequestHandler):
    server: FileServer

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments, directory=str(arguments[2].folder))

    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        fault = self.server.faults.get(name)
        if fault is not None and name in self.server.times:
            self.server.times[name] -= 1
            fault = fault if self.server.times[name] >= 0 else None
        if fault is None:
            super().do_GET()
        elif isinstance(fault, int):
            self.send_error(fault)
        else:
            data = (self.server.folder / self.path.strip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            if fault == "hang":
                self.server.released.wait()
            self.close_connection = True

    def do_HEAD(self) -> None:
        fault = self.server.faults.get(self.path.rpartition("/")[2])
        if isinstance(fault, int):
            self.send_error(fault)
        else:
            super().do_HEAD()


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """A server of the folder, for as long as the context lasts."""
    server = FileServer(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
