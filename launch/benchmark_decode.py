"""How fast answers come: this project's engine against `transformers.generate`, with the same NVLM-D weights.

Both start from the same prepared prompts (token ids and tiles) and end with the ids of the answers. `transformers` gets
the vision encoder and the projector in front of its own Qwen2, prompts sorted by length and padded on the left, and the
best of several batch sizes. Everything is timed in turn, `repeats` times; ratios are of times in the same round.
Without PyTorch, only the engine's own rows are measured.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import nvlm_jax
from data_pipelines.generated.samples import GeneratedSource
from data_pipelines.records import RecordSource
from nvlm_jax.convert.shards import open_shards
from nvlm_jax.evaluation import embedded
from nvlm_jax.evaluation.question import Question
from nvlm_jax.generation.engine import Engine
from nvlm_jax.generation.request import Request
from nvlm_jax.inputs.batch import Example
from nvlm_jax.pretrained import LoadedModel
from nvlm_jax.training.imported import export_hf

TOKENS = 32  # of an answer at most, as the embedded benchmark has it
LONG_TOKENS = 64  # where whole tiles are read out
MIXED = 128  # requests of many kinds
BATCHES = (16, 32)  # of transformers
PAGES, A_PAGE = 8, 8  # pages with several questions, and how many
ALONE = 16  # requests that are also asked one at a time
SLOTS = 32
ONE_BY_ONE = "alone"
Answers = list[list[int]]


class Load(NamedTuple):
    """Prompts that are asked together."""

    examples: list[Example]
    tokens: int  # of an answer at most


# Names of the released vision encoder -> those of transformers, which has q, k and v apart.
RENAMED = (
    ("embeddings.class_embedding", "embeddings.cls_token"),
    ("embeddings.position_embedding", "embeddings.position_embeddings"),
    ("embeddings.patch_embedding", "embeddings.patch_embeddings.projection"),
    ("encoder.layers.", "encoder.layer."),
    ("attn.proj", "attention.projection_layer"),
    ("attn.q_norm", "attention.q_norm"),
    ("attn.k_norm", "attention.k_norm"),
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    (".ls", ".lambda_"),
)


def measure(checkpoint: str, data: Path, repeats: int, reference: bool) -> dict[str, Any]:
    """Seconds of every way to answer, `repeats` times.

    Args:
        checkpoint: a workdir of NVLM-D, in float32.
        data: directory with the embedded dataset `qa-test`.
        repeats: rounds.
        reference: also `transformers`, which must be installed.
    """
    model = nvlm_jax.load(checkpoint)
    workloads = prompts(model, data)
    ways: dict[str, dict[str, Callable[[], Answers]]] = {name: {} for name in workloads}
    theirs = Reference(model, checkpoint) if reference else None
    for name, load in workloads.items():
        ways[name]["engine"] = lambda load=load: together(model, load)
        if name.startswith(ONE_BY_ONE):
            ways[name]["one at a time"] = lambda load=load: one_at_a_time(model, load)
        elif theirs:
            for size in BATCHES:
                ways[name][f"transformers, {size} a batch"] = lambda load=load, n=size: theirs.generate(load, n)
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind, "workloads": {}}
    for name, choices in ways.items():
        answers = {way: ask() for way, ask in choices.items()}  # compiles; not timed
        seconds: dict[str, list[float]] = {way: [] for way in choices}
        cpu: dict[str, list[float]] = {way: [] for way in choices}
        for _, (way, ask) in itertools.product(range(repeats), choices.items()):
            begin, used = time.perf_counter(), time.process_time()
            ask()
            seconds[way].append(time.perf_counter() - begin)
            cpu[way].append(time.process_time() - used)
        same = {way: sum(map(list.__eq__, answers["engine"], other)) for way, other in answers.items()}
        found["workloads"][name] = {
            "items": len(workloads[name].examples),
            "tokens": sum(map(len, answers["engine"])),
            "prompt_tokens": sum(len(example.tokens) for example in workloads[name].examples),
            "longest": max(map(len, answers["engine"])),
            "seconds": seconds,
            "cpu_seconds": cpu,
            "same_answers": same,
        }
    return found


def report(found: dict[str, Any]) -> str:
    """Items a second, and how many times as many as each other way, in Markdown."""
    lines = [
        "| prompts | way | items/s | the engine's, as a multiple | the same in CPU time | same answers |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, load in found["workloads"].items():
        for way, seconds in load["seconds"].items():
            times, cpu = (_multiple(load[key], way) for key in ("seconds", "cpu_seconds"))
            rate = load["items"] / statistics.median(seconds)
            same = f"{load['same_answers'][way]} of {load['items']}"
            lines.append(f"| {name} ({load['items']}) | {way} | {rate:.1f} | {times} | {cpu} | {same} |")
    return "\n".join(lines)


def _multiple(measured: dict[str, list[float]], way: str) -> str:
    if way == "engine":
        return ""
    ratios = sorted(b / a for a, b in zip(measured["engine"], measured[way], strict=True))
    return f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"


def prompts(model: LoadedModel, data: Path) -> dict[str, Load]:
    """One question on each of many pages; several on each of a few; answers of many lengths; some for one at a time."""
    source = RecordSource(data / "qa-test")
    pages = [list(embedded.questions([source[i]])) for i in range(min(len(source), PAGES * A_PAGE))]

    def example(question) -> Example:
        return model.builder.prompt(question.messages, question.images)

    single = [example(page[0]) for page in pages]
    # Of pages with as many questions, those of the most tiles: documents, as benchmarks have them.
    order = sorted(range(len(pages)), key=lambda i: -len(single[i].tiles))
    several = [pages[i] for i in order if len(pages[i]) >= A_PAGE][:PAGES]
    mixed = [example(question) for question in mixed_questions(MIXED)]
    return {
        "one question a page": Load(single, TOKENS),
        "several questions a page": Load([example(q) for page in several for q in page[:A_PAGE]], TOKENS),
        "answers of mixed lengths": Load(mixed, LONG_TOKENS),
        f"{ONE_BY_ONE}, one question a page": Load(single[:ALONE], TOKENS),
        f"{ONE_BY_ONE}, mixed lengths": Load(mixed[:ALONE], LONG_TOKENS),
    }


def mixed_questions(count: int) -> list[Question]:
    """In turn: a tile to be read out, a question, several things at once, and a question without a page.

    Of held-out pages that `qa-test` has too.
    """
    kinds = ({"reads": 1, "questions": 0}, {"questions": 1}, {"lists": 1, "questions": 0})
    pages = [GeneratedSource("qa", "test", 0, count, **kind) for kind in kinds]
    sources = [*pages, GeneratedSource("text", "test", 0, count, questions=1)]
    return [next(embedded.questions([sources[i % len(sources)][i]])) for i in range(count)]


def together(model: LoadedModel, load: Load) -> Answers:
    """All at once, by an engine that has seen nothing before."""
    engine = model.make_engine(SLOTS, layers_apart=True)
    return [answer.tokens for answer in engine.generate(Request(example, load.tokens) for example in load.examples)]


def one_at_a_time(model: LoadedModel, load: Load) -> Answers:
    """Each when the one before is answered, by an engine that has seen nothing before."""
    engine: Engine = model.make_engine(1, layers_apart=True)
    return [engine.generate([Request(example, load.tokens)])[0].tokens for example in load.examples]


class Reference:
    """The same weights in PyTorch: InternViT and Qwen2 of `transformers`, the projector between them."""

    def __init__(self, model: LoadedModel, checkpoint: str):
        import torch
        from transformers import InternVLVisionConfig, InternVLVisionModel, Qwen2Config, Qwen2ForCausalLM

        torch.set_grad_enabled(False)
        config, self._torch = model.config, torch
        vision, decoder = config.vision, config.decoder
        self._ends = list(model.end_token_ids)
        self._shuffle, self._side = config.pixel_shuffle, vision.image_size // vision.patch_size
        self._vision = InternVLVisionModel(
            InternVLVisionConfig(
                hidden_size=vision.width, num_hidden_layers=vision.layers, num_attention_heads=vision.heads,
                intermediate_size=vision.ff, image_size=[vision.image_size] * 2, patch_size=[vision.patch_size] * 2,
                use_qk_norm=True, attention_bias=False, norm_type="rms_norm", layer_norm_eps=vision.norm_eps,
                hidden_act="gelu", use_mean_pooling=True, use_absolute_position_embeddings=True,
            )
        ).eval()  # fmt: skip
        self._llm = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=decoder.vocab_size, hidden_size=decoder.width, intermediate_size=decoder.ff,
                num_hidden_layers=decoder.layers, num_attention_heads=decoder.heads,
                num_key_value_heads=decoder.kv_heads, rope_theta=decoder.rope_theta, rms_norm_eps=decoder.norm_eps,
                tie_word_embeddings=decoder.tied_embeddings, max_position_embeddings=32768,
            )
        ).eval()  # fmt: skip
        linear, width = torch.nn.Linear, vision.width * config.pixel_shuffle**2
        inner = config.projector_width
        self._projector = torch.nn.Sequential(
            torch.nn.LayerNorm(width), linear(width, inner, bias=False), torch.nn.GELU(),
            linear(inner, decoder.width, bias=False),
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as directory:
            export_hf(checkpoint, Path(directory) / "hf")
            self._load(Path(directory) / "hf")

    def generate(self, load: Load, batch: int) -> Answers:
        """Greedy answers, prompts of similar length together."""
        examples = load.examples
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens))
        answers: Answers = [[] for _ in examples]
        for start in range(0, len(order), batch):
            members = order[start : start + batch]
            for i, ids in zip(members, self._batch([examples[i] for i in members], load.tokens), strict=True):
                answers[i] = ids
        return answers

    def _batch(self, examples: Sequence[Example], tokens: int) -> Answers:
        torch = self._torch
        longest = max(len(example.tokens) for example in examples)
        tiles = np.concatenate([example.tiles for example in examples])
        images = self._see(tiles) if len(tiles) else self._torch.zeros(0, 1, 1)
        rows, mask, seen = [], torch.zeros(len(examples), longest, dtype=torch.long), 0
        embed = self._llm.get_input_embeddings()
        for row, example in enumerate(examples):
            x = embed(torch.as_tensor(example.tokens, dtype=torch.long))
            own = images[seen : seen + len(example.tiles)].flatten(0, 1)
            slots = torch.as_tensor(example.image_slots, dtype=torch.long)
            if len(example.tiles):
                x[slots >= 0] = own[slots[slots >= 0]]
            rows.append(torch.nn.functional.pad(x, (0, 0, longest - len(x), 0)))
            mask[row, longest - len(x) :] = 1
            seen += len(example.tiles)
        out = self._llm.generate(
            inputs_embeds=torch.stack(rows), attention_mask=mask, max_new_tokens=tokens, do_sample=False,
            eos_token_id=self._ends, pad_token_id=self._ends[0],
        )  # fmt: skip
        return [list(itertools.takewhile(lambda token: token not in self._ends, row)) for row in out.tolist()]

    def _see(self, tiles: np.ndarray) -> Any:
        """uint8 [T, P, P, 3] -> [T, N, D]."""
        torch, r, side = self._torch, self._shuffle, self._side
        mean, std = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))
        pixels = ((torch.as_tensor(tiles) / 255 - mean) / std).permute(0, 3, 1, 2)
        features = self._vision(pixels).last_hidden_state[:, 1:]
        blocks = features.reshape(len(tiles), side // r, r, side // r, r, -1).permute(0, 1, 3, 2, 4, 5)
        return self._projector(blocks.flatten(3).flatten(1, 2))

    def _load(self, directory: Path) -> None:
        """Released names to those of `transformers`."""
        torch, shards = self._torch, open_shards(directory)
        tensors = {name: torch.as_tensor(np.array(shards.read(name))) for name in shards}
        vision = {}
        for name, value in _of(tensors, "vision_model.").items():
            for released, theirs in RENAMED:
                name = name.replace(released, theirs)
            if ".attn.qkv." in name:
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    vision[name.replace("attn.qkv", f"attention.{letter}_proj")] = part
            else:
                vision[name] = value
        self._vision.load_state_dict(vision)
        self._projector.load_state_dict(_of(tensors, "mlp1."))
        self._llm.load_state_dict(_of(tensors, "language_model."))


def _of(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
