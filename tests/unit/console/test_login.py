"""Logging in: what it takes, and what it gives."""

from __future__ import annotations

from flask.testing import FlaskClient

from tests.unit.console.conftest import Auth


def test_login(client: FlaskClient, auth: Auth) -> None:
    assert client.get("/login").status_code == 200
    answer = auth.login()
    assert (answer.status_code, answer.location) == (302, "/")
    assert client.get("/login").location == "/"
