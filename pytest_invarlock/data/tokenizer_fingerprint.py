"""A fingerprint of a tokenizer's behaviour, independent of where it was loaded from."""

from __future__ import annotations

import json
from typing import Any

from pytest_invarlock.evidence.strict_json import digest


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """``sha256:`` over what turns text into ids: the whole pipeline where it can be read.

    Fast tokenizers give their normaliser, pre-tokeniser, model and added tokens; truncation and
    padding state, which calls change, is left out. Others give their vocabulary. Which tokens are
    special, and as what, is part of it: windows begin, end and are masked with them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        pipeline = json.loads(backend.to_str())
        pipeline.pop("truncation", None)
        pipeline.pop("padding", None)
    else:
        pipeline = {
            "vocabulary": sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]),
        }
    special = {
        name: str(token) for name, token in getattr(tokenizer, "special_tokens_map", {}).items()
    }
    return digest({"pipeline": json.dumps(pipeline, sort_keys=True), "special_tokens": special})
