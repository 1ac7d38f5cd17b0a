"""Harness of the e2e and chaos tests: processes, nginx, proxies, services, hand-written peers."""
