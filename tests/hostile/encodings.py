"""Hostile spellings: serializations, base64url, Unicode, and JSON that two parsers read differently."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator

from tests.hostile.forge import Forge, Make, Row, forged, respelled, with_payload
from tests.support.oauth_issuers import b64

MALFORMED = "token_malformed"
GRAMMAR = "authorization_malformed"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _spare_bits(forge: Forge) -> str:
    """Return a token whose signature decodes to the same bytes, but has bits that base64 ignores."""
    token = forge.token()
    last = _ALPHABET.index(token[-1])
    assert last % 16 == 0
    return token[:-1] + _ALPHABET[last + 1]


def _standard_base64(forge: Forge) -> str:
    """Return a token whose payload is in base64 instead of base64url."""
    payload = json.dumps(forge.claims(pad="\u00bf\u00bf\u00bf\u00ff" * 9), ensure_ascii=False).encode()
    header, _, signature = forge.token(claims=payload).split(".")
    standard = base64.b64encode(payload).rstrip(b"=").decode()
    assert "/" in standard or "+" in standard
    return f"{header}.{standard}.{signature}"


def serializations() -> Iterator[Row]:
    spellings: dict[str, Callable[[str, str, str], str]] = {
        "no signature": lambda h, p, s: f"{h}.{p}.",
        "no header": lambda h, p, s: f".{p}.{s}",
        "no payload (detached)": lambda h, p, s: f"{h}..{s}",
        "two parts": lambda h, p, s: f"{h}.{p}",
        "one part": lambda h, p, s: h,
        "dots only": lambda h, p, s: "..",
        "a dot": lambda h, p, s: ".",
        "four parts": lambda h, p, s: f"{h}.{p}.{s}.{s}",
        "trailing dot": lambda h, p, s: f"{h}.{p}.{s}.",
        "leading dot": lambda h, p, s: f".{h}.{p}.{s}",
        "five parts (JWE)": lambda h, p, s: f"{h}.{p}.{s}.{s}.{s}",
        "8,000 dots": lambda h, p, s: "." * 8000,
        "SD-JWT": lambda h, p, s: f"{h}.{p}.{s}~WyJjYW5hcnkiXQ~",
    }
    sources = {
        "8,000 dots": "CVE-2025-30204",
        "five parts (JWE)": "RFC 7516 section 3.1",
        "SD-JWT": "RFC 9901",
    }
    for name, spell in spellings.items():
        yield Row(name, sources.get(name, "RFC 7515 section 7.1"), respelled(spell), MALFORMED)
    yield Row(
        "JWE with two billion PBKDF2 rounds",
        "CVE-2022-36083, CVE-2023-52428",
        lambda f: f.unsigned(
            {"alg": "PBES2-HS512+A256KW", "enc": "A256GCM", "p2c": 2**31, "p2s": "AAAA"}, "AAAA.AAAA.AAAA"
        ),
        MALFORMED,
    )
    yield Row(
        "nested JWT",
        "RFC 7519 section 5.2",
        lambda f: f.token({"cty": "JWT"}, f.token().encode()),
        MALFORMED,
    )
    yield Row("token of 8,193 characters", "resource exhaustion", lambda f: "a" * 8193, "token_too_long")
    yield Row(
        "entry of 9,000 characters", "resource exhaustion", lambda f: "a" * 9000, "authorization_too_long"
    )
    yield Row("almost 8 KiB", "valid", lambda f: f.token(claims={"pad": "x" * 5000}))
    json_forms = {
        "flattened JSON serialization": lambda h, p, s: json.dumps(
            {"protected": h, "payload": p, "signature": s}
        ),
        "general JSON serialization": lambda h, p, s: json.dumps(
            {"payload": p, "signatures": [{"protected": h, "signature": s}]}
        ),
        "token twice": lambda h, p, s: f"{h}.{p}.{s} {h}.{p}.{s}",
        "list of tokens": lambda h, p, s: f"{h}.{p}.{s}, Bearer {h}.{p}.{s}",
        "scheme twice": lambda h, p, s: f"Bearer {h}.{p}.{s}",
        "quotes": lambda h, p, s: f'"{h}.{p}.{s}"',
        "parameter": lambda h, p, s: f"access_token={h}.{p}.{s}",
        "percent encoding": lambda h, p, s: f"{h}%2E{p}%2E{s}",
    }
    for name, spell in json_forms.items():
        yield Row(name, "RFC 6750 section 2.1", respelled(spell), GRAMMAR)


def base64url() -> Iterator[Row]:
    source = "RFC 7515 section 2, RFC 4648 section 3.5"
    padded: dict[str, Callable[[str, str, str], str]] = {
        "padded signature": lambda h, p, s: f"{h}.{p}.{s}==",
        "one padding character": lambda h, p, s: f"{h}.{p}.{s}=",
        "padding of nothing": lambda h, p, s: f"{h}.{p}.{s}====",
        "a character less": lambda h, p, s: f"{h}.{p}.{s[:-1]}",
        "signature in base64": lambda h, p, s: f"{h}.{p}.{s[:-2]}+/",
        "tilde": lambda h, p, s: f"{h}.{p}.{s[:-1]}~",
        "header of one character": lambda h, p, s: f"A.{p}.{s}",
    }
    for name, spell in padded.items():
        yield Row(name, source, respelled(spell), MALFORMED)
    yield Row("a character more", source, lambda f: f.token() + "A", "signature_mismatch")
    yield Row("bits that are ignored", "RFC 4648 section 3.5", _spare_bits, MALFORMED)
    yield Row("payload in base64", source, _standard_base64, MALFORMED)
    inner: dict[str, Callable[[str, str, str], str]] = {
        "padded header": lambda h, p, s: f"{h}=.{p}.{s}",
        "padded payload": lambda h, p, s: f"{h}.{p}==.{s}",
        "space in the payload": lambda h, p, s: f"{h}.{p[:9]} {p[9:]}.{s}",
        "tab at the end": lambda h, p, s: f"{h}.{p}.{s}\t",
        "comma": lambda h, p, s: f"{h}.{p}.{s},",
    }
    for name, spell in inner.items():
        yield Row(name, source, respelled(spell), GRAMMAR)
    illegal: dict[str, Callable[[str, str, str], str]] = {
        "line break in the payload": lambda h, p, s: f"{h}.{p[:9]}\n{p[9:]}.{s}",
        "carriage return at the end": lambda h, p, s: f"{h}.{p}.{s}\r",
        "NUL in the signature": lambda h, p, s: f"{h}.{p}.{s[:-1]}\0",
        "letter beyond ASCII": lambda h, p, s: f"{h}.{p}.{s[:-1]}\u00e9",
        "full-width letters": lambda h, p, s: f"{h}.{p}.{s[:-2]}\uff21\uff21",
        "full-width dots": lambda h, p, s: f"{h}\uff0e{p}\uff0e{s}",
        "Arabic digits": lambda h, p, s: f"{h}.{p}.{s[:-2]}\u0663\u0663",
        "zero-width space": lambda h, p, s: f"{h}.{p}.\u200b{s}",
        "byte order mark": lambda h, p, s: f"\ufeff{h}.{p}.{s}",
    }
    for name, spell in illegal.items():
        yield Row(name, source, respelled(spell), GRAMMAR, illegal=True)


def json_documents() -> Iterator[Row]:
    source = "RFC 8259, RFC 7493"
    spoilt: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda _: b"",
        "array": lambda c: b"[" + c + b"]",
        "array of pairs": lambda _: b'[["iss","canary"]]',
        "null": lambda _: b"null",
        "string": lambda c: json.dumps(c.decode()).encode(),
        "number": lambda _: b"1",
        "cut off": lambda c: c[:-1],
        "two documents": lambda c: c + c,
        "text after the object": lambda c: c + b"x",
        "NUL after the object": lambda c: c + b"\0",
        "sub twice": lambda c: c[:-1] + b',"sub":"admin"}',
        "iss twice": lambda c: c[:-1] + b',"iss":"https://evil.test"}',
        "sub twice, once escaped": lambda c: c[:-1] + b',"s\\u0075b":"admin"}',
        "repeated name inside": lambda c: c[:-1] + b',"a":[{"b":1,"b":2}]}',
        "NaN": lambda c: c[:-1] + b',"a":NaN}',
        "Infinity": lambda c: c[:-1] + b',"a":Infinity}',
        "-Infinity": lambda c: c[:-1] + b',"a":[-Infinity]}',
        "number of 5,000 digits": lambda c: c[:-1] + b',"a":' + b"9" * 5000 + b"}",
        "1,001 arrays": lambda c: c[:-1] + b',"a":' + b"[" * 1001 + b"]" * 1001 + b"}",
        "2,000 objects": lambda c: c[:-1] + b',"a":' + b'{"":' * 1000 + b"1" + b"}" * 1000 + b"}",
        "2,000 arrays that are not closed": lambda c: c[:-1] + b',"a":' + b"[" * 2000,
        "invalid UTF-8": lambda c: c[:-1] + b',"a":"\xff"}',
        "overlong UTF-8": lambda c: c[:-1] + b',"a":"\xc0\xaf"}',
        "surrogate in UTF-8": lambda c: c[:-1] + b',"a":"\xed\xa0\x80"}',
        "lone surrogate, escaped": lambda c: c[:-1] + b',"a":"\\ud800"}',
        "lone surrogate in a name": lambda c: c[:-1] + b',"\\udfff":1}',
        "byte order mark": lambda c: b"\xef\xbb\xbf" + c,
        "UTF-16": lambda c: c.decode().encode("utf-16"),
        "UTF-32": lambda c: c.decode().encode("utf-32-le"),
        "single quotes": lambda c: c.replace(b'"', b"'"),
        "trailing comma": lambda c: c[:-1] + b",}",
        "comment": lambda c: c[:-1] + b"/*canary*/}",
        "line break in a string": lambda c: c[:-1] + b',"a":"\n"}',
        "hexadecimal": lambda c: c[:-1] + b',"a":0x1}',
        "leading zero": lambda c: c[:-1] + b',"a":01}',
        "leading plus": lambda c: c[:-1] + b',"a":+1}',
        "vertical tab as white space": lambda c: b"\v" + c,
        "no-break space": lambda c: b"\xc2\xa0" + c,
    }
    sources = {
        "sub twice": "RFC 7519 section 4",
        "iss twice": "RFC 7519 section 4",
        "1,001 arrays": "CVE-2025-52999",
        "2,000 objects": "CVE-2025-52999",
        "number of 5,000 digits": "CVE-2020-10735",
    }
    for name, spoil in spoilt.items():
        yield Row(
            f"payload: {name}",
            sources.get(name, source),
            with_payload(spoil),
            MALFORMED,
        )
    headers = {
        "array": b'["ES256"]',
        "null": b"null",
        "empty": b"",
        "cut off": b'{"alg":"ES256"',
        "alg twice": b'{"alg":"none","alg":"ES256","kid":"key-1"}',
        "alg twice, the other way": b'{"alg":"ES256","alg":"none","kid":"key-1"}',
        "alg twice, once escaped": b'{"alg":"ES256","\\u0061lg":"none","kid":"key-1"}',
        "invalid UTF-8": b'{"alg":"ES256","kid":"\xff"}',
        "byte order mark": b'\xef\xbb\xbf{"alg":"ES256","kid":"key-1"}',
        "2,000 arrays": b'{"alg":"ES256","kid":"key-1","a":' + b"[" * 1001 + b"]" * 1001 + b"}",
    }
    for name, raw in headers.items():
        yield Row(f"header: {name}", "RFC 7515 section 4", forged(raw), MALFORMED)
    valid: dict[str, Callable[[bytes], bytes]] = {
        "white space": lambda c: b" \r\n\t" + c + b"\n",
        "names in other order": lambda c: json.dumps(dict(reversed(json.loads(c).items()))).encode(),
        "escaped letters": lambda c: c.replace(b'"canary-subject"', b'"\\u0063anary-subject"'),
        "pair of surrogates": lambda c: c[:-1] + b',"a":"\\ud83d\\ude00"}',
        "100 arrays": lambda c: c[:-1] + b',"a":' + b"[" * 100 + b"]" * 100 + b"}",
    }
    for name, change in valid.items():
        yield Row(
            f"payload: {name}",
            source,
            with_payload(change),
        )


def _text(text: str) -> Make:
    return lambda _: text


def credentials() -> Iterator[Row]:
    """Texts that are no token at all."""
    texts = {
        "empty": "",
        "padding only": "====",
        "spaces": "   ",
        "equals sign inside": "a=b",
        "HTML": "<script>canary</script>",
        "null": "null.null.null",
    }
    for name, text in texts.items():
        reason = MALFORMED if name == "null" else GRAMMAR
        yield Row(f"credentials: {name}", "RFC 6750 section 2.1", _text(text), reason)
    yield Row(
        "empty objects", "RFC 7515 section 7.1", lambda f: f"{b64(b'{}')}.{b64(b'{}')}.AAAA", "issuer_unknown"
    )


ROWS = [*serializations(), *base64url(), *json_documents(), *credentials()]
