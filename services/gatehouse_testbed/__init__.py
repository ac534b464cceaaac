"""Development and tests only: issuer, PostgreSQL and services on this machine, and a tour of them."""
