"""The Kubernetes form of rules, scrape targets and dashboards."""
