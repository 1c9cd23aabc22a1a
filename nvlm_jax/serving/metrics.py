"""What /metrics tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from nvlm_jax.serving.worker import Worker

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server."""

    def __init__(self, worker: Worker):
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, open files, CPU seconds
        self.requests = Counter("nvlm_requests", "Chat completions by HTTP status", ["status"], registry=registry)
        self.prompt_tokens = Counter("nvlm_prompt_tokens", "Tokens of prompts", registry=registry)
        self.tokens = Counter("nvlm_generated_tokens", "Tokens of answers", registry=registry)
        self.first_token = Histogram(
            "nvlm_first_token_seconds", "From a request to its first tokens", buckets=SECONDS, registry=registry
        )
        self.whole = Histogram(
            "nvlm_request_seconds", "From a request to its last token", buckets=SECONDS, registry=registry
        )
        pending = Gauge("nvlm_pending_requests", "Requests that are not finished", registry=registry)
        pending.set_function(lambda: worker.pending)
        working = Gauge("nvlm_decoding_requests", "Requests that are decoded", registry=registry)
        working.set_function(lambda: worker.working)

    def text(self) -> str:
        """Prometheus' text format."""
        return generate_latest(self._registry).decode()
