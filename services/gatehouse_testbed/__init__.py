"""The demo: PostgreSQL, issuer and services on this machine, a tour from the outside, traces to see."""
