"""Draws the dashboards from a live Prometheus, one image each, without Grafana.

`python -m monitoring.grafana.render --prometheus http://127.0.0.1:9090 --out docs/images` reads the
JSON that Grafana reads, asks the queries that Grafana would ask with everything chosen, and draws
the panels where the grid has them: for documentation, and for a look where there is no Grafana.
"""
