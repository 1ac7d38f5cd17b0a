"""Logging in and out: name and password, then the second factor where there is one."""

from __future__ import annotations

from flask import Blueprint

blueprint = Blueprint("auth", __name__)
