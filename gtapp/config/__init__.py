"""The configuration: one table of options (`options`) and what reads files, flags and variables (`load`)."""
