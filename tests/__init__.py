"""Tests: unit (mirrors gtapp), e2e and chaos (real processes, real sockets), support (their harness)."""
