"""What a running process tells: logs, and counters. Imported by every other package."""
