"""Makes the standard library cooperative. A process of Charon's imports this before anything else.

``os.close`` is put back: gevent's closes pipes and sockets only when the loop next runs, in case someone still polls
them. Here only streams are polled, they stop before they close, and whoever closes a descriptor means now.
"""

import os

from gevent import monkey

monkey.patch_all()
os.close = monkey.get_original("os", "close")
