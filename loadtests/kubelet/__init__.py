"""Plays the kubelet: what it would do to a container, by the probes in a manifest.

`spec` reads the probes, `verdict` judges answers as the kubelet does, `driver` probes a running
service, `container` runs one. A load test replays what it recorded through the same verdict.
"""
