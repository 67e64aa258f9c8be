"""Process that loads the PKCS#11 library: `python -m cloud.breakwater.keys.token_process`, started by `pkcs11.py`.

Vendors' libraries hang and crash. They remember removed tokens until they are loaded again: PKCS#11 offers only
C_Finalize, during which no other thread may be in the library. The issuer can kill this process and start another, and
the library cannot damage the issuer's memory. The process runs one command at a time and ends when its input ends.
"""

import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pkcs11
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

from cloud.breakwater.keys import token_messages as messages
from cloud.breakwater.keys.token_messages import Command, Connect, Find, Generate, Outcome, Reply, Sign
from cloud.crypto.keyfile import KeyFileError, read_secret

_PIN_ERRORS = (
    pkcs11.PinIncorrect,
    pkcs11.PinLocked,
    pkcs11.PinExpired,
    pkcs11.PinInvalid,
    pkcs11.PinLenRange,
    pkcs11.UserPinNotInitialized,
)
_REFUSALS = (
    pkcs11.AttributeReadOnly,
    pkcs11.AttributeTypeInvalid,
    pkcs11.AttributeValueInvalid,
    pkcs11.DataLenRange,
    pkcs11.DomainParamsInvalid,
    pkcs11.FunctionNotSupported,
    pkcs11.KeyTypeInconsistent,
    pkcs11.MechanismInvalid,
    pkcs11.MultipleTokensReturned,
    pkcs11.TemplateIncomplete,
    pkcs11.TemplateInconsistent,
    pkcs11.TokenWriteProtected,
)


class _Failed(Exception):
    """A command failed. `outcome` and the text become the reply."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(text)
        self.outcome: Outcome = outcome


class Token:
    """A token, and a session in which the user is logged in."""

    def __init__(self, token: pkcs11.Token, session: pkcs11.Session) -> None:
        self._token = token
        self._session = session
        self._private: dict[str, Any] = {}

    def answer(self, command: Command) -> bytes:
        """Run one command and return the data of its reply. Raises PKCS11Error or _Failed."""
        match command:
            case Find(label):
                return _spki(self._one(label, pkcs11.ObjectClass.PUBLIC_KEY))
            case Generate(label):
                return self._generate(label)
            case Sign(label, digest):
                return self._sign(label, digest)
            case Connect():
                raise _Failed("refused", "already connected")

    def _sign(self, label: str, digest: bytes) -> bytes:
        key = self._private.get(label)
        if key is None:
            key = self._private[label] = self._one(label, pkcs11.ObjectClass.PRIVATE_KEY)
        return bytes(key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))

    def _generate(self, label: str) -> bytes:
        if self._found({pkcs11.Attribute.LABEL: label}):
            raise _Failed("refused", f"the token already has a key {label}, which may have signed")
        # This session needs no login: PKCS#11 logs in a whole process, and the other session has done that.
        writing = self._token.open(rw=True)
        try:
            curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
            public, _ = writing.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True).generate_keypair(
                id=label.encode(),
                label=label,
                store=True,
                capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
                private_template={
                    pkcs11.Attribute.PRIVATE: True,
                    pkcs11.Attribute.SENSITIVE: True,
                    pkcs11.Attribute.EXTRACTABLE: False,
                },
            )
            return _spki(public)
        finally:
            writing.close()

    def _one(self, label: str, kind: pkcs11.ObjectClass) -> Any:
        found = self._found(
            {
                pkcs11.Attribute.CLASS: kind,
                pkcs11.Attribute.KEY_TYPE: pkcs11.KeyType.EC,
                pkcs11.Attribute.LABEL: label,
            }
        )
        if not found:
            name = "public" if kind is pkcs11.ObjectClass.PUBLIC_KEY else "private"
            raise _Failed("absent", f"the token has no {name} EC key {label}")
        if len(found) > 1:
            raise _Failed("refused", f"the token has {len(found)} keys {label}; delete or rename all but one")
        return found[0]

    def _found(self, attributes: dict[pkcs11.Attribute, Any]) -> list[Any]:
        return list(self._session.get_objects(attributes))


def _spki(public: Any) -> bytes:
    try:
        return encode_ec_public_key(public)
    except (ValueError, TypeError) as error:  # asn1crypto raises these for an unexpected encoding
        raise _Failed("refused", f"the token's public key cannot be parsed: {error}") from error


def connect(command: Connect) -> Token:
    """Load the library, find the token and log in. Raises PKCS11Error or _Failed."""
    if not Path(command.module).is_file():
        raise _Failed("refused", f"there is no PKCS#11 library {command.module}")
    try:
        pin = read_secret(Path(command.pin_file)).strip().decode()
    except (KeyFileError, UnicodeDecodeError) as error:
        raise _Failed("refused", f"cannot use the PIN file {command.pin_file}: {error}") from error
    try:
        token = pkcs11.lib(command.module).get_token(token_label=command.token)
    except pkcs11.NoSuchToken as error:
        raise _Failed("lost", f"there is no token {command.token}") from error
    except pkcs11.MultipleTokensReturned as error:
        raise _Failed("refused", f"more than one token is labelled {command.token}") from error
    return Token(token, token.open(user_pin=pin))


def _attempt(token: Token | None, command: Command) -> tuple[Token | None, Reply]:
    try:
        if isinstance(command, Connect) and token is None:
            return connect(command), Reply("done")
        if token is None:
            raise _Failed("refused", "not connected")
        return token, Reply("done", token.answer(command))
    except _Failed as failure:
        return token, Reply(failure.outcome, text=str(failure))
    except pkcs11.PKCS11Error as error:
        text = f"the token answers {type(error).__name__} {error}".rstrip()
        if isinstance(error, _PIN_ERRORS):
            return token, Reply("pin", text=text)
        return token, Reply("refused" if isinstance(error, _REFUSALS) else "lost", text=text)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer commands from `source` until it ends. Raises ValueError or msgspec.MsgspecError for an invalid frame."""
    token: Token | None = None
    while len(head := source.read(messages.SIZE_BYTES)) == messages.SIZE_BYTES:
        command = messages.commands.decode(source.read(messages.size_of(head)))
        token, reply = _attempt(token, command)
        sink.write(messages.frame(reply))
        sink.flush()


def main() -> None:
    """Serve on standard input and output.

    Standard output carries only replies. Text that a library prints there goes to standard error instead.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as sink:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
