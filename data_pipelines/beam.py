"""A dataset's shards made by an Apache Beam pipeline: DirectRunner here, Dataflow, Flink or Spark at scale.

The transform is `make_shard` of `prepare.py`, one shard an element, so that the files are those of the local processes,
byte for byte, and a run that was killed goes on with the shards that are missing. Workers read the raw dataset and
write shards below the paths that were given: on several machines both are on a file system that all of them mount.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Mapping, Sequence
from typing import Any

POLL = 0.5  # seconds between two looks at what is done


class BeamError(RuntimeError):
    """Beam cannot run, or did not end well."""


def run_pipeline(
    work: Callable[[int, Any], None],
    stretches: Mapping[int, Any],
    runner: str,
    options: Sequence[str],
    poll: Callable[[], None],
) -> None:
    """Call `work(shard, stretch)` for each of `stretches` on Beam's workers.

    Args:
        work: can be pickled.
        stretches: by shard.
        runner: its name for Beam, `DirectRunner` ...
        options: Beam's own, `--key=value`.
        poll: called every half second until all is done.

    Raises:
        BeamError: Beam is not installed, refuses the runner or an option, or did not end well.
    """
    beam, pipeline_options = _beam()
    try:
        pipeline = beam.Pipeline(options=pipeline_options([f"--runner={runner}", *options]))
    except (ValueError, AttributeError, ImportError, SystemExit) as error:  # as Beam refuses one or another
        raise BeamError(f"--runner={runner} --beam_options={','.join(options)}: {error}") from error
    # Shuffled, lest the shards be fused with the list of them and made one after the other by one worker.
    _ = pipeline | beam.Create(list(stretches.items())) | beam.Reshuffle() | beam.MapTuple(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: pipeline.run().wait_until_finish())
        while not concurrent.futures.wait([running], POLL).done:
            poll()
    state = running.result()
    if state != beam.runners.runner.PipelineState.DONE:
        raise BeamError(f"the pipeline ended as {state}; run again to go on")


def _beam() -> tuple[Any, Any]:
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise BeamError(
            "--runner needs Apache Beam: pip install --no-deps -r requirements-beam.txt (leave --runner out to use the "
            f"cores of this machine): {error}"
        ) from error
    return apache_beam, PipelineOptions
