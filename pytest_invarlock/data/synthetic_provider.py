"""The provider of synthetic text: no source, no rights, no claim to be language."""

from __future__ import annotations

import hashlib

from pytest_invarlock.data.documents import Content, Document
from pytest_invarlock.data.providers import Provider
from pytest_invarlock.data.synthetic import DEFAULT_DOCUMENTS, synthetic_text


class SyntheticProvider(Provider):
    """Generated documents, always the same; ``max_samples`` says how many."""

    kind = "synthetic"
    is_public = True

    def read(self, content: Content) -> tuple[list[Document], tuple[str, ...]]:
        """The generated documents, and a note that they are generated."""
        del content
        count = self.source.max_samples or DEFAULT_DOCUMENTS
        documents = [Document(synthetic_text(ordinal)) for ordinal in range(count)]
        return documents, ("the evaluation text is synthetic: generated sentences, no language",)

    def source_digest(self) -> str:
        """The digest of all generated text."""
        content = hashlib.sha256()
        for document in self.documents():
            content.update(document.text.encode() + b"\0")
        return "sha256:" + content.hexdigest()
