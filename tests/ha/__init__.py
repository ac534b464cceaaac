"""The services on a PostgreSQL of three nodes under Patroni, and behind PgBouncer; `make test-ha`."""
