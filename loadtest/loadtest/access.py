"""How a generator gets in: plaintext, TLS, a certificate of its own, a token."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import BadInput


@dataclass(frozen=True)
class Access:
    """Files that open the door; all None = plaintext without a token.

    `ca`: PEM of who signs the server's certificate, its presence means TLS. `certificate` and `key`: our own, PEM
    (mTLS). `token`: a file that holds a bearer token. `name`: what the server's certificate must say, if not the host.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: Path | None = None
    name: str | None = None

    def checked(self) -> "Access":
        """These files, if they make sense.

        Raises:
            BadInput: one cannot be read, or a certificate has no key or no CA beside it.
        """
        for option, path in (("ca", self.ca), ("cert", self.certificate), ("key", self.key), ("token", self.token)):
            if path is not None and not path.is_file():
                raise BadInput(f"--{option} {path}: no such file; `millrace certs` makes some for development")
        if (self.certificate is None) != (self.key is None):
            raise BadInput("--cert and --key: give both, or neither")
        if self.certificate is not None and self.ca is None:
            raise BadInput("--cert: needs --ca, whose presence turns TLS on")
        return self

    def context(self) -> ssl.SSLContext | None:
        """TLS with HTTP/2; None = plaintext. Raises BadInput where a file is no PEM."""
        if self.ca is None:
            return None
        try:
            context = ssl.create_default_context(cafile=str(self.ca))
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (ssl.SSLError, OSError) as exc:
            raise BadInput(f"--ca, --cert, --key: {exc}; give PEM files") from exc
        context.set_alpn_protocols(["h2"])
        return context

    def metadata(self) -> Sequence[tuple[str, str]]:
        """What every call carries."""
        if self.token is None:
            return ()
        return (("authorization", f"Bearer {self.token.read_text(encoding='utf-8').strip()}"),)
