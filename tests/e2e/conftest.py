"""Fixtures of the end-to-end tests alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.tls_nginx import TLSNginx


@pytest.fixture(scope="session")
def tls_nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSNginx]:
    """One nginx with TLS for all tests of this (xdist) process."""
    with contextlib.closing(TLSNginx(tmp_path_factory.mktemp("tls-nginx"))) as running:
        yield running
