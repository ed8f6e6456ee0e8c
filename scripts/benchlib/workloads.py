"""All kinds of work, in the order in which they run. The last leaves the network of the machine for good."""

from scripts.benchlib.bulk_workloads import Download1M, Download100M, Upload1M, Upload100M
from scripts.benchlib.http_workloads import Http, HttpBare, HttpFull, HttpNew, HttpRecords, HttpTraced, Scaling
from scripts.benchlib.intercept_workloads import Intercepted
from scripts.benchlib.latency_workload import Latency
from scripts.benchlib.memory_workload import Memory
from scripts.benchlib.tcp_workloads import TcpBulk, TcpMessages
from scripts.benchlib.tls_workloads import Https, HttpsNew
from scripts.benchlib.workload import Workload

KINDS: tuple[type[Workload], ...] = (
    *(HttpBare, Http, HttpFull, HttpNew, HttpRecords, HttpTraced, Https, HttpsNew, TcpMessages, TcpBulk),
    *(Download1M, Download100M, Upload1M, Upload100M, Memory, Latency, Scaling, Intercepted),
)
WORKLOADS: dict[str, type[Workload]] = {kind.name: kind for kind in KINDS}
APART = (Http.name, HttpRecords.name, HttpTraced.name)
"""Not among ``all``: http is in http-full too, and the others compare Charon with itself."""
