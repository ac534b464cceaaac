"""Forms of requests: fields of every kind, from JSON and to JSON, and where errors are shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format, wrappers_pb2

from gatehouse_console.calls.draft import Draft, new_draft, read_draft
from gatehouse_console.calls.nodes import MAX_NODES, Node, check, place_violations
from gatehouse_console.calls.patterns import html_pattern
from gatehouse_console.calls.shapes import Shape, request_shape
from gatehouse_console.site import load_templates
from tests.console.everything import CALL, SEND, Everything


def full() -> Any:
    """Return a message in which every field is set, many to what is also their default."""
    message = Everything(text=" a\nb\u00e9\U0001f600", flag=True, int_a=-1, int_b=5, int_c=2**32 - 1)
    message.MergeFrom(Everything(long_a=2**63 - 1, long_b=2**64 - 1, number_a=1.5, number_b=float("inf")))
    message.MergeFrom(Everything(blob=b"\0\xff", color=1, maybe_text="", maybe_flag=False, maybe_int=0))
    message.MergeFrom(Everything(maybe_color=0, maybe_blob=b"", made="by the service"))
    message.at.FromJsonString("2026-01-01T00:00:00.123456789Z")
    message.lasts.FromJsonString("-1.5s")
    message.mask.paths.extend(["a_b.c", "d"])
    message.struct.update({"a": [1, None, "x"]})
    message.value.null_value = 0
    message.list_value.extend([1, "b"])
    message.any.Pack(wrappers_pb2.StringValue(value="q"))
    message.empty.SetInParent()
    message.wrapped_text.value = ""
    message.wrapped_long.value = 2**60
    message.wrapped_flag.value = False
    message.texts.extend(["", "b"])
    message.longs.extend([0, 2**62])
    message.colors.extend([0, 1, 7])
    message.flags.extend([True, False])
    message.items.add(name="x")
    message.items.add()
    message.times.add()
    message.labels["a"] = message.labels[""] = "b"
    message.by_number[5].name = "z"
    message.by_flag[True] = 2
    message.chosen_null = 0
    message.item.SetInParent()
    deep = message
    for _ in range(12):
        deep = deep.again
    deep.items.add(name="deep")
    return message


def sent(root: Node) -> dict[str, str]:
    """Return what a browser sends of a form."""
    fields = {}
    for node in root.walk():
        if node.is_set and node.shape.kind not in {"list", "map"}:
            fields[node.name] = node.text.replace("\n", "\r\n")
    return fields


def form_of(data: str, method: Any = CALL) -> Node:
    draft = Draft(method, None, data)
    draft.show_form()
    assert draft.root is not None, draft.problems
    return draft.root


def node_of(root: Node, name: str) -> Node:
    return next(node for node in root.walk() if node.name == name)


def shape(name: str) -> Shape:
    element = request_shape(CALL).element
    assert element is not None
    return next(field for field in element.fields() if field.name == name)


def test_message_of_every_kind_is_the_same_after_json_form_and_json() -> None:
    message = full()
    assert {field.name for field, _ in message.ListFields()} >= {
        field.name for field in message.DESCRIPTOR.fields if field.containing_oneof is None
    }
    draft = read_draft(CALL, sent(form_of(json_format.MessageToJson(message))))
    assert draft.root is not None
    assert check(draft.root)
    assert json_format.ParseDict(json.loads(draft.as_json()), Everything()) == message


@pytest.mark.parametrize(
    "change",
    [
        {"chosen_text": ""},
        {"chosen_int": 0},
        {"chosen_item": {"name": "n"}},
        {"value": {"struct_value": {}}},
        {"number_b": 1e300},
        {"number_a": 0.1},
        {"again": {"again": {}}},
        {"chosen_null": 0},
        {},
    ],
)
def test_choice_and_presence_survive_the_form(change: dict[str, Any]) -> None:
    message = Everything(**change)
    draft = read_draft(CALL, sent(form_of(json_format.MessageToJson(message))))
    assert json_format.ParseDict(json.loads(draft.as_json()), Everything()) == message


def test_whole_number_that_is_written_with_a_fraction_is_whole_in_the_form() -> None:
    root = form_of('{"int_a": 1.0, "long_a": 1e3, "number_a": 2.0}')
    fields = ("int_a", "long_a", "number_a")
    assert [node_of(root, f"request[0].{name}").text for name in fields] == ["1", "1000", "2.0"]


def test_form_begins_with_required_fields_and_sends_nothing_else() -> None:
    draft = new_draft(CALL)
    assert json.loads(draft.as_json()) == {"items": [{}], "item": {}}
    assert draft.root is not None
    assert json.loads(read_draft(CALL, sent(draft.root)).as_json()) == {"items": [{}], "item": {}}


@pytest.mark.parametrize(
    ("field", "text", "error"),
    [
        ("int_a", "abc", "not of type int32"),
        ("int_a", "1_000", "not of type int32"),
        ("int_c", "-1", "not of type uint32"),
        ("long_b", "18446744073709551616", "not of type uint64"),
        ("number_a", "1e400", "not of type float"),
        ("blob", "\u00e9", "not base64"),
        ("at", "yesterday", "not a time such as 2026-01-31T12:00:00Z"),
        ("lasts", "5 minutes", "not a duration such as 1.5s"),
        ("struct", "{", "not JSON of this type"),
        ("struct", "[1]", "not JSON of this type"),
        ("any", '{"@type": "no.such/Type"}', "not JSON of this type"),
        ("maybe_flag", "yes", "not true or false"),
        ("color", "BLUE", "not of type Color"),
    ],
)
def test_text_that_is_not_of_its_type_is_noted_at_its_field_and_kept(
    field: str, text: str, error: str
) -> None:
    name = f"request[0].{field}"
    draft = read_draft(CALL, {"request[0]": "", name: text})
    assert draft.root is not None
    assert not check(draft.root)
    node = node_of(draft.root, name)
    assert (node.text, node.errors) == (text, [error])
    draft.show_json()
    draft.show_form()
    assert draft.root is not None
    assert text in node_of(draft.root, name).text


def test_key_that_occurs_twice_in_a_map_is_noted() -> None:
    entries = {f"request[0].labels[{n}]{part}": "" for n in (0, 1) for part in ("", ".key", ".value")}
    draft = read_draft(CALL, {"request[0]": ""} | entries)
    assert draft.root is not None
    assert not check(draft.root)
    assert node_of(draft.root, "request[0].labels[1].key").errors == ["this key occurs twice; change it"]


def test_fields_are_added_and_removed_and_get_the_focus() -> None:
    fields = {"request[0]": "", "request[0].texts[0]": "a", "request[0].texts[1]": "b"}
    for edit, texts, focus in (
        ("add:request[0].texts[2]", ["a", "b", ""], "request[0].texts[2]"),
        ("remove:request[0].texts[0]", ["b"], "request[0].texts"),
        ("nonsense", ["a", "b"], None),
        ("add:request", ["a", "b"], None),
        ("add:other[0]", ["a", "b"], None),
        ("remove:request[0].texts[9]", ["a", "b"], "request[0].texts"),
    ):
        root = read_draft(CALL, fields | {"edit": edit}).root
        assert root is not None
        assert [child.text for child in node_of(root, "request[0].texts").children] == texts
        assert next((node.name for node in root.walk() if node.has_focus), None) == focus
    root = read_draft(CALL, fields | {"edit": "add:request[0].item"}).root
    assert root is not None
    assert node_of(root, "request[0].item.name").has_focus


def test_member_of_a_oneof_replaces_another() -> None:
    fields = {"request[0]": "", "request[0].chosen_text": "a"}
    edit = {"edit": "remove:request[0].chosen_text add:request[0].chosen_item"}
    draft = read_draft(CALL, fields | edit)
    assert json.loads(draft.as_json()) == {"chosen_item": {}}


def test_stream_has_a_list_of_requests() -> None:
    root = form_of('[{"text": "a"}, {"text": "b"}]', SEND)
    assert [child.name for child in root.children] == ["request[0]", "request[1]"]
    draft = read_draft(SEND, sent(root) | {"edit": "remove:request[0]"})
    assert json.loads(draft.as_json()) == [{"text": "b"}]
    assert json.loads(new_draft(SEND).as_json()) == [{"items": [{}], "item": {}}]
    assert json.loads(read_draft(SEND, {}).as_json()) == []


def test_violations_are_placed_at_the_field_or_the_message_around_it() -> None:
    root = form_of('{"items": [{}, {"name": "x"}], "labels": {"a": "b"}, "item": {}}')
    place_violations(
        root,
        0,
        [
            ("items[1].name", "one"),
            ("labels[*]", "two"),
            ("labels[*].name", "three"),
            ("again.text", "four"),
            ("item.no_such_field", "five"),
            ("", "six"),
            ("unknown", "seven"),
        ],
    )
    found = {node.name.removeprefix("request[0]"): node.errors for node in root.walk() if node.errors}
    assert found == {
        ".items[1].name": ["one"],
        ".labels": ["two", "three"],
        ".again": ["four"],
        ".item": ["five"],
        "": ["six", "seven"],
    }


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ('{"other": 1}', 'request[0]: no field "other"'),
        ('{"int_a": 1, "intA": 2}', "request[0].intA: set twice"),
        ('{"items": {}}', "request[0].items: not a list"),
        ('{"items": [null]}', "request[0].items[0]: null in a list"),
        ('{"item": []}', "request[0].item: not an object"),
        ('{"labels": []}', "request[0].labels: not an object"),
        ('{"text": "\\u0000"}', "request[0].text: has control characters"),
        ('{"text": "\\ud800"}', "surrogates not allowed"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
        ("[{}, {}]", "request: 2 requests; Call takes one"),
        ("{", "not a Everything in JSON"),
        (json.dumps({"texts": ["x"] * MAX_NODES}), "more fields than the form shows"),
    ],
)
def test_json_that_no_form_can_show_stays_json_with_the_reason(data: str, problem: str) -> None:
    draft = Draft(CALL, None, data)
    draft.show_form()
    assert draft.root is None
    assert problem in draft.problems["request"]
    draft.problems["request"].encode()
    assert draft.data == data


def test_form_does_not_grow_without_limit() -> None:
    fields = {"request[0]": ""} | {f"request[0].texts[{n}]": "" for n in range(MAX_NODES - 60)}
    draft = read_draft(CALL, fields | {"edit": "add:request[0].again"})
    assert draft.root is not None
    assert "more fields than the form shows" in draft.problems["request"]
    deep = "request[0]" + ".again" * 300
    assert read_draft(CALL, {deep: "", "request[0]": ""}).as_json() == "{}"


@pytest.mark.parametrize(
    ("field", "hints", "attributes"),
    [
        ("text", ["matches ^[a-z_-]*$"], {"pattern": r".*(?:^[a-z_\-]*$).*"}),
        ("int_b", ["at most 5", "at least -5"], {"type": "number", "step": "1", "min": "-5", "max": "5"}),
        ("int_c", [], {"type": "number", "step": "1", "min": "0", "max": "4294967295"}),
        ("long_a", ["greater than 0"], {"inputmode": "numeric", "pattern": r"-?\d+"}),
        ("number_b", ["one of 1, 2.5", "finite"], None),
        ("blob", ["at most 8 bytes"], None),
        ("color", ["none of COLOR_UNSPECIFIED"], {}),
        ("maybe_text", ["an email address"], {"inputmode": "email", "pattern": "[^@]+@[^@]+"}),
        ("at", ["in the future", "within 60s of now"], {"placeholder": "2026-01-31T12:00:00Z"}),
        ("lasts", ["at most 90s"], None),
        ("wrapped_text", ["at most 4 characters"], {"pattern": "(?=.{0,4}$).*"}),
        ("texts", ["at least 1 item", "no item twice"], {}),
        ("labels", ["at most 3 entries"], {}),
        ("again", ["at most one of text, flag", "text is nice"], {}),
    ],
)
def test_constraints_are_hints_and_attributes(
    field: str, hints: list[str], attributes: dict[str, str] | None
) -> None:
    found = shape(field)
    assert list(found.hints) == hints
    if attributes is not None and found.element is None:
        assert dict(found.attributes) == attributes


def test_items_keys_and_nested_fields_have_their_own_constraints() -> None:
    texts, labels, item = (shape(name) for name in ("texts", "labels", "item"))
    assert texts.element is not None
    assert labels.element is not None
    assert list(texts.element.hints) == ["a UUID"]
    assert [list(field.hints) for field in labels.element.fields()] == [["at most 5 characters"], []]
    name, count = item.fields()
    assert (name.required, list(count.hints)) == (True, ["less than 10", "greater than 0"])
    assert (count.attributes["min"], count.attributes["max"]) == ("1", "9")
    assert (item.required, shape("made").output_only) == (True, True)


@pytest.mark.parametrize(
    ("expression", "pattern"),
    [
        (r"^[a-z][a-z0-9_-]{0,63}$", r".*(?:^[a-z][a-z0-9_\-]{0,63}$).*"),
        (r"^[^\x00]*$", r".*(?:^[^\x00]*$).*"),
        (r"[-a/(]", r".*(?:[\-a\/\(]).*"),
        (r"^(?:a|b)+?$", r".*(?:^(?:a|b)+?$).*"),
        ("(?i)a", None),
        ("(?P<name>a)", None),
        (r"\pN", None),
        ("[[:alpha:]]", None),
        ("[&&]", None),
        ("a**", None),
        (r"[\pN]", None),
    ],
)
def test_expressions_become_patterns_if_browsers_can_compile_them(
    expression: str, pattern: str | None
) -> None:
    assert html_pattern(expression) == pattern


def test_every_kind_of_field_is_rendered_with_label_hint_and_error() -> None:
    message = full()
    message.chosen_item.name = "<script>"
    root = form_of(json_format.MessageToJson(message))
    place_violations(root, 0, [("text", "<b>wrong</b>"), ("made", "x"), ("chosen_int", "y")])
    fields: Any = load_templates().get_template("call_fields.html").module
    text = str(fields.content(root.children[0]))
    assert "<script>" not in text
    assert "&lt;b&gt;wrong&lt;/b&gt;" in text
    assert "<details open>" in text
    for node in root.walk():
        if node.is_leaf and node.is_set:
            assert f'name="{node.name}"' in text
            assert f'for="{node.id}"' in text
    ids = [node.id for node in root.walk()]
    assert len(set(ids)) == len(ids)
    absent = str(fields.content(form_of("{}").children[0]))
    assert 'value="add:request[0].chosen_text"' in absent
    assert 'value="add:request[0].texts[0]"' in absent
    assert 'value="add:request[0].item"' in absent
