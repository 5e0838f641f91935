"""A folder behind HTTP, on a server that can be told to misbehave."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

Fault = Literal["503", "403", "drop", "half"]


class Server:
    def __init__(self, folder: Path) -> None:
        self.asked: Counter[str] = Counter()
        """File name -> how often it was asked for."""
        self.faults: dict[str, list[Fault]] = {}
        """File name -> what goes wrong at its next requests, one after another."""
        handler = partial(_Handler, self, directory=str(folder))
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, server: Server, *args: object, directory: str) -> None:
        self.told = server
        super().__init__(*args, directory=directory)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.told.asked[name] += 1
        faults = self.told.faults.get(name)
        fault = faults.pop(0) if faults else None
        if fault in ("503", "403"):
            self.send_error(int(fault))
        elif fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "half":
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            super().do_GET()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()
