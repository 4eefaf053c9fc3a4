"""Prometheus rules, Alertmanager routes, dashboards and their Kubernetes form."""
