"""A real nginx with TLS and HTTP/2, and one that is told the visitor's address by PROXY header. Used by e2e tests."""

from __future__ import annotations

from pathlib import Path

from tests.support.certificates import make_pair
from tests.support.nginx import Nginx
from tests.support.ports import Port

# In /seen nginx tells what it knows of the visitor.
CONFIG = """
daemon off;
master_process off;
pid {root}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    default_type application/octet-stream;
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    keepalive_requests 1000000;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_client_certificate {authority};
    ssl_protocols TLSv1.2 TLSv1.3;
    root {root}/www;
    server {{
        listen {address} ssl http2 backlog=4096;
        server_name _;
        location = /seen {{ return 200 "$ssl_server_name $server_protocol $ssl_protocol"; }}
    }}
    server {{
        listen {address} ssl http2;
        server_name members.example.com;
        ssl_verify_client on;
        location = /seen {{ return 200 "$ssl_client_verify $ssl_client_s_dn"; }}
    }}
    server {{
        listen {told_tls} ssl http2 proxy_protocol;
        location = /seen {{ return 200 "$proxy_protocol_addr:$proxy_protocol_port"; }}
    }}
    server {{
        listen {told} proxy_protocol;
        location = /seen {{ return 200 "$proxy_protocol_addr:$proxy_protocol_port"; }}
    }}
}}
"""


class TLSNginx(Nginx):
    """`url` is TLS for any name, and for members.example.com with client certificates; `told` (plain) and `told_tls`
    want a PROXY header. `authority` has issued its certificate and issues those of clients; `trusted` is its file."""

    def __init__(self, root: Path) -> None:
        directory = root / "certificates"
        directory.mkdir(parents=True)
        self.authority = make_pair((), ca=True)
        self.trusted = self.authority.write(directory, "authority").cert
        own = make_pair(["*.example.com"], issuer=self.authority).write(directory, "nginx")
        self._told, self._told_tls = Port(), Port()
        self.told, self.told_tls = f"http://{self._told}", f"https://{self._told_tls}"
        super().__init__(
            root,
            CONFIG,
            certificate=own.cert,
            key=own.key,
            authority=self.trusted,
            told=self._told,
            told_tls=self._told_tls,
        )
        self.url = f"https://{self._port}"

    def _answers(self) -> bool:
        return self._get().status == 400  # "The plain HTTP request was sent to HTTPS port"

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._told.close()
            self._told_tls.close()
