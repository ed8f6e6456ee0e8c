"""Charon and other proxies at the same work; a class a proxy in ``peers``, a class a kind of work in ``workloads``."""
