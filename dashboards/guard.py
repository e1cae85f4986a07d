"""Who may read and who may write: a WSGI layer in front of everything that is served.

Rules, in this order: the address in the browser must be ours where no token protects us (a hostile
page may point its own name at 127.0.0.1); a token, if there is one; no write that another site
started; no write at all where only reading is allowed; artifacts are never changed from here.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from werkzeug.wrappers import Request, Response

from dashboards.pages import escape, theme_css

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

COOKIE = "automl_prune_session"
TOKEN_HEADER = "X-Automl-Prune-Token"
LOGIN_PATH = "/login"
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
READING_POSTS = frozenset({"/explorer/_dash-update-component"})
"""Posted because the question is long; they change nothing."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SESSION_S = 12 * 3600.0
LONGEST_LOGIN_BYTES = 4096
FAILED_DELAY_S = 0.5
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-ancestors 'none'; "
        "form-action 'self'; base-uri 'self'; object-src 'none'"
    ),
}


class Guard:
    """Lets through what is allowed; safe to use from several threads."""

    def __init__(
        self,
        app: WSGIApplication,
        *,
        token: str | None,
        read_only: bool,
        loopback: bool,
    ) -> None:
        """Protect ``app``.

        Args:
            app: everything that is served.
            token: who has it may come in; None: everybody who reaches the address.
            read_only: refuse everything that writes.
            loopback: served on this machine only; requests must name it so.
        """
        self._app = app
        self._token = token
        self._read_only = read_only
        self._loopback = loopback
        self._sessions: dict[str, float] = {}
        self._lock = threading.Lock()
        self._failing = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a request, or hand it on."""
        request = Request(environ)
        answer = self._refusal(request)
        if answer is not None:
            answer.headers.extend(HEADERS)
            answer.headers["Cache-Control"] = "no-store"
            return answer(environ, start)

        def start_with_headers(
            status: str, headers: list[tuple[str, str]], *rest: object
        ) -> object:
            given = {name.lower() for name, _ in headers}
            extra = [(name, value) for name, value in HEADERS.items() if name.lower() not in given]
            # The Optuna dashboard lets every site read artifacts; from here none but ours may.
            kept = [pair for pair in headers if pair[0].lower() != "access-control-allow-origin"]
            return start(status, [*kept, *extra], *rest)  # type: ignore[arg-type]

        return self._app(environ, start_with_headers)  # type: ignore[arg-type]

    def _refusal(self, request: Request) -> Response | None:
        if self._loopback and self._token is None and _host_name(request) not in LOOPBACK_NAMES:
            return _refuse(
                HTTPStatus.MISDIRECTED_REQUEST,
                "this server answers only under localhost or 127.0.0.1",
            )
        reading = request.method in READING_METHODS
        if not reading and _from_elsewhere(request):
            return _refuse(HTTPStatus.FORBIDDEN, "a write that another site started is refused")
        if self._token is not None:
            if request.path == LOGIN_PATH:
                return self._login(request)
            if not self._known(request):
                return self._ask_for_token(request)
        if reading or (request.method == "POST" and request.path in READING_POSTS):
            return None
        if self._read_only:
            return _refuse(HTTPStatus.FORBIDDEN, "this dashboard was started with --read-only")
        if request.path.startswith("/api/artifacts/"):
            return _refuse(
                HTTPStatus.FORBIDDEN,
                "artifacts belong to automl-prune and are not changed here; `automl-prune gc` "
                "tidies up",
            )
        return None

    def _known(self, request: Request) -> bool:
        given = request.headers.get(TOKEN_HEADER)
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if given is None and scheme.lower() == "bearer":
            given = bearer.strip()
        if given is not None:
            return self._right(given)
        session = request.cookies.get(COOKIE)
        if session is None:
            return False
        with self._lock:
            return self._sessions.get(_digest(session), 0.0) > time.monotonic()

    def _right(self, given: str) -> bool:
        assert self._token is not None
        if hmac.compare_digest(_digest(given), _digest(self._token)):
            return True
        with self._failing:  # one wrong guess at a time, whoever guesses
            time.sleep(FAILED_DELAY_S)
        return False

    def _ask_for_token(self, request: Request) -> Response:
        wants_page = request.method == "GET" and "text/html" in request.headers.get("Accept", "")
        if not wants_page:
            return _refuse(HTTPStatus.UNAUTHORIZED, "a token is needed", ask=True)
        return _login_page(_local_target(request.full_path), "", HTTPStatus.UNAUTHORIZED)

    def _login(self, request: Request) -> Response:
        target = _local_target(request.args.get("next", "/explorer/"))
        if request.method != "POST":
            return _login_page(target, "", HTTPStatus.OK)
        if (request.content_length or 0) > LONGEST_LOGIN_BYTES:
            return _refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "that is no token")
        if not self._right(request.form.get("token", "")):
            return _login_page(target, "This is not the token.", HTTPStatus.UNAUTHORIZED)
        session = secrets.token_urlsafe(32)
        now = time.monotonic()
        with self._lock:
            self._sessions = {key: end for key, end in self._sessions.items() if end > now}
            self._sessions[_digest(session)] = now + SESSION_S
        answer = Response(status=HTTPStatus.SEE_OTHER, headers={"Location": target})
        answer.set_cookie(
            COOKIE,
            session,
            max_age=int(SESSION_S),
            httponly=True,
            samesite="Strict",
            secure=request.is_secure,
        )
        return answer


def _from_elsewhere(request: Request) -> bool:
    """Whether a browser says that a page of another site sent this."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site not in ("same-origin", "none"):
        return True
    origin = request.headers.get("Origin")
    if origin is None:
        return False  # not a browser, or one that said so above
    return urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower()


def _host_name(request: Request) -> str:
    try:
        return (urlsplit(f"//{request.headers.get('Host', '')}").hostname or "").lower()
    except ValueError:
        return ""


def _local_target(text: str) -> str:
    """A path of this server; anything that could lead elsewhere becomes the explorer's."""
    text = text.rstrip("?")
    plain = text.startswith("/") and not text.startswith("//")
    safe = plain and "\\" not in text and text.isprintable() and not text.startswith(LOGIN_PATH)
    return text if safe else "/explorer/"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _refuse(status: HTTPStatus, why: str, *, ask: bool = False) -> Response:
    answer = Response(f"{why}\n", status=status, mimetype="text/plain")
    if ask:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="automl-prune"'
    return answer


def _login_page(target: str, complaint: str, status: HTTPStatus) -> Response:
    said = f'<p role="alert" class="wrong">{escape(complaint)}</p>' if complaint else ""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>automl-prune: sign in</title><style>{theme_css()}{_LOGIN_CSS}</style></head>"
        f'<body><main><h1>automl-prune</h1><form method="post" '
        f'action="{LOGIN_PATH}?next={quote(target, safe="/")}"><label for="token">Token that the '
        "dashboard was started with</label>"
        '<input id="token" name="token" type="password" autocomplete="current-password" '
        f'required autofocus>{said}<button type="submit">Sign in</button></form></main></body>'
        "</html>"
    )
    return Response(text, status=status, mimetype="text/html")


_LOGIN_CSS = """
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
main { background: var(--paper); border: 1px solid var(--grid); border-radius: 12px;
  padding: 28px; width: min(92vw, 380px); box-sizing: border-box; }
h1 { font-size: 1.3rem; margin: 0 0 14px; } label { display: block; color: var(--soft); }
input, button { font: inherit; width: 100%; box-sizing: border-box; border-radius: 7px;
  padding: 9px 11px; margin-top: 10px; border: 1px solid var(--soft); }
input { background: var(--page); color: var(--ink); }
button { background: var(--accent); border-color: var(--accent); color: var(--paper);
  font-weight: 600; cursor: pointer; }
.wrong { color: var(--bad); margin: 10px 0 0; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
"""
