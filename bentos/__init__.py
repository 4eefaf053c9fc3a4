"""Two BentoML services, and the kit of probes that they stand on."""

__version__ = "0.1.0"
