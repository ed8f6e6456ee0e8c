"""``charon run``: the supervisor, in the foreground."""

import charon.net.patch  # noqa: F401 - before all others: they must import the patched standard library

# isort: split
import argparse
import gc

from charon.admin.app import AdminApp, serve
from charon.base.errors import StartError
from charon.config.files import find_config
from charon.config.reader import read_settings
from charon.config.settings import Settings
from charon.daemon.supervisor import Service, Supervisor
from charon.telemetry.events import EventLog
from charon.telemetry.sink import LogSink

# What the supervisor keeps are specs by the ten thousand, none of them in a cycle: with the default thresholds the
# collector would walk them all several times while a large registry is taken over.
_GC_THRESHOLDS = (50_000, 20, 50)


def run(args: argparse.Namespace) -> int:
    """Run until stopped. Raises ConfigError or StartError."""
    settings = read_settings(find_config(args.config))
    logging = settings.logging
    try:
        sink = LogSink(logging.file)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise StartError(f"cannot open the log file {logging.file}: {why}") from error
    events = EventLog(sink, logging.level, logging.format, logging.environment)
    events.capture_libraries()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    Supervisor(settings, sink, events, lambda owner: _serve_admin(owner, settings, events)).run()
    return 0


def _serve_admin(supervisor: Supervisor, settings: Settings, events: EventLog) -> Service:
    app = AdminApp(
        refresh=supervisor.refresh,
        render=supervisor.totals.render,
        ready=supervisor.not_ready,
        status=supervisor.status,
        greenlets=supervisor.greenlets,
        events=events,
    )
    return serve(settings.admin_socket, app, events)
