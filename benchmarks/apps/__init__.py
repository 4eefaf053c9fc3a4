"""Servers of the peers, as their documentation writes them, for the peers' environment."""
