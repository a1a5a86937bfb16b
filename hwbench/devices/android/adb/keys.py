"""The RSA keys by which a phone knows this computer: the same files that adb itself uses.

Order and places are those of adb (`client/auth.cpp`, Android Open Source Project):
`$HOME/.android/adbkey`, made if it is missing, then the files and folders (`*.adb_key`) that
`ADB_VENDOR_KEYS` lists.
"""

from __future__ import annotations

import os
import socket
import tempfile
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from hwbench.errors import DeviceUnavailableError


@dataclass(frozen=True, slots=True)
class Key:
    """One private key file.

    Attributes:
        path: Where it is.
    """

    path: Path

    def sign(self, token: bytes) -> bytes:
        """Sign a phone's challenge: PKCS #1 v1.5 over the 20 bytes of `token`, which take the place of a SHA-1 digest."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(self.path.read_bytes(), None)
            if not isinstance(key, rsa.RSAPrivateKey):
                raise TypeError("not an RSA key")
            return key.sign(token, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))  # noqa: S303 -- adb's protocol says so
        except (OSError, ValueError, TypeError) as error:
            raise DeviceUnavailableError(
                f"cannot use the adb key {self.path} ({error}); move it away to have one made"
            ) from error

    def public(self) -> bytes:
        """The line a phone keeps of this key: base64 of Android's RSAPublicKey, and who it belongs to."""
        from adb_shell.auth.keygen import encode_pubkey

        owner = f" {os.environ.get('USER') or os.environ.get('LOGNAME') or 'unknown'}@{socket.gethostname() or 'unknown'}"
        return b64encode(encode_pubkey(str(self.path))) + owner.encode()


def keys() -> list[Key]:
    """The keys to offer, in order; the user's own is made if there is none at all.

    Raises:
        DeviceUnavailableError: It cannot be made or read.
    """
    own = Path(os.environ.get("HOME") or "~").expanduser() / ".android" / "adbkey"
    vendor = [
        path
        for part in os.environ.get("ADB_VENDOR_KEYS", "").split(os.pathsep)
        if part
        for path in _files(Path(part))
    ]
    try:
        if not own.exists():
            _make(own)
    except OSError as error:
        if not vendor:
            raise DeviceUnavailableError(
                f"cannot make the adb key {own} ({error}); set ADB_VENDOR_KEYS to one"
            ) from error
        return [Key(path) for path in vendor]
    return [Key(path) for path in (own, *vendor)]


def _files(place: Path) -> list[Path]:
    return sorted(place.glob("*.adb_key")) if place.is_dir() else [place] if place.exists() else []


def _make(path: Path) -> None:
    """Two processes may do this at once: each makes a whole key in a folder of its own, and the first to link it wins."""
    from adb_shell.auth.keygen import keygen

    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "adbkey"
        keygen(str(made))
        made.chmod(0o600)
        try:
            os.link(made, path)
        except FileExistsError:
            return
        made.with_suffix(".pub").replace(path.with_suffix(".pub"))
