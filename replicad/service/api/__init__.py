"""The control API: HTTP for the command line, the dashboard and Prometheus. What it says is in docs/api.md."""
