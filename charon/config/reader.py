"""Reading a configuration in a process of its own: ``python -m charon.config.reader FILE`` and the calls that run it.

What comes back is pickled. It comes from our own program, started by us, and holds nothing but values.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

from charon.base.errors import ConfigError, StartError
from charon.config.settings import Settings


class Reader:
    """Reads and checks ``path``, beside what its maker does meanwhile."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-P", "-m", "charon.config.reader", str(path)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # noqa: S603 - ourselves

    def settings(self) -> Settings:
        """What was read. Raises ConfigError with every mistake, StartError when reading itself failed."""
        output, _ = self._process.communicate()
        if self._process.returncode != 0:
            code = self._process.returncode
            raise StartError(f"reading the configuration failed with exit code {code}; its own words are above")
        result: Settings | list[str] = pickle.loads(output)  # noqa: S301 - from our own program
        if isinstance(result, Settings):
            return result
        raise ConfigError(result)


def read_settings(path: Path) -> Settings:
    """Read and check ``path``. Raises as :meth:`Reader.settings`."""
    return Reader(path).settings()


def main() -> None:
    """Write the settings of the file that the first argument names, or the list of its mistakes, to standard output."""
    # The schema is only needed here, and this process ends when it has been used.
    from charon.config.compile import compile_settings
    from charon.config.load import load_config

    result: Settings | list[str]
    try:
        result = compile_settings(load_config(Path(sys.argv[1]), os.environ))
    except ConfigError as error:
        result = error.problems
    sys.stdout.buffer.write(pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL))


if __name__ == "__main__":
    main()
