"""Load tests of the services, with a verdict on their probes."""
