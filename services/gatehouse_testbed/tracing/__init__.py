"""Traces: an OTLP receiver with Jaeger's query API, and a view of a trace as a tree."""
