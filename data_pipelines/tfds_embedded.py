"""The embedded pages as a TFDS builder, without TensorFlow: ArrayRecord files that `tfds.data_source` reads.

    EmbeddedPages(data_dir="runs/tfds", config="qa").download_and_prepare()

Each configuration is one of `data_pipelines.embedded.DATASETS`, with a split of its own name (`train`, or `test`).
TFDS is imported here and nowhere else but in `raw/tfds.py`: it takes a second.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from data_pipelines.embedded import DATASETS
from data_pipelines.generated.samples import GeneratedSource

VARIANTS = ("qa", "text")  # the others have no conversation about pictures


class EmbeddedConfig(tfds.core.BuilderConfig):
    """Which dataset, how many of its samples (0 = all), and the generator's seed."""

    def __init__(self, name: str, samples: int = 0, seed: int = 0):
        super().__init__(name=name if not samples else f"{name}-{samples}-{seed}", version="1.0.0")
        self.dataset, self.samples, self.seed = name, samples, seed


class EmbeddedPages(tfds.core.GeneratorBasedBuilder):
    """Generated pages with questions and answers."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [EmbeddedConfig(name) for name, spec in DATASETS.items() if spec.variant in VARIANTS]  # noqa: RUF012

    def __init__(self, **kwargs: Any):
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "images": tfds.features.Sequence(tfds.features.Image(encoding_format="png")),
                "conversations": tfds.features.Sequence(
                    {"from": tfds.features.Text(), "value": tfds.features.Text(), "group": tfds.features.Text()}
                ),
            }
        )
        return tfds.core.DatasetInfo(builder=self, description=EmbeddedPages.__doc__, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {DATASETS[self.builder_config.dataset].split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        spec = DATASETS[config.dataset]
        source = GeneratedSource(spec.variant, spec.split, config.seed, config.samples or spec.size, **spec.options)
        for i in range(len(source)):
            sample = source[i]
            turns = [{"from": m.role, "value": m.content, "group": m.group} for m in sample.messages]
            # As files, not arrays: TFDS keeps their bytes, and needs no TensorFlow to encode them.
            images = [io.BytesIO(data) for data in sample.images]
            yield sample.id, {"id": sample.id, "images": images, "conversations": turns}
