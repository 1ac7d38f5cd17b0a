"""What happens when something on the path breaks, stalls, floods or lies."""
