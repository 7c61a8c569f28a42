"""Ed25519 signatures of updates (RFC 8032), by the library cryptography: `pip install 'splite-deploy[sign]'`.

Keys are PEM files, as ``openssl genpkey -algorithm ed25519`` writes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from splite_deploy.errors import MissingDependencyError, UpdateError
from splite_deploy.spec.reading import MIB, read_bytes
from splite_deploy.text import quoted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_CONTEXT = b"splite-deploy update 1\n"
"""Goes before what is signed: a signature of something else that was made with the same key says nothing here."""
SIGNATURE_BYTES = 64


def sign(content: bytes, private_key: Path) -> bytes:
    """The signature of a content, 64 bytes.

    Args:
        content: What is signed.
        private_key: A PEM file.

    Raises:
        MissingDependencyError: cryptography is not installed.
        UpdateError: The file holds no such key.
        ReadError: It cannot be read.
    """
    return _private(private_key).sign(_CONTEXT + content)


def public_key_of(file: Path) -> str:
    """The 32 bytes of a public key in hex.

    Args:
        file: A PEM file of a public key. That of a private one is refused: it has no place on a device.

    Raises:
        MissingDependencyError: cryptography is not installed.
        UpdateError: The file holds no such key.
        ReadError: It cannot be read.
    """
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    content = read_bytes(file, most_bytes=MIB)
    if b"PRIVATE KEY" in content:
        raise UpdateError(
            f"{file} holds a private key, which has no place on a device.",
            hint=f"Give its public half: openssl pkey -in {quoted(file)} -pubout -out public.pem.",
        )
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UpdateError(f"{file} holds no public Ed25519 key as PEM.", hint=_MAKE)
    return key.public_bytes_raw().hex()


def is_signed_by(public_key: str, content: bytes, signature: bytes) -> bool:
    """Whether a signature is that of a content by the private half of a key.

    Args:
        public_key: Its 32 bytes in hex.
        content: What was signed.
        signature: 64 bytes.

    Raises:
        MissingDependencyError: cryptography is not installed.
        UpdateError: The key is none.
    """
    _require()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key: Ed25519PublicKey = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    except ValueError as err:
        raise UpdateError(f"'{public_key}' is no public Ed25519 key.", hint=_MAKE) from err
    try:
        key.verify(signature, _CONTEXT + content)
    except InvalidSignature:
        return False
    return True


_MAKE = (
    "Make a pair: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out public.pem."
)


def _private(file: Path) -> Ed25519PrivateKey:
    _require()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_bytes(file, most_bytes=MIB), password=None)
    except TypeError as err:
        raise UpdateError(
            f"The key in {file} is protected by a passphrase, which nobody is asked for.",
            hint=f"Write it without one where nobody else can read it: openssl pkey -in {quoted(file)} -out key.pem.",
        ) from err
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UpdateError(f"{file} holds no private Ed25519 key as PEM.", hint=_MAKE)
    return key


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as err:
        raise MissingDependencyError(
            "Signatures need cryptography, which is not installed here.",
            hint="Install it: pip install 'splite-deploy[sign]'.",
        ) from err
