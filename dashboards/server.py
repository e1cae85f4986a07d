"""One process, two pages: the Optuna dashboard at the root, the Pareto explorer beside it."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from automl_prune.errors import ConfigError, EnvironmentProblemError
from dashboards.explorer import PREFIX, make_explorer
from dashboards.guard import LOOPBACK_NAMES, Guard
from dashboards.view import Studies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

SHORTEST_TOKEN = 16
DEFAULT_PORT = 8080


class _QuietHandler(WSGIRequestHandler):
    """Requests go to our log, and only when somebody debugs; never with a query or a cookie."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        logger.debug("%s %s", self.address_string(), message % args)


class LazyApp:
    """A WSGI application that is made by the first request, so that others need not wait."""

    def __init__(self, make: Callable[[], WSGIApplication]) -> None:
        """Make nothing yet."""
        self._make = make
        self._app: WSGIApplication | None = None
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Make the application if nobody has, and hand the request on."""
        with self._lock:
            if self._app is None:
                self._app = self._make()
        return self._app(environ, start)


@dataclass(slots=True, kw_only=True)
class Running:
    """A server that is bound to its address; nobody is answered before :meth:`run`."""

    server: BaseWSGIServer
    host: str
    port: int
    """The real one, where 0 was asked for."""

    @property
    def url(self) -> str:
        """Where the explorer is."""
        return f"{self._root}{PREFIX}"

    @property
    def optuna_url(self) -> str:
        """Where the Optuna dashboard is."""
        return f"{self._root}/dashboard"

    @property
    def _root(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}"

    def run(self) -> None:
        """Answer until :meth:`stop` or Ctrl-C."""
        try:
            self.server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            logger.info("dashboard stopped")
        finally:
            self.server.server_close()

    def stop(self) -> None:
        """End :meth:`run`, from another thread."""
        self.server.shutdown()


def serve(
    storage_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    token: str | None = None,
    read_only: bool = False,
    no_auth: bool = False,
    on_ready: Callable[[Running], None] | None = None,
) -> None:
    """Serve both pages until Ctrl-C.

    Args:
        storage_url: SQLAlchemy URL of the storage.
        host: address to listen on; anything but this machine itself needs ``token`` or
            ``no_auth``.
        port: 0: any that is free.
        token: who has it may come in: header ``Authorization: Bearer`` or
            ``X-Automl-Prune-Token``, or the login page.
        read_only: refuse everything that writes, the Optuna dashboard's routes included.
        no_auth: let everybody in who reaches the address.
        on_ready: called once the address is bound.

    Raises:
        ConfigError: the address would be open to others without a token, or the token is short.
        EnvironmentProblemError: the port is in use, or the address is not ours.
        StorageError: the storage cannot be reached.
        StudyNotFoundError: there is nothing of ours in it.
    """
    running = bind(
        storage_url, host=host, port=port, token=token, read_only=read_only, no_auth=no_auth
    )
    if on_ready is not None:
        on_ready(running)
    running.run()


def bind(
    storage_url: str,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    token: str | None = None,
    read_only: bool = False,
    no_auth: bool = False,
) -> Running:
    """Check everything and take the address; arguments and errors as :func:`serve`."""
    loopback = is_loopback(host)
    if token is not None and no_auth:
        raise ConfigError("a token and --no-auth were given; leave one of them out")
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"the token has {len(token)} characters, at least {SHORTEST_TOKEN} are needed; "
            "`openssl rand -hex 16` makes one"
        )
    if not loopback and token is None and not no_auth:
        raise ConfigError(
            f"--host {host} can be reached from other machines, and the dashboard can rename and "
            "delete studies: give a token, or say --no-auth to let everybody in"
        )
    listener = _listen(host, port)
    try:
        app = make_app(storage_url, token=token, read_only=read_only, loopback=loopback)
        real_port = listener.getsockname()[1]
        server = make_server(
            host,
            real_port,
            app,
            threaded=True,
            request_handler=_QuietHandler,
            fd=os.dup(listener.fileno()),
        )
    finally:
        listener.close()
    server.daemon_threads = True  # type: ignore[attr-defined]  # threaded servers have it
    return Running(server=server, host=host, port=real_port)


def make_app(
    storage_url: str, *, token: str | None, read_only: bool, loopback: bool
) -> WSGIApplication:
    """Both pages behind the guard, as one WSGI application."""
    studies = Studies.open(storage_url)
    studies.warm()
    pages = DispatcherMiddleware(
        LazyApp(lambda: _optuna_dashboard(studies, publishes=not read_only)),
        {PREFIX.rstrip("/"): make_explorer(studies)},
    )
    return Guard(pages, token=token, read_only=read_only, loopback=loopback)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    return host in LOOPBACK_NAMES or host.startswith("127.")


def _optuna_dashboard(studies: Studies, *, publishes: bool) -> WSGIApplication:
    """The Optuna dashboard as it is, with our figures and notes kept up to date if allowed.

    Made when somebody first opens it, because Optuna is slow to load.
    """
    import optuna
    from optuna_dashboard import wsgi

    from automl_prune.storage.database import POSTGRES_OPTIONS, SQLITE_BUSY_S
    from dashboards.optuna_pages import PagePublisher
    from dashboards.optuna_store import VerifiedStore

    options: dict[str, Any]
    if studies.storage.is_sqlite:
        options = {"connect_args": {"timeout": SQLITE_BUSY_S}}
    else:
        options = {"pool_pre_ping": True, "pool_size": 2, "connect_args": dict(POSTGRES_OPTIONS)}
    storage = optuna.storages.RDBStorage(
        studies.storage.url,
        engine_kwargs=options,
        skip_compatibility_check=True,
        skip_table_creation=True,
    )
    if publishes:
        PagePublisher(studies, storage).start()
    app: WSGIApplication = wsgi(storage, artifact_store=VerifiedStore(studies))
    return app


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, or what is in its way in one sentence."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            why = f"port {port} is in use; choose another with --port, or 0 for any that is free"
        else:
            why = f"{getattr(error, 'strerror', None) or error}; check --host and --port"
        raise EnvironmentProblemError(f"cannot listen on {host}, port {port}: {why}") from error
    return listener
