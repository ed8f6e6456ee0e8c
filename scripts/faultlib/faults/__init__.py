"""The faults, a file each; importing this package enters them into the register, in this order."""

from scripts.faultlib.faults import (  # noqa: F401, I001 - in the order of the register
    upstream_killed,
    idle_closed,
    all_down,
    black_hole,
    failing_upstream,
    retry_load,
    client_aborts,
    rate_limit,
    registry,
    reloads,
    drain,
    upgrades,
    worker_kills,
    leaks,
    slowloris,
    idle_crowd,
    overload,
    tls_stall,
    totals,
    log_stuck,
)
