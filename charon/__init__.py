"""Charon: a service-mesh sidecar proxy for ordinary Linux machines."""

__version__ = "0.1.0"
