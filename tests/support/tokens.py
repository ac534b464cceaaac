"""A token source for the tests of channels."""

from __future__ import annotations

import asyncio


class Tokens:
    """A TokenSource with a list of tokens; a rejected token is replaced by the next one."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.asked = 0
        self.rejected: list[str] = []
        self.error: BaseException | None = None
        self.gate: asyncio.Event | None = None

    async def token(self) -> str:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self._tokens[0]

    def invalidate(self, token: str) -> None:
        self.rejected.append(token)
        if token == self._tokens[0] and len(self._tokens) > 1:
            self._tokens.pop(0)
