"""The page Metrics: charts of the services, from Prometheus or from their own endpoints."""
