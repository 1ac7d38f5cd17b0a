"""Every test here is searched for leaks after it."""

from tests.support.relay import make_tunnel, no_leaks

__all__ = ["make_tunnel", "no_leaks"]
