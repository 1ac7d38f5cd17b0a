"""A service that swallows uploads as fast as Python can: `python -m tests.bench.sink ADDRESS:PORT`. Run by parts.py.

nginx would either write them to a disk or read them 4 KiB at a time; neither says much about the way to it.
"""

from __future__ import annotations

import re
import socket
import sys
import threading

READ_BYTES = 1 << 20
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def serve(connection: socket.socket) -> None:
    """Reads requests with a Content-Length and answers each when its body is complete."""
    buffer = bytearray(READ_BYTES)
    with connection:
        head = b""
        while data := connection.recv(65536):
            head += data
            if b"\r\n\r\n" not in head:
                continue
            head, _, body = head.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            left = int(length[1]) - len(body) if length else 0
            while left > 0:
                count = connection.recv_into(buffer, min(left, READ_BYTES))
                if not count:
                    return
                left -= count
            connection.sendall(ANSWER)
            head = b""


def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    listener = socket.create_server((host, int(port)), reuse_port=False)
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
