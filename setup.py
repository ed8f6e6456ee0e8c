"""How Charon is packaged. Versions here are the oldest that work; requirements.txt pins the ones that are tested.

With ``CHARON_COMPILE=1`` in the environment the data path is compiled with mypyc, which takes a C compiler and what
requirements-build.txt names. The source is the same, and works as it is.
"""

import os
import re
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent

# What is compiled: what a request or a relayed byte goes through. Not: exceptions of the system's kind, which mypyc
# cannot make; what others hold weakly (TLS contexts, handlers of logging), which it does not tell them of when it is
# gone; and what changes gevent.
COMPILED = ("wire", "policy", "shared", "net", "proxy")
COMPILED_TELEMETRY = ("access_log", "ledger", "metrics", "sink", "spans", "targets", "text", "tracing")
INTERPRETED = ("tls_failures.py", "tls.py", "patch.py")


def version() -> str:
    """The version, from the package itself (read, not imported: its dependencies may not be there yet)."""
    text = (HERE / "charon" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise SystemExit("charon/__init__.py does not say its __version__")
    return match.group(1)


def compiled() -> list[Any]:
    """The extension modules of the data path; none unless they are asked for."""
    if os.environ.get("CHARON_COMPILE", "0") in ("", "0"):
        return []
    from mypyc.build import mypycify

    modules = [path for package in COMPILED for path in sorted((HERE / "charon" / package).glob("[a-z]*.py"))]
    modules += [HERE / "charon" / "telemetry" / f"{name}.py" for name in COMPILED_TELEMETRY]
    modules += [HERE / "charon" / "base" / f"{name}.py" for name in ("clock", "errors")]
    paths = [str(path.relative_to(HERE)) for path in modules if path.name not in INTERPRETED]
    modules_of: list[Any] = mypycify(["--strict", *paths], opt_level="3", debug_level="0", group_name="charon")
    return modules_of


setup(
    name="charon",
    version=version(),
    description="A service-mesh sidecar proxy for ordinary Linux machines",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The Charon authors",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["charon", "charon.*"]),
    package_data={
        "charon": ["py.typed"],
        "charon.admin": ["dashboard/*"],
    },
    # 3.14.0 to 3.14.4 leak memory with every TLS connection.
    python_requires=">=3.11,!=3.14.0,!=3.14.1,!=3.14.2,!=3.14.3,!=3.14.4",
    install_requires=[
        "Deprecated>=1.2.6",
        "cryptography>=43",
        "dnspython>=2.7",
        "gevent>=26.4",
        # Below 1.40: later ones lack what the exporter for Jaeger's Thrift imports.
        "opentelemetry-exporter-jaeger-thrift>=1.21,<1.22",
        "opentelemetry-exporter-otlp-proto-http>=1.39,<1.40",
        "opentelemetry-sdk>=1.39,<1.40",
        "orjson>=3.10",
        "prometheus-client>=0.20",
        "pydantic>=2.7",
        "python-json-logger>=3.1",
        "PyYAML>=6.0.1",
        "requests>=2.31",
    ],
    ext_modules=compiled(),
    entry_points={"console_scripts": ["charon = charon.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: Proxy Servers",
        "Typing :: Typed",
    ],
)
