"""The list of services: the only place that enumerates them.

Each entry is a package with `DEFAULT_PORT`, and with a module `spec` that defines `SPEC`. This module and the
packages themselves import nothing, so that the health check of a container is cheap.
"""

PACKAGES = (
    "gatehouse.users",
    "gatehouse.admin",
    "gatehouse.public",
    # `make new-service` adds services above this line.
)
