"""Every way to compute attention, at the sizes of D, X and the vision encoder.

    python -m launch.benchmarks.attention [--blocks]

Milliseconds and TFLOP/s forward, and forward and backward, in bfloat16; and how far each is from `blockwise` in
float32 with exact products. FLOPs are those of visible pairs alone, 4 a pair and unit of width forward and 10 backward,
whatever a kernel computes beyond. On CPU rows are 16 times shorter and no kernel is tried: those would be interpreted.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from launch.benchmarks.output import run
from nvlm_jax.models.attention import KERNELS, CausalMask, Mask, TileKeys, TileMask, attend

KEYS_A_TILE, SAMPLE = 256, 1500  # tokens of a sample, about
DENSE_BYTES = 6e9  # of float32 scores, up to which `dense` is tried
PASSES = {"forward": 1.0, "forward and backward": 3.5}  # products, forward = 1
REPEATS = 10
Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Case(NamedTuple):
    """Arrays of one attention."""

    name: str
    rows: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    width: int
    kind: str  # causal | tiles | all


CASES = (
    Case("D-1b: causal, 8192, 14 heads of 64 over 2", 1, 8192, 8192, 14, 2, 64, "causal"),
    Case("X-1b: 2048 on 36 x 256, 14 heads of 64 over 2", 1, 2048, 36 * KEYS_A_TILE, 14, 2, 64, "tiles"),
    Case("vision: 26 x 1025, 16 heads of 64", 26, 1025, 1025, 16, 16, 64, "all"),
    Case("D-72b: causal, 8192, 64 heads of 128 over 8", 1, 8192, 8192, 64, 8, 128, "causal"),
)


def shorter(case: Case, factor: int) -> Case:
    """The case with rows shorter by this factor, and one row at most."""
    keys = case.keys // factor // KEYS_A_TILE * KEYS_A_TILE if case.kind == "tiles" else case.keys // factor
    return case._replace(rows=1, queries=case.queries // factor, keys=keys)


def make_mask(case: Case) -> Mask | None:
    """Samples of about SAMPLE tokens; for tiles as many of them a sample, its first token the image's."""
    if case.kind == "all":
        return None
    random = np.random.default_rng(0)
    count = max(case.queries // SAMPLE, 1) if case.kind == "causal" else min(4, case.keys // KEYS_A_TILE)
    shift = random.integers(-case.queries // 32, case.queries // 32 + 1, count - 1)
    ends = np.linspace(0, case.queries, count + 1)[1:-1] + shift
    index = jnp.broadcast_to(jnp.arange(case.queries, dtype=jnp.int32), (case.rows, case.queries))
    segment = 1 + (index[:, :, None] >= jnp.asarray(ends, jnp.int32)).sum(-1, dtype=jnp.int32)
    if case.kind == "causal":
        return CausalMask(segment, index, segment, index)
    tiles = case.keys // KEYS_A_TILE
    owner = 1 + np.arange(tiles) * count // tiles
    start = np.concatenate([[0], ends])[owner - 1]
    # The first tokens of a sample are the tags of its tiles.
    tag = np.zeros(case.queries, np.int32)
    for tile, place in enumerate(start.astype(int)):
        tag[place + 1 + tile - np.searchsorted(owner, owner[tile])] = tile + 1
    by_row = (jnp.broadcast_to(jnp.asarray(x, jnp.int32), (case.rows, len(x))) for x in (tag, owner, start))
    rule = TileMask(segment, index, *by_row)
    return TileKeys(rule.tiles(), KEYS_A_TILE, rule)


def visible_pairs(case: Case, mask: Mask | None) -> float:
    """How many queries and keys see each other."""
    if mask is None:
        return float(case.rows * case.queries * case.keys)
    step = KEYS_A_TILE if case.kind == "tiles" else case.keys
    return float(sum(mask.block(at, step).sum(dtype=jnp.float32) for at in range(0, case.keys, step)))


def implementations(case: Case, mask: Mask | None) -> dict[str, Attention]:
    """All ways that are tried on the devices here, by name."""
    names = ["blockwise"]
    if 4 * case.rows * case.heads * case.queries * case.keys <= DENSE_BYTES:
        names.insert(0, "dense")
    kernel = KERNELS.get(jax.default_backend())
    names += [kernel] if kernel else []
    found = {name: functools.partial(attend, mask=mask, implementation=name) for name in names}
    if kernel == "triton" and case.kind != "tiles":
        one_sample = functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
        unmasked = functools.partial(attend, implementation="cudnn")
        found |= {"cudnn, one sample": one_sample} if case.kind == "causal" else {"cudnn": unmasked}
    return found


def arrays(case: Case) -> tuple[jax.Array, ...]:
    """q, k, v and the gradient of the output, bfloat16."""
    keys = jax.random.split(jax.random.key(0), 4)
    of_q, of_k = ((case.rows, n, h, case.width) for n, h in ((case.queries, case.heads), (case.keys, case.kv_heads)))
    return tuple(
        jax.random.normal(key, shape, jnp.bfloat16) for key, shape in zip(keys, (of_q, of_k, of_k, of_q), strict=True)
    )


def with_gradients(compute: Attention) -> Callable[..., tuple[jax.Array, ...]]:
    """(q, k, v, gradient of the output) -> output, and gradients by q, k and v."""

    def both(q: jax.Array, k: jax.Array, v: jax.Array, d_out: jax.Array) -> tuple[jax.Array, ...]:
        out, back = jax.vjp(compute, q, k, v)
        return out, *back(d_out)

    return both


def exactly(compute: Attention) -> Attention:
    """`compute` in float32 with exact products."""

    def run(*given: jax.Array) -> Any:
        with jax.default_matmul_precision("highest"):
            return compute(*(x.astype(jnp.float32) for x in given))

    return run


def measure(cases: tuple[Case, ...] = CASES, seconds: float = 90.0) -> list[dict[str, Any]]:
    """A record for each case and implementation; one that fails has `error`. Nothing new begins after `seconds`."""
    begin, found = time.monotonic(), []
    if jax.default_backend() not in KERNELS:
        cases = tuple(shorter(case, 16) for case in cases)
    with ThreadPoolExecutor(max_workers=8) as pool:
        jobs = [_compile(pool, case) for case in cases]
        for case, (pairs, given, reference, ways) in zip(cases, jobs, strict=True):
            exact = None
            for name, passes in ways.items():
                record: dict[str, Any] = {"case": case.name, "implementation": name}
                found.append(record)
                if time.monotonic() - begin > seconds:
                    record["error"] = f"left out: {seconds:.0f} s were over"
                    continue
                try:
                    exact = jax.block_until_ready(reference.result()(*given)) if exact is None else exact
                    record |= _timed(case, pairs, passes, given, exact, "one sample" not in name)
                except Exception as error:  # of a compiler, of a library, of memory: the others are still measured
                    record["error"] = f"{type(error).__name__}: {str(error)[:400]}"
                print(line(record), flush=True)
            del exact
    return found


def _compile(pool: ThreadPoolExecutor, case: Case) -> tuple[float, tuple, Future, dict[str, list[Future]]]:
    mask, given = make_mask(case), arrays(case)

    def start(function: Callable[..., Any], *given: jax.Array) -> Future:
        return pool.submit(lambda: jax.jit(function).lower(*given).compile())

    ways = {}
    reference = start(exactly(with_gradients(functools.partial(attend, mask=mask, implementation="blockwise"))), *given)
    for name, compute in implementations(case, mask).items():
        ways[name] = [start(compute, *given[:3]), start(with_gradients(compute), *given)]
    return visible_pairs(case, mask), given, reference, ways


def _timed(
    case: Case,
    pairs: float,
    passes: list[Future],
    given: tuple[jax.Array, ...],
    exact: tuple[jax.Array, ...],
    same: bool,
) -> dict[str, Any]:
    record: dict[str, Any] = {}
    if not same:  # the causal mask of a single sample, for want of segments
        pairs = case.rows * case.queries * (case.queries + 1) / 2
    for (name, products), future in zip(PASSES.items(), passes, strict=True):
        run, arguments = future.result(), given[:3] if name == "forward" else given
        second = seconds_of(run, arguments)
        flops = 4 * pairs * case.heads * case.width * products
        record[name] = {"milliseconds": second * 1000, "tflops": flops / second / 1e12}
    if same:
        gaps = zip(("out", "dq", "dk", "dv"), run(*given), exact, strict=True)
        record["difference"] = {name: float(_gap(got, want)) for name, got, want in gaps}
    return record


@jax.jit
def _gap(found: jax.Array, exact: jax.Array) -> jax.Array:
    return jnp.abs(found.astype(jnp.float32) - exact).max() / jnp.abs(exact).max()


def seconds_of(run: Callable[..., Any], given: tuple[jax.Array, ...]) -> float:
    """Of one call: the least mean of three series, each handed to the device at once."""
    jax.block_until_ready(run(*given))
    means = []
    for _ in range(3):
        begin = time.perf_counter()
        jax.block_until_ready([run(*given) for _ in range(REPEATS)][-1])
        means.append((time.perf_counter() - begin) / REPEATS)
    return min(means)


# Queries and keys of a block, warps and stages of a Triton program: what is tried.
TRITON = {
    "forward": [
        *((128, 64, 4, 3), (128, 64, 8, 3), (128, 64, 4, 2), (128, 64, 4, 4), (128, 128, 8, 2), (128, 128, 8, 3)),
        *((128, 32, 4, 4), (64, 64, 4, 3), (64, 128, 4, 2), (128, 128, 4, 2)),
    ],
    "dq": [
        *((128, 64, 4, 3), (128, 64, 8, 2), (128, 64, 8, 3), (64, 64, 4, 3), (64, 128, 4, 2), (128, 32, 4, 3)),
        *((128, 128, 8, 2), (64, 64, 4, 2), (128, 32, 8, 3)),
    ],
    "dkv": [
        *((64, 128, 4, 3), (64, 128, 8, 2), (64, 128, 8, 3), (64, 64, 4, 3), (32, 128, 4, 3), (128, 64, 4, 2)),
        *((128, 128, 8, 2), (64, 64, 4, 2), (32, 128, 8, 3)),
    ],
}
MOSAIC = [(512, 512), (256, 512), (512, 256), (1024, 512), (512, 1024), (1024, 1024), (256, 1024)]


def sweep_blocks(cases: tuple[Case, ...] = CASES, seconds: float = 150.0) -> list[dict[str, Any]]:
    """Milliseconds of each kernel of our own with each size of its blocks, where both lengths are whole blocks."""
    from nvlm_jax.models.flash.attention import BACKENDS, padded
    from nvlm_jax.models.flash.blocks import Given

    name = KERNELS[jax.default_backend()]
    backend = BACKENDS[name]
    tried = {kernel: [backend.Size(*s) for s in (TRITON[kernel] if name == "triton" else MOSAIC)] for kernel in TRITON}
    begin, jobs = time.monotonic(), []
    with ThreadPoolExecutor(max_workers=16) as pool:
        for case in cases:
            given, mask = arrays(case), make_mask(case)
            q, k, v, d_out = given
            units = (128, 128) if mask is None else (1024, 1024)
            q, k, v, rule = padded(q, k, v, None if mask is None else mask.rule(), units)
            d_out = jnp.pad(d_out, ((0, 0), (0, q.shape[1] - d_out.shape[1]), (0, 0), (0, 0)))
            log = jnp.zeros((case.rows, case.heads, q.shape[1]), jnp.float32) + 8.0
            given = Given(q, k, v, log, log, d_out, rule)
            for kernel, sizes in tried.items():
                for size in sizes:
                    if q.shape[1] % size.q == 0 and k.shape[1] % size.k == 0:
                        run = jax.jit(functools.partial(_kernel, backend, kernel, size))
                        future = pool.submit(lambda run=run, given=given: run.lower(given).compile())
                        jobs.append((case, kernel, size, future, given))
        found = []
        for case, kernel, size, future, given in jobs:
            record: dict[str, Any] = {"case": case.name, "kernel": kernel, "size": tuple(size)}
            found.append(record)
            try:
                if time.monotonic() - begin > seconds:
                    raise TimeoutError(f"left out: {seconds:.0f} s were over")
                record["milliseconds"] = 1000 * seconds_of(future.result(), (given,))
            except Exception as error:  # too much shared memory, say: the others are still measured
                record["error"] = f"{type(error).__name__}: {str(error)[:200]}"
            print(case.name[:9], kernel, record["size"], record.get("milliseconds", record.get("error")), flush=True)
    return found


def _kernel(backend: Any, kernel: str, size: Any, given: Any) -> Any:
    if kernel == "forward":
        return backend.forward(given.q, given.k, given.v, given.rule, size, False)
    return (backend.gradient_q if kernel == "dq" else backend.gradient_kv)(given, size, False)


def report_blocks(found: list[dict[str, Any]]) -> str:
    """The three fastest sizes of each kernel and case."""
    lines = [f"{jax.devices()[0].device_kind}: queries, keys (warps, stages) of a block, and milliseconds"]
    for case, kernel in dict.fromkeys((r["case"], r["kernel"]) for r in found):
        own = [r for r in found if (r["case"], r["kernel"]) == (case, kernel) and "milliseconds" in r]
        best = sorted(own, key=lambda r: r["milliseconds"])[:3]
        lines.append(f"{case}, {kernel}: " + "; ".join(f"{r['size']} {r['milliseconds']:.3f}" for r in best))
    return "\n".join(lines)


def line(record: dict[str, Any]) -> str:
    """One record for a person."""
    start = f"{record['case']:46} {record['implementation']:18}"
    if "error" in record:
        return f"{start} {record['error']}"
    times = "  ".join(
        f"{record[name]['milliseconds']:8.3f} ms {record[name]['tflops']:6.1f} TFLOP/s" for name in PASSES
    )
    gaps = " ".join(f"{name} {value:.1e}" for name, value in record.get("difference", {}).items())
    return f"{start} {times}  {gaps}".rstrip()


def report(found: list[dict[str, Any]]) -> str:
    """All records as a table."""
    lines = [f"{jax.devices()[0].device_kind}, bfloat16; largest difference over the largest value, from float32"]
    lines += ["| attention | computed by | forward, ms | TFLOP/s | and backward, ms | TFLOP/s | out, dq, dk, dv |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for record in found:
        cells = [record["case"], record["implementation"]]
        if "error" in record:
            cells += [record["error"].replace("\n", " ").replace("|", "/")[:100], *[""] * 4]
        else:
            for name in PASSES:
                cells += [f"{record[name]['milliseconds']:.3f}", f"{record[name]['tflops']:.1f}"]
            cells.append(", ".join(f"{gap:.0e}" for gap in record.get("difference", {}).values()))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    BLOCKS = flags.DEFINE_bool("blocks", False, "block sizes of the kernels instead")
    run(
        "attention",
        lambda directory: sweep_blocks() if BLOCKS.value else measure(),
        lambda result: report_blocks(result) if BLOCKS.value else report(result),
    )
