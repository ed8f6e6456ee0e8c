"""Charon and other proxies at the same work.

A proxy is a class (``peer.py``; all are in ``peers.py``), a kind of work another (``workload.py``, ``workloads.py``);
``runner.py`` brings them together. What a run gave is a ``Document`` (``figures.py``), and the table, the bars
(``bars.py``), the page (``page.py``), the chart (``chart.py``) and the check (``check.py``) are made from that alone.
"""
