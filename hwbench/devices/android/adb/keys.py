"""The RSA keys by which a phone knows this computer: the same files that adb itself uses.

Their order and places are those of adb (`client/auth.cpp`, Android Open Source Project):
`$HOME/.android/adbkey`, made if it is missing, then the files and folders (`*.adb_key`) that
`ADB_VENDOR_KEYS` lists.
"""

from __future__ import annotations

import os
import socket
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from hwbench.errors import DeviceUnavailableError
from hwbench.records.scratch import scratch_folder


@dataclass(frozen=True, slots=True)
class Key:
    """One private key.

    Attributes:
        path: The path of the file that holds it.
    """

    path: Path

    def sign(self, token: bytes) -> bytes:
        """Sign a phone's challenge with PKCS #1 v1.5.

        Args:
            token: The 20 bytes of the challenge, which take the place of a SHA-1 digest.

        Raises:
            DeviceUnavailableError: The key cannot be read.
        """
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(self.path.read_bytes(), None)
            if not isinstance(key, rsa.RSAPrivateKey):
                raise TypeError("not an RSA key")
            digest = utils.Prehashed(hashes.SHA1())  # noqa: S303 -- adb's protocol says so
            return key.sign(token, padding.PKCS1v15(), digest)
        except (OSError, ValueError, TypeError) as error:
            raise DeviceUnavailableError(
                f"cannot use the adb key {self.path} ({error}); move it away to have one made"
            ) from error

    def public(self) -> bytes:
        """Encode the public key as the line that a phone keeps of it.

        Returns:
            The base64 of Android's RSAPublicKey, and the user and computer that it belongs to.
        """
        from adb_shell.auth.keygen import encode_pubkey

        user = os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
        computer = socket.gethostname() or "unknown"
        return b64encode(encode_pubkey(str(self.path))) + f" {user}@{computer}".encode()


def load_keys() -> list[Key]:
    """Find the keys to offer, in order; the user's own is made if it is missing.

    Raises:
        DeviceUnavailableError: There is no key, and none can be made.
    """
    try:
        home = Path(os.environ.get("HOME") or "~").expanduser()
    except RuntimeError as error:
        raise DeviceUnavailableError(
            "this user has no home folder, where the keys for phones are; set HOME"
        ) from error
    own = home / ".android" / "adbkey"
    vendor: list[Path] = []
    for entry in os.environ.get("ADB_VENDOR_KEYS", "").split(os.pathsep):
        if not entry:
            continue
        path = Path(entry)
        if path.is_dir():
            vendor += sorted(path.glob("*.adb_key"))
        elif path.exists():
            vendor.append(path)
    try:
        if not own.exists():
            _make_key(own)
    except OSError as error:
        if not vendor:
            raise DeviceUnavailableError(
                f"cannot make the adb key {own} ({error}); set ADB_VENDOR_KEYS to one"
            ) from error
        return [Key(path) for path in vendor]
    return [Key(path) for path in (own, *vendor)]


def _make_key(path: Path) -> None:
    """Make the user's key, unless another process makes it at the same time.

    Each process makes a whole key in a folder of its own, and the first to link it to `path` wins:
    nobody ever reads half a key.
    """
    from adb_shell.auth.keygen import keygen

    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    with scratch_folder(path.parent) as folder:
        new_key = folder / "adbkey"
        keygen(str(new_key))
        new_key.chmod(0o600)
        try:
            os.link(new_key, path)
        except FileExistsError:
            return
        new_key.with_suffix(".pub").replace(path.with_suffix(".pub"))
