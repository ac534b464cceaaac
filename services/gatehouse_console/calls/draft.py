"""What the page of an RPC has been filled in with, as a form or in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

from gatehouse.app.policy import PolicyRow
from gatehouse.client.calls import Entries
from gatehouse.client.metadata import parse_metadata
from gatehouse.client.requests import load_requests, parse_requests
from gatehouse.settings import ConfigurationError
from gatehouse_console.calls.from_json import NotAForm, fields_of
from gatehouse_console.calls.nodes import Node, TooLarge, build, check, to_json
from gatehouse_console.calls.run import Call
from gatehouse_console.calls.sent import Sent, edit, list_of, read_fields
from gatehouse_console.calls.shapes import LISTS, request_shape

MAX_SECONDS = 600.0
_UNARY_SECONDS, _STREAM_SECONDS = "10", "300"
_TOO_LARGE = "the request has more fields than the form shows; use JSON"


@dataclass(slots=True)
class Draft:
    """A call that is being prepared.

    Attributes:
        method: The RPC.
        root: The requests as a form, None if they are in JSON.
        data: The requests in JSON.
        metadata: Metadata to send, an entry on each line.
        seconds: The deadline.
        problems: What is wrong with `request`, `metadata` and `seconds`.
    """

    method: MethodDescriptor
    root: Node | None = None
    data: str = ""
    metadata: str = ""
    seconds: str = ""
    problems: dict[str, str] = field(default_factory=dict)

    def show_json(self) -> None:
        """Turn the form into JSON; text that is not of its type is kept."""
        if self.root is not None:
            self.data, self.root = self.as_json(indent=2), None

    def show_form(self) -> None:
        """Turn JSON into a form if that is possible, else note why not."""
        if self.root is None:
            try:
                self.root = build(request_shape(self.method), fields_of(self.method, self.data))
            except ConfigurationError as error:
                self._note(error)
            except NotAForm as error:
                self._note(f"{error}; correct it, or stay with JSON")
            except TooLarge:
                self._note(_TOO_LARGE)

    def as_json(self, indent: int | None = None) -> str:
        """Return the requests in JSON."""
        value = load_requests(self.method, self.data) if self.root is None else to_json(self.root)
        if not self.method.client_streaming and len(value) == 1:
            (value,) = value
        return json.dumps(value, indent=indent, ensure_ascii=False)

    def prepare(self, row: PolicyRow, form: Mapping[str, str]) -> Call | None:
        """Return the call, or note what is wrong with it."""
        requests: list[Any] = []
        metadata: Entries = ()
        if self.root is None or check(self.root):
            try:
                requests = parse_requests(self.method, self.data if self.root is None else self.as_json())
            except ConfigurationError as error:
                self._note(error)
        else:
            self._note("some fields are invalid")
        try:
            metadata = parse_metadata(self.metadata.splitlines())
        except ConfigurationError as error:
            self.problems["metadata"] = str(error)
        try:
            seconds = float(self.seconds)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= MAX_SECONDS:
            self.problems["seconds"] = f"deadline: not a number of seconds up to {MAX_SECONDS:g}"
        return None if self.problems else Call(row, requests, metadata, seconds, form)

    def _note(self, problem: object) -> None:
        """Note what is wrong with the request."""
        self.problems["request"] = str(problem).removeprefix("--data: ")


def new_draft(method: MethodDescriptor) -> Draft:
    """Return what the page of an RPC begins with: a form with the required fields."""
    root = build(request_shape(method), list_of([Sent(is_new=True)]))
    return Draft(method, root, seconds=_STREAM_SECONDS if method.server_streaming else _UNARY_SECONDS)


def read_draft(method: MethodDescriptor, form: Mapping[str, str]) -> Draft:
    """Return what a form says, with the field added or removed that its button `edit` names."""
    # Forms have the line ends of MIME.
    values = {name: value.replace("\r\n", "\n") for name, value in form.items()}
    draft = Draft(
        method, None, values.get("data", "{}"), values.get("metadata", ""), values.get("seconds", "")
    )
    if "data" in values:
        return draft
    shape, sent = request_shape(method), read_fields(values)
    if not method.client_streaming:
        sent.children = {0: sent.children.get(0, Sent())}
    try:
        draft.root = build(shape, sent)
        if "edit" in values:
            changed = edit(sent, values["edit"])
            draft.root = build(shape, sent)
            _focus(draft.root, changed)
    except TooLarge:
        draft.problems["request"] = _TOO_LARGE
    return draft


def _focus(root: Node, name: str) -> None:
    """Give the focus to the first input of a field, or to the button that adds it or to it."""
    for node in root.walk():
        inside = node.name == name or node.name.startswith((f"{name}.", f"{name}["))
        if inside and (node.is_leaf or not node.is_set or node.shape.kind in LISTS):
            node.has_focus = True
            return
