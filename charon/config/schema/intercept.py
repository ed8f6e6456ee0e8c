"""Connections that were not meant for Charon."""

from __future__ import annotations

from charon.config.schema.section import Section, setting
from charon.config.schema.values import Boolean


class Intercept(Section):
    """Transparent interception."""

    enabled: Boolean = setting(False, "Take over connections that the kernel redirects here.")
