"""Passwords as they are stored: argon2id hashes. For basicAuth of services, gt.py hash-password and the console."""

from __future__ import annotations

import argon2

# OWASP's first recommendation for argon2id: some 25 ms and 19 MiB for each.
hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)


def hash_password(password: str) -> str:
    """The hash of `password`, for the option basicAuth among others. Takes some 25 ms."""
    return hasher.hash(password)
