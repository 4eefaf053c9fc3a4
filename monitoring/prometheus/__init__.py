"""Prometheus and Alertmanager: typed sources of the rules, and the files made from them."""
