"""The error of every invalid configuration."""

from __future__ import annotations


class ConfigurationError(Exception):
    """The configuration is invalid; the message is one line that says what, where and how to fix it."""

    exit_code = 2
