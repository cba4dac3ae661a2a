"""The tokenizer: byte-level BPE of our own training, or a Hugging Face folder that exists.

Each document starts with a start token. Where a tokenizer has one token for both ends (ours, GPT-2's), the next
document's start is what a model learns to predict at the end of a text; otherwise an end token closes each document.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer

from groundup.errors import UserError

END_OF_TEXT = "<|endoftext|>"
SPECIAL_TOKENS = [END_OF_TEXT, "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Tokenizer:
    """A tokenizer folder, loaded. `end_id` is None where the start token closes documents too."""

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        try:
            self.content = path.read_bytes()
            self.inner: HfTokenizer = HfTokenizer.from_str(self.content.decode())
        except FileNotFoundError:
            raise UserError(
                "no tokenizer.json here", where=str(folder), expected="a folder as Hugging Face's tokenizers write it"
            ) from None
        except Exception as error:  # the library raises plain Exception for a damaged file
            raise UserError(f"this tokenizer can't be read: {error}", where=str(path)) from None
        self.folder = folder
        self.inner.encode_special_tokens = True  # what looks like a special token in a text is text
        self.inner.no_padding()
        self.inner.no_truncation()
        self.start_id, self.end_id = self._ends(folder)
        self.vocab_size: int = max(self.inner.get_vocab(with_added_tokens=True).values()) + 1

    def _ends(self, folder: Path) -> tuple[int, int | None]:
        path, config = folder / "tokenizer_config.json", {}
        if path.exists():
            try:
                config = json.loads(path.read_bytes())
            except ValueError as error:
                raise UserError(f"not valid JSON: {error}", where=str(path)) from None
            if not isinstance(config, dict):
                raise UserError("holds no JSON object", where=str(path))

        def token_id(key: str) -> int | None:
            token = config.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            return None if token is None else self.inner.token_to_id(token)

        bos, eos = token_id("bos_token"), token_id("eos_token")
        if eos is None:
            eos = self.inner.token_to_id(END_OF_TEXT)
        if bos is None:
            bos = eos
        if bos is None:
            raise UserError(
                "this tokenizer names no bos_token or eos_token, so documents can't be kept apart",
                where=str(path),
            )
        return bos, None if eos == bos else eos

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def stop_ids(self) -> list[int]:
        """Tokens that end a text."""
        return [self.start_id] if self.end_id is None else [self.end_id]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int]) -> str:
        text: str = self.inner.decode(ids, skip_special_tokens=True)
        return text

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, folder / name)
