"""Whole paths: visitor, server, tunnel, client, local service, each a real process or socket."""
