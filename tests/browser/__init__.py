"""The console in a real browser: real pages, a real server and client, a real nginx."""
