"""`make bench`: how fast GT is, as ratios to haproxy on the same machine in the same minutes. `--help` tells more."""
