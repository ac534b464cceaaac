"""The faults that are tried, in order."""

from __future__ import annotations

from tests.chaos.faults import certificates, clients, clock, database, issuer, pooler, service
from tests.chaos.run import Fault

_MODULES = (database, pooler, issuer, clock, clients, certificates, service)
FAULTS: dict[str, Fault] = {fault.name: fault for module in _MODULES for fault in module.FAULTS}
