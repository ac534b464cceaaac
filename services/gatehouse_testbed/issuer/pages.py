"""The HTML pages of the issuer."""

from __future__ import annotations

import html
from collections.abc import Sequence

from starlette.responses import HTMLResponse

_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:16px system-ui;margin:10vh auto;max-width:22rem;padding:0 1rem}}
input,button{{display:block;width:100%;box-sizing:border-box;font:inherit;padding:.5rem;margin:.3rem 0 1rem}}
.error{{color:#b00020}}small{{color:#555}}</style>
<h1>{title}</h1>{body}<small>Development issuer. Not for production.</small></html>"""


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """Return a page; `body` is HTML."""
    return HTMLResponse(_PAGE.format(title=html.escape(title), body=body), status, _SECURITY)


def error_page(message: str) -> HTMLResponse:
    """Return a page with an error."""
    return page("We are sorry", f"<p class=error>{html.escape(message)}</p>", 400)


def expired_page() -> HTMLResponse:
    """Return the page for a form that was submitted twice, or too late."""
    return error_page("This page has expired. Begin again.")


def login_page(action: str, username: str | None, error: str) -> HTMLResponse:
    """Return the login page.

    Args:
        action: Where the form is sent.
        username: The user who logs in again, None to ask for the name.
        error: Why the previous attempt failed, "" for the first one.
    """
    note = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
    name = '<label>Name <input name="username" autocomplete="username" required autofocus></label>'
    if username is not None:
        name = f"<p>You are {html.escape(username)}.</p>"
    return page(
        "Sign in to Gatehouse",
        f'{note}<form method="post" action="{html.escape(action)}">{name}'
        '<label>Password <input name="password" type="password" autocomplete="current-password" required>'
        '</label><button type="submit">Sign in</button></form>',
    )


def user_code_page(action: str, error: str) -> HTMLResponse:
    """Return the page that asks for the code that a device shows (RFC 8628 section 3.3)."""
    note = f'<p class="error" role="alert">{html.escape(error)}</p>' if error else ""
    return page(
        "Log in a device",
        f'{note}<form method="post" action="{html.escape(action)}"><label>Code on the device '
        '<input name="device_user_code" autocomplete="off" autocapitalize="characters" required autofocus>'
        '</label><button type="submit">Continue</button></form>',
    )


def consent_page(action: str, code: str, client: str, scopes: Sequence[str]) -> HTMLResponse:
    """Return the page that asks whether a device may have access."""
    items = "".join(f"<li>{html.escape(scope)}</li>" for scope in scopes)
    return page(
        f"Grant access to {client}",
        f"<p>Allow only if the code is from a device of yours.</p><ul>{items}</ul>"
        f'<form method="post" action="{html.escape(action)}">'
        f'<input type="hidden" name="code" value="{html.escape(code)}">'
        '<button type="submit" name="accept">Yes</button>'
        '<button type="submit" name="cancel">No</button></form>',
    )


def device_status_page(*, denied: bool) -> HTMLResponse:
    """Return the page after the decision."""
    if denied:
        return page("Access denied", "<p>The device gets no access. You can close this page.</p>")
    return page("Device login successful", "<p>Go back to the device. You can close this page.</p>")


def confirm_logout_page(action: str, code: str) -> HTMLResponse:
    """Return the page that asks before a logout."""
    return page(
        "Log out",
        f'<form method="post" action="{html.escape(action)}">'
        f'<input type="hidden" name="session_code" value="{html.escape(code)}">'
        '<p>Do you want to log out?</p><button type="submit">Log out</button></form>',
    )


def logged_out_page() -> HTMLResponse:
    """Return the page after a logout."""
    return page("Logged out", "<p>You are logged out.</p>")
