"""Services that the configuration itself names: ``target_service_addr`` and ``services.*.addresses``."""

from __future__ import annotations

from charon.discovery.source import OnChange, Services


class StaticSource:
    """A set of services that changes only when a reloaded configuration replaces it."""

    def __init__(self, services: Services, name: str = "config") -> None:
        self.name = name
        self._services: Services = dict(services)
        self._on_change: OnChange | None = None

    def __repr__(self) -> str:
        return f"<StaticSource {self.name} services={len(self._services)}>"

    def services(self) -> Services:
        return self._services

    def start(self, on_change: OnChange) -> None:
        self._on_change = on_change

    def stop(self) -> None:
        self._on_change = None

    def replace(self, services: Services) -> None:
        """Put another set in force; says so only if it differs."""
        replacement = dict(services)
        if replacement == self._services:
            return
        self._services = replacement
        if self._on_change is not None:
            self._on_change()
