"""Which client carries a load: values that can be sent to another process, and the client made of them."""

from __future__ import annotations

import ssl
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune.benchmark.spread import Direct
from autotune.benchmark.wire import WireClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.benchmark.client import HttpClient
    from autotune.benchmark.dialect import Ask


@dataclass(frozen=True, slots=True)
class Target:
    """What is loaded, and with what."""

    url: str
    ask: Ask
    ca_file: str = ""
    """The certificates that its own is checked against, PEM; empty: the system's."""
    urls: Mapping[str, str] = field(default_factory=dict)
    """In place of `url`: that of each instance by its address, where each request says to which it goes."""


def carrier(target: Target) -> HttpClient | WireClient | Direct:
    """The most exact client on this system, of this process.

    Raises OSError for certificates that cannot be read (`ssl.SSLError` for a file that holds none).
    """
    if target.urls:
        return Direct({address: _one(url, target) for address, url in target.urls.items()})
    return _one(target.url, target)


def _one(url: str, target: Target) -> HttpClient | WireClient:
    if sys.platform == "linux" and url.startswith("http://"):
        return WireClient(url, target.ask)
    from autotune.benchmark.client import HttpClient  # noqa: PLC0415 - a tenth of a second before the first request

    tls = ssl.create_default_context(cafile=target.ca_file) if target.ca_file else None
    return HttpClient(url, target.ask, tls=tls)
