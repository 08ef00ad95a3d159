"""The registry file: the shipped one, and one clear line for each way a file can be bad."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from pathlib import Path

import pytest

from podium.common.v1 import workload_pb2
from podium_scheduler.adapters import registry_entries, registry_file

GOOD = """\
workloads:
  minilm:
    description: Sentences.
    modality: text
    dimension: 384
    limits:
      max_text_bytes: 64KiB
    batch:
      max_items: 128
      max_bytes: 1MiB
    model:
      backend: sentence_transformers
      name: sentence-transformers/all-MiniLM-L6-v2
      revision: v1
      hub_id: sentence-transformers/all-MiniLM-L6-v2
      pooling: mean
      normalized: true
      max_tokens: 256
    prefixes:
      query: "q: "
      passage: "p: "
    needs:
      vram: 1.5GiB
      min_compute_capability: "8.0"
      load_timeout: 1m30s
"""


def refusal(text: str | bytes) -> str:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(registry_file.RegistryError) as caught:
        registry_file.parse(data, "registry.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_shipped_registry() -> None:
    registry = registry_file.load_default()
    assert list(registry.workloads) == ["hash-1024", "hash-384", "minilm", "multilingual-e5-small"]
    minilm = registry.workloads["minilm"]
    assert minilm.model.WhichOneof("source") == "python_package"
    assert (minilm.dimension, minilm.model.normalized, minilm.model.max_tokens) == (384, True, 256)
    assert (minilm.batch.max_items, minilm.batch.max_bytes) == (256, 1 << 20)
    e5 = registry.workloads["multilingual-e5-small"]
    assert (e5.prefixes.query, e5.prefixes.passage) == ("query: ", "passage: ")
    assert e5.prefixes.default_input_type == workload_pb2.INPUT_TYPE_PASSAGE
    for name, dimension in (("hash-384", 384), ("hash-1024", 1024)):
        workload = registry.workloads[name]
        assert workload.dimension == dimension
        assert workload.model.WhichOneof("source") is None
        assert workload.model.pooling == workload_pb2.POOLING_NONE
        assert not workload.HasField("prefixes")


def test_every_field_arrives(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    registry = registry_file.load(file)
    assert registry.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    expected = workload_pb2.Workload(
        name="minilm",
        modalities=[workload_pb2.MODALITY_TEXT],
        dimension=384,
        description="Sentences.",
        limits=workload_pb2.WorkloadLimits(max_text_bytes=65536),
        batch=workload_pb2.BatchShape(max_items=128, max_bytes=1 << 20),
        model=workload_pb2.ModelSpec(
            backend="sentence_transformers",
            model_name="sentence-transformers/all-MiniLM-L6-v2",
            revision="v1",
            hub_id="sentence-transformers/all-MiniLM-L6-v2",
            pooling=workload_pb2.POOLING_MEAN,
            normalized=True,
            max_tokens=256,
            precision="float32",
        ),
        prefixes=workload_pb2.TextPrefixes(
            query="q: ", passage="p: ", default_input_type=workload_pb2.INPUT_TYPE_PASSAGE
        ),
        needs=workload_pb2.DeviceNeeds(vram_bytes=3 << 29, min_compute_capability="8.0"),
    )
    expected.needs.load_timeout.FromSeconds(90)
    assert registry.workloads["minilm"] == expected


def test_the_registry_cannot_be_changed() -> None:
    registry = registry_file.parse(GOOD.encode(), "registry.yaml")
    with pytest.raises(TypeError):
        registry.workloads["x"] = workload_pb2.Workload()  # type: ignore[index]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("dimension: 384", "dimension: 0", "5:16: workloads.minilm.dimension: must be at least 1"),
        ("dimension: 384", 'dimension: "384"', "5:16: workloads.minilm.dimension: must be a whole number"),
        ("dimension: 384", "dimension: true", "5:16: workloads.minilm.dimension: must be a whole number"),
        ("    dimension: 384\n", "", "2:3: workloads.minilm.dimension: is required"),
        (
            "dimension: 384",
            "dimensions: 384",
            "5:17: workloads.minilm.dimensions: is no field of the registry",
        ),
        ("modality: text", "modality: task", "4:15: workloads.minilm.modality: must be 'text', 'image' or"),
        (
            "max_text_bytes: 64KiB",
            "max_text_bytes: 64XB",
            "7:23: workloads.minilm.limits.max_text_bytes: must be a s",
        ),
        (
            "max_text_bytes: 64KiB",
            "max_text_bytes: 1GiB",
            "7:23: workloads.minilm.limits.max_text_bytes: must be at",
        ),
        (
            "max_text_bytes: 64KiB",
            "max_image_bytes: 1MiB",
            "6:5: workloads.minilm.limits.max_text_bytes: is required for modality text (and 1 more)",
        ),
        ("max_items: 128", "max_items: 4097", "9:18: workloads.minilm.batch.max_items: must be at most 4096"),
        ("backend: sentence_transformers", "backend: onnx", "12:16: workloads.minilm.model.backend: must be"),
        (
            "revision: v1",
            "revision: 12345678",
            "14:17: workloads.minilm.model.revision: must be text; put it in",
        ),
        ("revision: v1", 'revision: ""', "14:17: workloads.minilm.model.revision: must not be empty"),
        (
            "hub_id: sentence-transformers/all-MiniLM-L6-v2",
            "hub_id: MiniLM",
            "15:15: workloads.minilm.model.hub_id: ",
        ),
        (
            "      hub_id: sentence-transformers/all-MiniLM-L6-v2\n",
            "",
            "11:5: workloads.minilm.model: needs one of local_path, python_package and hub_id",
        ),
        (
            "      pooling: mean",
            "      local_path: /models/minilm\n      pooling: mean",
            "15:15: workloads.minilm.model.hub_id: local_path is given too; a model has one source",
        ),
        (
            "revision: v1",
            "revision: v1\n      local_path: models",
            "15:19: workloads.minilm.model.local_path: must be an",
        ),
        (
            "backend: sentence_transformers",
            "backend: hash",
            "15:15: workloads.minilm.model.hub_id: the hash backend",
        ),
        (
            "normalized: true",
            "normalized: yes please",
            "17:19: workloads.minilm.model.normalized: must be true or",
        ),
        (
            "max_tokens: 256",
            "max_tokens: 256\n      token_budget: 100",
            "19:21: workloads.minilm.model.token_budget: ",
        ),
        (
            "max_tokens: 256",
            "max_tokens: 256\n      pretrained: x",
            "19:19: workloads.minilm.model.pretrained: is for",
        ),
        ('query: "q: "', "query: [1]", "20:7: workloads.minilm.prefixes.query: must be text"),
        (
            '"8.0"',
            "8.0",
            "24:31: workloads.minilm.needs.min_compute_capability: must be text; put it in quotes",
        ),
        (
            "1m30s",
            "90",
            "25:21: workloads.minilm.needs.load_timeout: must be a time span, such as 30s, 5m or 1h30m",
        ),
        ("1m30s", "25h", "25:21: workloads.minilm.needs.load_timeout: must be 1s to 24h"),
        ("  minilm:", "  MiniLM:", "2:3: workloads.MiniLM: a name has 1 to 63 of a-z 0-9 . _ - and begins"),
        (
            "dimension: 384",
            "dimension: 384\n    dimension: 3",
            "6:5: workloads.minilm.dimension: is given twice; first",
        ),
        ("dimension: 384", "dimension: [384", "6:11: expected"),
        (
            "dimension: 384",
            "dimension: 384\n\tx: 1",
            "6:1: found character '\\t' that cannot start any token",
        ),
        ("description: Sentences.", "description: *x", "3:18: aliases are not supported here"),
        (
            "description: Sentences.",
            "description: !!python/name:os.system",
            "3:18: could not determine a constr",
        ),
        ("workloads:", "workload:", "1:1: workload: is no field of the registry (and 1 more)"),
    ],
)
def test_a_bad_field_is_one_line(old: str, new: str, error: str) -> None:
    assert GOOD.count(old) >= 1
    assert refusal(GOOD.replace(old, new, 1)).startswith(f"registry.yaml:{error}")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "registry.yaml:1:1: the file is empty; it needs a mapping 'workloads'"),
        ("# nothing\n", "registry.yaml:1:1: the file is empty; it needs a mapping 'workloads'"),
        ("- a\n", "registry.yaml:1:1: must be a mapping"),
        ("workloads: {}\n", "registry.yaml:1:1: workloads: must hold at least 1"),
        ("workloads:\n  a:\n", "registry.yaml:2:5: workloads.a: must be a mapping"),
        ("? [1]\n: 2\n", "registry.yaml:1:3: a field's name must be text"),
        ("a: 1\n---\nb: 2\n", "registry.yaml:2:1: but found another document"),
    ],
)
def test_a_bad_file_is_one_line(text: str, error: str) -> None:
    assert refusal(text) == error


def test_bytes_that_are_no_text() -> None:
    assert refusal(b"workloads:\n  a: \xff\n") == "registry.yaml:2:1: is not UTF-8"
    assert refusal(b"a: \x00\n").startswith("registry.yaml:1:1: is not YAML: ")


def test_deep_nesting_is_an_error_and_not_a_crash() -> None:
    assert re.match(r"registry.yaml:\d+:\d+: a\.a: is nested too deeply", refusal("{a: " * 40 + "1" + "}" * 40))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(registry_file.RegistryError, match=r"none\.yaml: cannot be read: No such file"):
        registry_file.load(tmp_path / "none.yaml")


def packed(*numbers: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


NUMBERS = [number / 8 for number in range(-8, 12)]
SHORT = packed(*NUMBERS[:16])
PREFIXES = """\
    prefixes:
      query: "q: "
      passage: "p: "
"""
CANARIES = f"""\
    canaries:
      - text: "A canary."
        vector: >-
          {packed(*NUMBERS)[:60]}
          {packed(*NUMBERS)[60:]}
      - {{text: "A question?", input_type: query, vector: "{SHORT}"}}
"""


def test_canaries_arrive_with_the_prefix_of_their_side() -> None:
    workload = registry_file.parse((GOOD + CANARIES).encode(), "registry.yaml").workloads["minilm"]
    assert [(c.text, list(c.elements)) for c in workload.model.canaries] == [
        ("p: A canary.", NUMBERS), ("q: A question?", NUMBERS[:16]),
    ]  # fmt: skip
    bare = (GOOD + CANARIES).replace("input_type: query, ", "").replace(PREFIXES, "")
    workload = registry_file.parse(bare.encode(), "registry.yaml").workloads["minilm"]
    assert [c.text for c in workload.model.canaries] == ["A canary.", "A question?"]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (SHORT, "AAA?", "31:58: {}.1.vector: must be the base64 of little-endian float32 numbers"),
        (SHORT, "AAAAAAA=", "31:58: {}.1.vector: must be the base64 of little-endian float32 numbers"),
        (SHORT, packed(*NUMBERS[:15]), "31:58: {}.1.vector: holds 15 numbers, must be 16 to 384"),
        (SHORT, packed(*NUMBERS * 20), "31:58: {}.1.vector: holds 400 numbers, must be 16 to 384"),
        (SHORT, packed(*[0.0] * 16), "31:58: {}.1.vector: must be finite numbers, and not all of them 0"),
        (SHORT, packed(*[math.nan] * 16), "31:58: {}.1.vector: must be finite numbers"),
        ("input_type: query", "input_type: both", "31:43: {}.1.input_type: must be 'query' or 'passage'"),
        ('text: "A canary."', 'text: ""', "27:15: {}.0.text: must not be empty"),
        ('text: "A canary."', 'words: "A canary."', "27:16: {}.0.words: is no field of the registry"),
        (PREFIXES, "", "28:43: {}.1.input_type: has no meaning without prefixes"),
        (CANARIES, "    canaries: yes\n", "26:15: {}: must be a list"),
    ],
)
def test_a_bad_canary_is_one_line(old: str, new: str, error: str) -> None:
    assert (GOOD + CANARIES).count(old) == 1
    message = refusal((GOOD + CANARIES).replace(old, new))
    assert message.startswith("registry.yaml:" + error.format("workloads.minilm.canaries"))


def test_canaries_are_few_and_of_texts() -> None:
    first, *_, last = CANARIES.splitlines(keepends=True)
    many = first + 17 * last
    assert "workloads.minilm.canaries: must hold at most 16" in refusal(GOOD + many)
    text = GOOD.replace(PREFIXES, "") + CANARIES
    pictures = text.replace("modality: text", "modality: image").replace("sentence_transformers", "open_clip")
    pictures = pictures.replace("max_text_bytes: 64KiB", "max_image_bytes: 1MiB\n      max_image_pixels: 9")
    pictures = pictures.replace("input_type: query, ", "")
    assert refusal(pictures).endswith("workloads.minilm.canaries: has no meaning for modality image")


def test_an_open_clip_model_may_take_its_files_by_tag() -> None:
    text = (
        "workloads:\n  clip:\n    description: Pictures.\n    modality: text and image\n    dimension: 512\n"
        "    limits: {max_text_bytes: 4KiB, max_image_bytes: 20MiB, max_image_pixels: 40000000}\n"
        "    model: {backend: open_clip, name: ViT-B-32, revision: laion2b, pretrained: laion2b_s34b_b79k,"
        " pooling: none, normalized: true}\n"
    )
    clip = registry_file.parse(text.encode(), "registry.yaml").workloads["clip"]
    assert list(clip.modalities) == [workload_pb2.MODALITY_TEXT, workload_pb2.MODALITY_IMAGE]
    assert clip.model.pretrained == "laion2b_s34b_b79k"
    assert refusal(text.replace("open_clip", "sentence_transformers")).startswith(
        "registry.yaml:4:15: workloads.clip.modality: the sentence_transformers backend takes texts only"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), ("5", 5), ("64KiB", 65536), ("1.5 MB", 1_500_000), ("2GiB", 2 << 30), ("7 B", 7)],
)
def test_sizes(value: object, expected: int) -> None:
    assert registry_entries.size(value) == expected


@pytest.mark.parametrize("value", [True, 1.5, "", "KiB", "-1", "1kib", "1 TiB", None])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="must be a size in bytes"):
        registry_entries.size(value)
