"""A server until its end: of SIGTERM or SIGINT, or of its engine."""

from __future__ import annotations

import contextlib

import uvicorn

from nvlm_jax.serving.app import Server, make_app
from nvlm_jax.serving.connections import uvicorn_options

AFTER_FAILURE = 5  # seconds for those who are still connected to read that the engine failed


def make_uvicorn(server: Server, host: str = "127.0.0.1", port: int = 0, log_level: str = "info") -> uvicorn.Server:
    """A server that listens once it runs, and stops when its engine fails; then `server.worker.failure` says why."""
    options = uvicorn_options(server.settings)
    config = uvicorn.Config(make_app(server), host=host, port=port, log_level=log_level, access_log=False, **options)
    running = uvicorn.Server(config)

    def end() -> None:
        config.timeout_graceful_shutdown = AFTER_FAILURE
        running.should_exit = True

    server.worker.on_failure = end
    return running


def run(server: Server, host: str, port: int) -> str:
    """Serve until the end. Why it failed; empty where the server was told to end."""
    running = make_uvicorn(server, host, port)
    with contextlib.suppress(KeyboardInterrupt):
        running.run()
    if not running.started:
        return f"nothing listens on {host}:{port}"
    return server.worker.failure
