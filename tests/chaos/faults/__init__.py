"""The faults that are tried, in order."""

from __future__ import annotations

from tests.chaos.faults import certificates, clients, database, issuer, pooler, service
from tests.chaos.model import Fault

_MODULES = (database, pooler, issuer, clients, certificates, service)
FAULTS: dict[str, Fault] = {fault.name: fault for module in _MODULES for fault in module.FAULTS}
