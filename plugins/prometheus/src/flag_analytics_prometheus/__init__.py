"""The Prometheus exporter of flag-analytics."""
