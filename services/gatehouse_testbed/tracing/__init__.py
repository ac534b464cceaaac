"""Traces: an OTLP receiver with Jaeger's query API, and a trace drawn as a tree."""
