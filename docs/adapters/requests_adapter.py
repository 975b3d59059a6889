"""``requests`` under the deadlines of httpx_net: ``session.mount("https://", Adapter())``.

Needs ``urllib3_pools.py`` and ``stream_socket.py`` beside it.
"""

from __future__ import annotations

from typing import Any

import requests.adapters
import urllib3
from urllib3_pools import over_httpx_net


class Adapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        over_httpx_net(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> urllib3.PoolManager:
        manager = super().proxy_manager_for(*args, **kwargs)
        is_http = isinstance(manager, urllib3.ProxyManager)  # the one for SOCKS is not
        return over_httpx_net(manager) if is_http else manager
