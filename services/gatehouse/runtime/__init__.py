"""From `ServiceSpec` to running servers: process, telemetry, signals and files."""

from gatehouse.runtime.periodic import Periodic
from gatehouse.runtime.spec import BackgroundWork, BuiltService, ServiceContext, ServiceSpec
from gatehouse.runtime.wait import wait_any

__all__ = ["BackgroundWork", "BuiltService", "Periodic", "ServiceContext", "ServiceSpec", "wait_any"]
