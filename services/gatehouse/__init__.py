"""Gatehouse: OAuth 2.0 authorization for gRPC services."""
