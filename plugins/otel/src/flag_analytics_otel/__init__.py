"""The OpenTelemetry exporter and hook of flag-analytics."""
