"""The protocols, without input and output: bytes in, events out. Nothing here knows sockets, gevent or time."""
