"""``charon run``: the supervisor, in the foreground."""

from gevent import monkey

monkey.patch_all()

# Everything else may only be imported once the standard library is patched.
import argparse  # noqa: E402
import os  # noqa: E402

from charon.admin.app import AdminApp, serve  # noqa: E402
from charon.base.errors import StartError  # noqa: E402
from charon.config.load import Config, find_config, load_config  # noqa: E402
from charon.daemon.supervisor import Service, Supervisor  # noqa: E402
from charon.telemetry.events import EventLog  # noqa: E402
from charon.telemetry.sink import LogSink  # noqa: E402


def run(args: argparse.Namespace) -> int:
    """Run until stopped. Raises ConfigError or StartError."""
    config = load_config(find_config(args.config), os.environ)
    logging = config.root.logging
    try:
        sink = LogSink(None if config.log_file is None else str(config.log_file))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise StartError(f"cannot open the log file {config.log_file}: {why}") from error
    events = EventLog(sink, logging.level, logging.format, logging.environment)
    Supervisor(config, sink, events, lambda owner: _serve_admin(owner, config, events)).run()
    return 0


def _serve_admin(supervisor: Supervisor, config: Config, events: EventLog) -> Service:
    app = AdminApp(
        refresh=supervisor.refresh,
        render=supervisor.totals.render,
        ready=supervisor.not_ready,
        status=supervisor.status,
        events=events,
        metrics_path=config.root.metrics.path,
    )
    return serve(str(config.admin_socket), app, events)
