#!/bin/sh
# gt.py as it is called inside a container: docker exec NAME gt.py status
exec /opt/gt/bin/python /opt/gt/docker/entrypoint.py gt.py "$@"
