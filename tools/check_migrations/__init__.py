"""Refuse migrations that break the running version, see docs/upgrades.md."""
