"""Bounded requests to the servers that have traces and metrics; none of them is trusted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx

from gatehouse.oauth import HttpFailure, request_url_error, send_bounded

MAX_BODY_BYTES = 8 * 1024 * 1024
# With the time that a request waits for others.
SECONDS = 6.0
_CONCURRENT = 4


class UpstreamError(Exception):
    """A server has no usable response; the text says which one, what is wrong, and what to check."""


class Upstream:
    """A server that is asked.

    Args:
        http: HTTP client.
        url: Its URL, without a query.
        setting: Where the URL is from, such as "`traces_url` in the profile".
    """

    def __init__(self, http: httpx.AsyncClient, url: str, setting: str) -> None:
        self.url = url.rstrip("/")
        self._http = http
        self._setting = setting
        self._limit = asyncio.Semaphore(_CONCURRENT)

    async def get(self, path: str = "", query: Mapping[str, str] | None = None) -> bytes | None:
        """Return the body of a response; None if its status is 404.

        Raises:
            UpstreamError: There is no response in time, it is too large, or it has another status.
        """
        try:
            async with asyncio.timeout(SECONDS), self._limit:
                return await self._get(path, query or {})
        except TimeoutError:
            raise self.error("no response in time") from None

    async def _get(self, path: str, query: Mapping[str, str]) -> bytes | None:
        url = f"{self.url}{path}"
        if request_url_error(url, allow_http=True):
            raise self.error("not a URL to which requests can be sent")
        try:
            request = self._http.build_request("GET", url, params=query or None)
            response, body = await send_bounded(self._http, request, max_body_bytes=MAX_BODY_BYTES)
        except HttpFailure as failure:
            raise self.error(failure.detail.partition(": ")[2]) from None
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.status_code != httpx.codes.OK:
            raise self.error(f"HTTP {response.status_code}")
        return body

    def error(self, what: str) -> UpstreamError:
        """Return an error about this server."""
        return UpstreamError(f"{self.url}: {what}; check {self._setting}")
