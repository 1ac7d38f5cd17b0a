"""GT: services behind NAT made reachable through a public server. See README.md."""

__version__ = "0.1.0"
