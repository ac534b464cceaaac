#!/bin/sh
# In the Dockerfile: builds a wheel of the sources that were copied, and installs it with its bytecode in /overlay.
set -eu
pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir /dist .
pip --python /opt/gatehouse/bin/python install --quiet --no-compile --no-deps --no-index --prefix /overlay /dist/*.whl
python -m compileall -q --invalidation-mode unchecked-hash -s /overlay -p /opt/gatehouse /overlay
