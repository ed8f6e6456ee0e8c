"""Makes the standard library cooperative. A process of Charon's imports this before anything else.

``os.close`` is put back: gevent's closes pipes and sockets only when the loop next runs, in case someone still polls
them. Here only streams are polled, they stop before they close, and whoever closes a descriptor means now.

No other package has a say in how a process of Charon's is patched: gevent would look for such in the metadata of all
that are installed, at every step, which takes longer than the patching.

Nobody asks who started a greenlet, so that gevent need not note it each time: greenlets have names here.
"""

import os

from gevent import config, events, monkey

events.notify_and_call_entry_points = events.notify  # type: ignore[attr-defined] # gevent's stubs are empty here
config.track_greenlet_tree = False
monkey.patch_all()
os.close = monkey.get_original("os", "close")
