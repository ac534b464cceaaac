"""Traces of calls, from a server with Jaeger's query API."""
