"""The faults, a file each; importing this package enters them into the register, in this order."""

from scripts.faultlib.faults import (  # noqa: F401, I001 - in the order of the register
    upstream_killed,
    idle_closed,
    all_down,
    black_hole,
    failing_upstream,
    retry_load,
    client_aborts,
    collector,
    rate_limit,
)
