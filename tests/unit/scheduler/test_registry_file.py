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
from podium.worker.v1 import worker_pb2
from podium_scheduler.adapters import registry_entries, registry_file
from podium_scheduler.app import worker_sessions

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
    assert list(registry.workloads) == [
        "clip-vit-b-32", "eva02-large", "hash-1024", "hash-384", "hash-image", "minilm", "multilingual-e5-small",
        "siglip-base",
    ]  # fmt: skip
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


def test_the_shipped_image_models() -> None:
    found = registry_file.load_default().workloads
    both = [workload_pb2.MODALITY_TEXT, workload_pb2.MODALITY_IMAGE]
    for name, modalities, dimension, backend, architecture in (
        ("clip-vit-b-32", both, 512, "open_clip", "ViT-B-32"),
        ("siglip-base", both, 768, "open_clip", "ViT-B-16-SigLIP"),
        ("eva02-large", both[1:], 1024, "timm", "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k"),
        ("hash-image", both, 64, "hash", ""),
    ):
        workload = found[name]
        assert (list(workload.modalities), workload.dimension) == (modalities, dimension)
        assert (workload.model.backend, workload.model.architecture) == (backend, architecture)
        assert (workload.limits.max_image_bytes, workload.limits.max_image_pixels) == (20 << 20, 50_000_000)
        assert workload.batch.max_items == 64
    assert found["clip-vit-b-32"].model.pretrained == "laion2b_s34b_b79k"
    assert found["eva02-large"].model.WhichOneof("source") is None


def test_the_shipped_models_are_computed_as_each_device_does_it_best() -> None:
    models = [workload.model for workload in registry_file.load_default().workloads.values()]
    assert {model.precision for model in models if model.backend != "hash"} == {"auto"}


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
        dtypes=[
            workload_pb2.DTYPE_FLOAT32, workload_pb2.DTYPE_FLOAT16, workload_pb2.DTYPE_INT8, workload_pb2.DTYPE_BINARY,
        ],
    )  # fmt: skip
    expected.needs.load_timeout.FromSeconds(90)
    assert registry.workloads["minilm"] == expected


def test_a_workload_may_need_a_cuda_version() -> None:
    text = GOOD.replace("load_timeout: 1m30s", 'min_cuda_version: "12.4"')
    needs = registry_file.parse(text.encode(), "registry.yaml").workloads["minilm"].needs
    assert (needs.min_cuda_version, needs.min_compute_capability) == ("12.4", "8.0")


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
            "5:17: workloads.minilm.dimensions: must be a list (and 1 more)",
        ),
        ("dimension: 384", "dimensoin: 384", "5:16: workloads.minilm.dimensoin: is no field of the registry"),
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
            "dimension: 384",
            "dimension: 384\n    accepts_token_ids: true",
            "6:24: workloads.minilm.accepts_token_ids: has no meaning with prefixes, whose end may be one token with a "
            "text's beginning",
        ),
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
        (
            "load_timeout: 1m30s",
            'min_cuda_version: "12"',
            '25:25: workloads.minilm.needs.min_cuda_version: must be text such as "12.4"',
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


def test_canaries_are_few() -> None:
    first, *_, last = CANARIES.splitlines(keepends=True)
    many = first + 17 * last
    assert "workloads.minilm.canaries: must hold at most 16" in refusal(GOOD + many)


FILE = base64.b64encode(b"an image file").decode()
CLIP = f"""\
workloads:
  clip:
    description: Pictures.
    modality: text and image
    dimension: 512
    limits:
      max_text_bytes: 4KiB
      max_image_bytes: 20MiB
      max_image_pixels: 40000000
    model:
      backend: open_clip
      name: laion/CLIP
      revision: laion2b_s34b_b79k
      architecture: ViT-B-32
      pretrained: laion2b_s34b_b79k
      pooling: none
      normalized: true
      precision: auto
      image_budget: 32
    encodings: [binary, float16]
    dimensions: [64, 256]
    canaries:
      - image: "{FILE}"
        vector: "{SHORT}"
      - text: A photo.
        vector: "{SHORT}"
"""


def test_an_image_model_arrives() -> None:
    clip = registry_file.parse(CLIP.encode(), "registry.yaml").workloads["clip"]
    assert list(clip.modalities) == [workload_pb2.MODALITY_TEXT, workload_pb2.MODALITY_IMAGE]
    model = clip.model
    assert (model.pretrained, model.architecture) == ("laion2b_s34b_b79k", "ViT-B-32")
    assert (model.precision, model.image_budget) == ("auto", 32)
    assert [(c.text, c.image) for c in model.canaries] == [("", b"an image file"), ("A photo.", b"")]
    assert list(clip.dtypes) == [
        workload_pb2.DTYPE_FLOAT32, workload_pb2.DTYPE_FLOAT16, workload_pb2.DTYPE_BINARY,
    ]  # fmt: skip
    assert list(clip.truncated_dimensions) == [64, 256]


@pytest.mark.parametrize(
    ("normalized", "encodings", "expected"),
    [(True, None, [1, 2, 3, 4]), (False, None, [1, 2]), (True, "[]", [1]), (True, "[int8]", [1, 3])],
)
def test_what_jobs_may_ask_for_by_default(normalized: bool, encodings: str | None, expected: list[int]) -> None:
    text = CLIP.replace("normalized: true", f"normalized: {str(normalized).lower()}")
    line = f"    encodings: {encodings}\n" if encodings else ""
    text = text.replace("    encodings: [binary, float16]\n", line)
    assert list(registry_file.parse(text.encode(), "registry.yaml").workloads["clip"].dtypes) == expected


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("open_clip", "sentence_transformers", "4:15: {}.modality: the sentence_transformers backend takes texts only"),
        ("open_clip", "timm", "4:15: {}.modality: the timm backend takes images only"),
        ("open_clip", "hash", "14:21: {}.model.architecture: is for the open_clip and timm backends only (and 2 more)"),
        (
            "      architecture: ViT-B-32\n",
            "",
            "10:5: {}.model: needs one of local_path, python_package and hub_id, or",
        ),
        ("      pretrained: laion2b_s34b_b79k\n", "", "10:5: {}.model: needs one of local_path, python_package and"),
        ("ViT-B-32", "ViT/B", "14:21: {}.model.architecture: must be a name such as ViT-B-32"),
        ("pretrained: laion2b_s34b_b79k", "pretrained: a\n      hub_id: a/b", "15:19: {}.model.pretrained: hub_id is"),
        ("pooling: none", "pooling: mean", "16:16: {}.model.pooling: must be none for the open_clip backend"),
        (
            "precision: auto",
            "precision: int8",
            "18:18: {}.model.precision: must be 'float32', 'bfloat16', 'float16' or",
        ),
        ("text and image", "text", "8:24: {}.limits.max_image_bytes: has no meaning for modality text (and 3 more)"),
        ("20MiB", "257MiB", "8:24: {}.limits.max_image_bytes: must be at most 268435456"),
        ("[binary, float16]", "[float16, float16]", "20:26: {}.encodings.1: float16 is given twice"),
        ("[binary, float16]", "[float64]", "20:17: {}.encodings.0: must be 'float16', 'int8' or 'binary'"),
        (
            "normalized: true",
            "normalized: false",
            "20:17: {}.encodings.0: binary keeps no lengths, so model.normalized",
        ),
        ("[64, 256]", "[64, 512]", "21:22: {}.dimensions.1: must be 1 to 511: below dimension"),
        ("[64, 256]", "[0]", "21:18: {}.dimensions.0: must be 1 to 511"),
        ("[64, 256]", "[64, 64]", "21:22: {}.dimensions.1: must be above 64, the one before it"),
        ("[64, 256]", "[256, 64]", "21:23: {}.dimensions.1: must be above 256, the one before it"),
        (f'"{FILE}"', '"a?"', "23:16: {}.canaries.0.image: must be the base64 of an image file"),
        (f'image: "{FILE}"', f'image: "{FILE}"\n        text: a', "{}.canaries.0: must have one of text and image"),
        ("      - text: A photo.\n        vector", "      - vector", "25:9: {}.canaries.1: must have one of text and"),
        ("text: A photo.", f'input_type: query\n        image: "{FILE}"', "25:21: {}.canaries.1.input_type: has no"),
    ],
)
def test_a_bad_image_model_is_one_line(old: str, new: str, error: str) -> None:
    assert CLIP.count(old) >= 1
    message = refusal(CLIP.replace(old, new, 1))
    assert error.format("workloads.clip") in message


def test_the_image_of_a_canary_is_small() -> None:
    large = base64.b64encode(bytes(65_537)).decode()
    assert refusal(CLIP.replace(FILE, large)).endswith(
        "clip.canaries.0.image: is 65,537 bytes, must be at most 65,536: a small picture will do"
    )
    assert registry_file.parse(CLIP.replace(FILE, base64.b64encode(bytes(65_536)).decode()).encode(), "r").workloads


PICTURES = """\
workloads:
  eva:
    description: Pictures.
    modality: image
    dimension: 64
    limits: {max_image_bytes: 1MiB, max_image_pixels: 9}
    model:
      backend: timm
      name: eva
      revision: v1
      architecture: eva02_tiny_patch14_224.mim_in22k
      pooling: none
      normalized: true
"""


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("pooling: none", "pooling: cls", "model.pooling: must be none for the timm backend"),
        ("      architecture: eva02_tiny_patch14_224.mim_in22k\n", "", "hub_id, or architecture"),
        ("revision: v1", "revision: v1\n      pretrained: x", "model.pretrained: is for the open_clip backend only"),
        ("revision: v1", "revision: v1\n      max_tokens: 9", "model.max_tokens: has no meaning for modality image"),
        (
            "revision: v1",
            "revision: v1\n      token_budget: 9",
            "model.token_budget: has no meaning for modality image",
        ),
        (
            "normalized: true",
            f'normalized: true\n    canaries: [{{text: a, vector: "{SHORT}"}}]',
            "canaries.0.text: has no meaning for modality image",
        ),
    ],
)
def test_an_image_only_model(old: str, new: str, error: str) -> None:
    eva = registry_file.parse(PICTURES.encode(), "registry.yaml").workloads["eva"]
    assert list(eva.modalities) == [workload_pb2.MODALITY_IMAGE]
    assert error in refusal(PICTURES.replace(old, new))


def test_a_text_model_has_no_images() -> None:
    text = GOOD.replace("max_tokens: 256", "max_tokens: 256\n      image_budget: 9")
    assert "model.image_budget: has no meaning for modality text" in refusal(text)
    canary = f'    canaries: [{{image: "{FILE}", vector: "{SHORT}"}}]\n'
    assert "canaries.0.image: has no meaning for modality text" in refusal(GOOD + canary)


def test_a_local_checkpoint_needs_no_names() -> None:
    local = CLIP.replace("      architecture: ViT-B-32\n", "").replace(
        "pretrained: laion2b_s34b_b79k", "local_path: /models/clip"
    )
    model = registry_file.parse(local.encode(), "registry.yaml").workloads["clip"].model
    assert (model.local_path, model.architecture, model.pretrained) == ("/models/clip", "", "")


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


def test_token_ids_are_taken_where_the_entry_says_so() -> None:
    plain = GOOD.replace('    prefixes:\n      query: "q: "\n      passage: "p: "\n', "")
    accepting = plain.replace("dimension: 384", "dimension: 384\n    accepts_token_ids: true")
    for text, accepts in ((plain, False), (accepting, True)):
        assert registry_file.parse(text.encode(), "registry.yaml").workloads["minilm"].accepts_token_ids == accepts
    hashed = re.sub(r"      hub_id: .*\n", "", accepting).replace("sentence_transformers", "hash")
    hashed = hashed.replace("pooling: mean", "pooling: none").replace("normalized: true", "normalized: false")
    assert "accepts_token_ids: is for the sentence_transformers backend only" in refusal(hashed)


def test_a_worker_that_reads_no_token_ids_is_given_no_workload_that_takes_them() -> None:
    accepting = workload_pb2.Workload(name="w", accepts_token_ids=True, model=workload_pb2.ModelSpec(backend="hash"))
    plain = workload_pb2.Workload(name="w", model=workload_pb2.ModelSpec(backend="hash"))
    older = worker_pb2.Hello(backends=["hash"])
    newer = worker_pb2.Hello(backends=["hash"], reads_token_ids=True)
    assert [worker_sessions.may_serve(hello, accepting) for hello in (older, newer)] == [False, True]
    assert worker_sessions.may_serve(older, plain)
