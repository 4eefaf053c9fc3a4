"""Grafana dashboards as typed Python, and a renderer of their JSON without Grafana.

The builders are this package's own, not grafana-foundation-sdk: docs/architecture.md compares them.
"""
