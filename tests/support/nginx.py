"""A real nginx of our own: temporary directory, free port, foreground, one process. A fixture starts it once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from tests.support.http import Response, fetch
from tests.support.ports import Address, Port
from tests.support.processes import Child, eventually

CONFIG = """
daemon off;
master_process off;
pid {root}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
    default_type application/octet-stream;
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    client_max_body_size 0;
    keepalive_requests 10000000;
    keepalive_timeout 300s;
    sendfile on;
    tcp_nodelay on;
    server {{
        listen {address} backlog=4096;
        root {root}/www;
        location / {{ add_header X-Seen-Host $http_host; }}
        # Server side includes have no length beforehand: chunked for HTTP/1.1, ended by close for HTTP/1.0.
        location /unsized/ {{ ssi on; ssi_types *; }}
        location /trickle/ {{ limit_rate 1m; }}
        location /upload/ {{ dav_methods PUT; create_full_put_path on; client_body_buffer_size 64k; }}
    }}
}}
"""


class Nginx:
    """nginx with pages to fetch and a directory to PUT into."""

    def __init__(self, root: Path, template: str = CONFIG, **values: object) -> None:
        binary = shutil.which("nginx") or "/usr/sbin/nginx"
        assert os.path.exists(binary), "nginx is needed by the e2e tests: apt-get install nginx"
        self.root = root
        self.www = root / "www"
        for name in ("www/unsized", "www/trickle", "www/upload", "body", "proxy", "fastcgi", "uwsgi", "scgi"):
            (root / name).mkdir(parents=True)
        (self.www / "index.html").write_bytes(b"<h1>nginx behind a tunnel</h1>\n" * 20)
        self._port = Port()
        self.address: Address = self._port.address
        self.url = f"http://{self._port}"
        config = root / "nginx.conf"
        config.write_text(template.format(root=root, address=self._port, **values))
        self.child = Child("nginx", [binary, "-p", str(root), "-c", str(config), "-e", "stderr"])
        eventually(self._answers, f"nginx answers\n{self.child.tail()}")

    def _answers(self) -> bool:
        return self._get().status == 200

    def _get(self) -> Response:
        return fetch(self.address, "localhost")

    def file(self, path: str, size: int, *, random: bool = True) -> str:
        """Puts a file of this many bytes at path (once); its sha256. Not random: zeros that take no disk."""
        place = self.www / path
        if not place.exists():
            with place.open("wb") as out:
                if random:
                    for start in range(0, size, 1 << 20):
                        out.write(os.urandom(min(1 << 20, size - start)))
                    out.seek(-1, os.SEEK_END)
                    out.write(b".")  # server side includes swallow a "<" at the very end
                else:
                    out.truncate(size)
        return self.sha256(path) if random else ""

    def sha256(self, path: str) -> str:
        """sha256 of a file under www, which an upload may have put there."""
        with (self.www / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def close(self) -> None:
        try:
            assert self.child.end() == 0, f"nginx ended with {self.child.exit_code}\n{self.child.tail()}"
        finally:
            self._port.close()
        bad = [line for line in self.child.lines if re.search(r"\[(emerg|alert|crit)\]", line)]
        assert not bad, "nginx complained:\n" + "\n".join(bad)
