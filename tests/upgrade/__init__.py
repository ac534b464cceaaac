"""The previous version's services run on the new schema: `make test-upgrade`, docs/upgrades.md."""
