"""The checks of `gatehouse doctor`. They use the code that the services use, and change nothing."""

from gatehouse.runtime.doctor.result import Problem, Result, Status, attempt

__all__ = ["Problem", "Result", "Status", "attempt"]
