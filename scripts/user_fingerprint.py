"""Print the fingerprint of the user's own signing key, as ``invarlock verify`` expects it."""

from __future__ import annotations

from pytest_invarlock.evidence.keys import (
    fingerprint,
    load_public_key,
    public_path_of,
    user_signing_key_path,
)

if __name__ == "__main__":
    print(fingerprint(load_public_key(public_path_of(user_signing_key_path()))))
