"""Helper: a server of files on loopback, for the repositories of built packages."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path


def public_key(built: Path) -> bytes:
    """The public key in the folder of a build, whose name says whether it is a throwaway key."""
    (file,) = (each for each in built.glob("*keyring*.asc"))
    return file.read_bytes()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[int]:
    """Serve a folder at a port of 127.0.0.1; 0 takes a free one. Yields the port. Raises OSError if it is taken."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
