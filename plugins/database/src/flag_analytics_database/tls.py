"""``Tls``: how a connection is encrypted and whom it trusts, in libpq's terms, for every driver."""

from __future__ import annotations

import ssl
from pathlib import Path

import attrs

from .errors import CannotConnect
from .names import TLS_MODES, TlsMode

__all__ = ["Tls", "tls_mode"]

_OF_MYSQL: dict[str, TlsMode] = {
    "disabled": "disable",
    "preferred": "prefer",
    "required": "require",
    "verify_ca": "verify-ca",
    "verify_identity": "verify-full",
}


def tls_mode(name: str) -> TlsMode | None:
    """Return the mode of that name, which may be MySQL's (``VERIFY_IDENTITY``), or None."""
    return next((mode for mode in TLS_MODES if mode == name), None) or _OF_MYSQL.get(name.lower())


@attrs.frozen(kw_only=True)
class Tls:
    """Settings of one connection; files are read when it connects."""

    mode: TlsMode
    ca_file: Path | None = None
    """Certificates of trusted authorities (PEM); those of the system without it."""
    ca_directory: Path | None = None
    cert_file: Path | None = None
    """The client's certificate, and ``key_file`` its key (PEM)."""
    key_file: Path | None = None
    key_password: str | None = attrs.field(default=None, repr=False)
    crl_file: Path | None = None
    ciphers: str | None = None

    @property
    def required(self) -> bool:
        """Whether a connection without TLS is refused."""
        return TLS_MODES.index(self.mode) >= TLS_MODES.index("require")

    def context(self) -> ssl.SSLContext:
        """Return a context that checks as much as the mode asks for.

        As with libpq, ``require`` checks the server's certificate if a CA is given, and its host name only in
        ``verify-full``.

        Raises:
            CannotConnect: a file cannot be read, or is no certificate.
        """
        trusted = self.ca_file is not None or self.ca_directory is not None
        try:
            context = ssl.create_default_context(cafile=self.ca_file, capath=self.ca_directory)
            context.check_hostname = self.mode == "verify-full"
            if self.mode not in {"verify-ca", "verify-full"} and not trusted:
                context.verify_mode = ssl.CERT_NONE
            if self.crl_file is not None:
                context.load_verify_locations(self.crl_file)
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file, lambda: self.key_password or "")
            if self.ciphers is not None:
                context.set_ciphers(self.ciphers)
        except (OSError, ValueError) as error:
            raise CannotConnect(
                f"a file for TLS cannot be used ({type(error).__name__}): expected certificates and keys in PEM form "
                f"that this process may read ({', '.join(self._files())})"
            ) from None
        return context

    def _files(self) -> list[str]:
        named = {"ca": self.ca_file or self.ca_directory, "cert": self.cert_file, "key": self.key_file}
        named["crl"] = self.crl_file
        return [f"{name} {path}" for name, path in named.items() if path is not None]
