"""The page Traces: calls as waterfalls, from a Jaeger query API, with the log lines of each."""
