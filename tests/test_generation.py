"""What is below the engine: choosing a token, plain generation of a batch, text out of tokens."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers

from groundup.data.tokens.tokenizer import Tokenizer
from groundup.deploy.text import Detokenizer, StopStrings
from groundup.models.decoder import Decoder
from groundup.models.sampling import choose, generate, uniforms
from tests.serving import (
    SHAPE,
    TEXT,
    VOCABULARY,
    decoder,
    one_thread,  # noqa: F401  a fixture
    tokenizer_in,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return tokenizer_in(tmp_path_factory.mktemp("tokenizer"))


# --- choosing a token


def draws(logits: list[float], count: int, **options: float) -> list[int]:
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **options}
    return choose(
        torch.tensor([logits]).expand(count, -1),
        torch.full((count,), values["temperature"]),
        torch.full((count,), int(values["top_k"])),
        torch.full((count,), values["top_p"]),
        uniforms(7, 0, 0, count),
    ).tolist()


def test_tokens_are_drawn_with_the_softmax_probabilities() -> None:
    logits = [0.0, 2.0, -1.0, 1.0]
    for temperature in (0.5, 1.0, 2.0):
        counts = torch.bincount(torch.tensor(draws(logits, 40_000, temperature=temperature)), minlength=4)
        expected = (torch.tensor(logits) / temperature).softmax(-1)
        # Four standard errors of a share over 40 000 draws.
        assert torch.allclose(counts / 40_000, expected, atol=0.01)


def test_zero_temperature_takes_the_first_of_the_likeliest() -> None:
    assert draws([0.0, 3.0, 3.0, 1.0], 3, temperature=0.0) == [1, 1, 1]
    assert draws([0.0, 3.0, 3.0, 1.0], 3, temperature=1e-30) == [1, 1, 1]


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log().tolist()
    assert set(draws(logits, 2000, top_k=2)) == {1, 3}
    assert set(draws(logits, 2000, top_k=9)) == {0, 1, 2, 3}
    assert set(draws(logits, 2000, top_p=0.69)) == {1, 3}
    assert set(draws(logits, 2000, top_p=0.71)) == {1, 2, 3}
    assert set(draws(logits, 2000, top_p=1e-6)) == {1}
    # Top-p counts within the top k: of 4/7 and 3/7, the first reaches a half.
    assert set(draws(logits, 2000, top_k=2, top_p=0.5)) == {1}
    # Of equals the first are kept, no more than k.
    assert set(draws([1.0] * 500, 2000, top_k=2)) == {0, 1}


@given(
    logits=st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=12),
    temperature=st.floats(0, 3),
    top_k=st.integers(0, 14),
    top_p=st.floats(0.01, 1),
    uniform=st.floats(0, 1, exclude_max=True),
)
@example(logits=[0.0, 5.0], temperature=1.0, top_k=1, top_p=1.0, uniform=0.0)
@example(logits=[5.0, 0.0], temperature=1.0, top_k=1, top_p=1.0, uniform=1 - 2**-53)
@settings(deadline=None)
def test_the_chosen_token_is_always_among_those_kept(
    logits: list[float], temperature: float, top_k: int, top_p: float, uniform: float
) -> None:
    [token] = choose(
        torch.tensor([logits]),
        torch.tensor([temperature]),
        torch.tensor([top_k]),
        torch.tensor([top_p]),
        torch.tensor([uniform], dtype=torch.float64),
    ).tolist()
    better = sum(value > logits[token] for value in logits)
    assert better < (top_k or len(logits))
    if temperature == 0:
        assert better == 0


def test_rows_of_a_batch_keep_their_own_settings() -> None:
    torch.manual_seed(0)
    logits_BV, uniform_B = torch.randn(4, 50), torch.rand(4, dtype=torch.float64)
    settings = (
        torch.tensor([0.0, 1.0, 0.7, 1.0]),
        torch.tensor([0, 3, 0, 0]),
        torch.tensor([1.0, 1.0, 0.5, 1.0]),
    )
    together = choose(logits_BV, *settings, uniform_B)
    for row in range(4):
        part = slice(row, row + 1)
        alone = choose(logits_BV[part], *(setting[part] for setting in settings), uniform_B[part])
        assert alone.item() == together[row].item()


def test_uniforms_are_a_function_of_seed_row_and_position() -> None:
    numbers = uniforms(1, 0, 0, 1000)
    assert torch.equal(uniforms(1, 0, 300, 310), numbers[300:310])
    assert not torch.equal(uniforms(2, 0, 0, 1000), numbers)
    assert not torch.equal(uniforms(1, 1, 0, 1000), numbers)
    assert 0 <= numbers.min() < 0.01
    assert 0.99 < numbers.max() < 1
    assert uniforms(-(2**63), 0, 0, 3).shape == (3,)


# --- plain batch generation


def by_hand(model: Decoder, prompt: list[int], count: int, seed: int, temperature: float = 1.0) -> list[int]:
    """Without a cache: the whole sequence again for every token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            logits_BV = model.logits(model(torch.tensor([ids])).x_BLD[:, -1])
            uniform_B = uniforms(seed, 0, len(ids), len(ids) + 1)
            options = torch.tensor([temperature]), torch.tensor([0]), torch.tensor([1.0])
            ids += choose(logits_BV, *options, uniform_B).tolist()
    return ids[len(prompt) :]


def test_generate_does_what_is_done_without_a_cache() -> None:
    model = decoder()
    for temperature in (0.0, 1.0):
        [tokens] = generate(model, [[5, 6, 7]], max_new_tokens=20, temperature=temperature, seed=3)
        assert tokens == by_hand(model, [5, 6, 7], 20, 3, temperature)
        assert len(set(tokens)) > 3


def test_prompts_of_different_lengths_in_one_batch() -> None:
    model, prompts = decoder(), [[1, 2, 3], [4], list(range(10, 30))]
    batch = generate(model, prompts, max_new_tokens=15, temperature=0)
    assert batch == [generate(model, [prompt], max_new_tokens=15, temperature=0)[0] for prompt in prompts]


def test_generate_stops_at_stop_ids_and_where_the_context_is_full() -> None:
    model = decoder()
    [free] = generate(model, [[1, 2]], max_new_tokens=12, seed=1)
    [cut, other] = generate(model, [[1, 2], [3]], max_new_tokens=12, seed=1, stop_ids=[free[5]])
    assert cut == free[: free.index(free[5])]
    assert free[5] not in other
    lengths = map(len, generate(model, [[1] * (SHAPE.context_length - 3), [1]], max_new_tokens=200))
    assert list(lengths) == [3, SHAPE.context_length - 1]
    with pytest.raises(ValueError, match="1 to 96 tokens"):
        generate(model, [[1], []], max_new_tokens=2)


def test_generate_within_training_leaves_no_trace() -> None:
    """In training mode, under autocast, between the forward and the backward pass."""

    def gradient(sample: bool) -> torch.Tensor:
        model = decoder().train()
        with torch.autocast("cpu", torch.bfloat16):
            if sample:
                generate(model, [[1, 2, 3]], max_new_tokens=4)
            loss = model.logits(model(torch.tensor([[1, 2, 3, 4]])).x_BLD).float().logsumexp(-1).sum()
            if sample:
                generate(model, [[1, 2, 3]], max_new_tokens=4)
            loss.backward()
        assert model.training
        gradient = model.layers[0].get_parameter("attention.query.weight").grad
        assert gradient is not None
        return gradient

    assert torch.equal(gradient(sample=True), gradient(sample=False))


# --- text out of tokens


@given(ids=st.lists(st.integers(0, VOCABULARY - 1), max_size=60))
@settings(deadline=None, max_examples=200)
def test_pieces_of_any_tokens_make_the_text_decoded_at_once(tokenizer: Tokenizer, ids: list[int]) -> None:
    text = Detokenizer(tokenizer.inner)
    assert "".join(map(text.add, ids)) + text.finish() == tokenizer.decode(ids)


@given(text=st.text("aé語😀 ", min_size=1, max_size=30))
@settings(deadline=None)
def test_no_piece_of_a_good_text_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    pieces = Detokenizer(tokenizer.inner)
    given = [pieces.add(token) for token in ids]
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(given)
    assert "".join(given) == text
    assert pieces.finish() == ""


def test_bytes_that_are_no_text_do_not_hold_up_what_follows(tokenizer: Tokenizer) -> None:
    def byte(value: int) -> int:
        # Byte-level BPE writes 0xA1 and above as the character of that number.
        token = tokenizer.inner.token_to_id(chr(value))
        assert token is not None
        return int(token)

    text = Detokenizer(tokenizer.inner)
    assert text.add(byte(0xF0)) == ""
    assert text.add(byte(0xE6)) == ""
    assert text.add(tokenizer.encode("a")[0]) == "\N{REPLACEMENT CHARACTER}" * 2 + "a"
    assert text.add(byte(0xE6)) == ""
    assert text.finish() == "\N{REPLACEMENT CHARACTER}"


def test_a_tokenizer_with_byte_fallback_and_marked_spaces() -> None:
    """The kind that SentencePiece makes: the space before a first word is not written."""
    vocabulary = {"▁so": 0, "▁it": 1, "s": 2, **{f"<0x{n:02X}>": 3 + n for n in range(256)}}
    inner = HfTokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    euro = [3 + byte for byte in "€".encode()]
    first = Detokenizer(inner)
    assert [first.add(token) for token in [0, 1, *euro, 2, 0]] == ["so", " it", "", "", "€", "s", " so"]
    after_prompt = Detokenizer(inner, [0, euro[0]])
    assert [after_prompt.add(token) for token in [*euro[1:], 1]] == ["", "€", " it"]


@given(
    text=st.text("ab", max_size=20),
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 20), max_size=6),
)
def test_stop_strings_in_any_pieces(text: str, stops: list[str], cuts: list[int]) -> None:
    places = [text.find(stop) + len(stop) for stop in stops if stop in text]
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    scanner, out, stopped = StopStrings(stops), "", False
    for begin, end in itertools.pairwise(edges):
        piece, stopped = scanner.add(text[begin:end])
        out += piece
        if stopped:
            break
    if not stopped:
        out += scanner.finish()
    assert stopped == bool(places)
    assert text.startswith(out)
    assert not any(stop in out for stop in stops)
    if not stopped:
        assert out == text


def test_the_tokenizer_for_these_tests_splits_characters(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("語")) > 1
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
