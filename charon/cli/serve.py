"""The supervisor, put together: what ``charon run`` does once the configuration is being read."""

from __future__ import annotations

import gc
import os
from typing import Any

from charon.admin.app import AdminApp
from charon.admin.permission import Permissions
from charon.admin.server import serve as serve_admin_app
from charon.base.errors import StartError
from charon.config.reader import Reader
from charon.config.settings import Settings
from charon.daemon.inheritance import Inheritance
from charon.daemon.notify import Notifier
from charon.daemon.supervisor import AdminService, Supervisor
from charon.net.capacity import raise_descriptor_limit
from charon.telemetry.events import EventLog
from charon.telemetry.sink import LogSink

# What the supervisor keeps are specs by the ten thousand, none of them in a cycle: with the default thresholds the
# collector would walk them all several times while a large registry is taken over.
_GC_THRESHOLDS = (50_000, 20, 50)


def serve(reader: Reader) -> int:
    """Run until stopped. Raises ConfigError or StartError."""
    notifier, inheritance = Notifier.of_this_process(os.environ), Inheritance.of_this_process(os.environ)
    raise_descriptor_limit()  # every connection takes one or two
    settings = reader.settings()
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

    def serve_admin(supervisor: Supervisor, inherited: Any) -> AdminService:
        return _serve_admin(supervisor, settings, events, inherited)

    Supervisor(settings, sink, events, serve_admin, inheritance, notifier).run()
    return 0


def _serve_admin(supervisor: Supervisor, settings: Settings, events: EventLog, inherited: Any) -> AdminService:
    admin = settings.admin
    permissions = Permissions(admin.read_token_file, admin.write_token_file, admin.group_may_write)
    app = AdminApp(supervisor, events, permissions)
    return serve_admin_app(
        settings.admin_socket, app, events, inherited=inherited, address=admin.address, permissions=permissions
    )
