"""Plays the kubelet: what it would do to a container, told from the probes in a manifest.

`spec` reads the probes, `verdict` judges answers as the kubelet does, `driver` asks a running
service; a load test replays what it recorded through the same verdict.
"""
