"""What a server at the edge reads from its environment: certificates, token keys, the policy."""

import ipaddress
from collections.abc import Callable, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from servicekit.security.errors import SecurityFilesError
from servicekit.settings import PREFIX, Folder, ProcessSettings


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class EdgeSettings(ProcessSettings):
    """What the gateway and the collector read beside what every process does. Unset: plaintext, for this machine."""

    tls_certificate: Folder | None = Field(
        default=None, description="The server's certificate chain, PEM; read anew when it changes. Unset = plaintext."
    )
    tls_key: Folder | None = Field(default=None, description="Its private key, PEM.")
    tls_client_ca: Folder | None = Field(
        default=None,
        description="CAs of client certificates, PEM: every connection then needs one, and the policy its name.",
    )
    token_public_keys: Folder | None = Field(
        default=None,
        description="Public keys (RS/ES) that verify callers' tokens: one PEM file, or a folder of `<kid>.pem`.",
    )
    token_audience: str = Field(default="millrace", min_length=1, description="`aud` that a token must name.")
    token_issuer: str = Field(default="millrace", min_length=1, description="`iss` that a token must name.")
    policy: Folder | None = Field(
        default=None, description="Who may call which RPC, and how often; unset = servicekit's `policy.yaml`."
    )

    max_connection_age_s: float = Field(
        default=300.0,
        gt=0,
        description="After so long a connection takes no new calls (give or take a tenth): its caller makes another, "
        "which may reach another process. Calls under way go on.",
    )
    max_connection_grace_s: float = Field(
        default=3_600.0, gt=0, description="How much longer its last calls may take, a caller's stream for instance."
    )

    share_port: bool = Field(
        default=False, description="Lets further processes of ours listen on its gRPC port too (SO_REUSEPORT)."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError(f"{PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY: set both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError(f"{PREFIX}TLS_CLIENT_CA: needs {PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY")
        if is_loopback(self.bind):
            return self
        if self.token_public_keys is not None and self.tls_certificate is None:
            raise ValueError(f"{PREFIX}TOKEN_PUBLIC_KEYS: tokens travel in TLS only; set {PREFIX}TLS_CERTIFICATE")
        if self.env == "production" and self.tls_certificate is None:
            raise ValueError(f"{PREFIX}BIND={self.bind}: production takes no plaintext; set {PREFIX}TLS_CERTIFICATE")
        if self.env == "production" and self.tls_client_ca is None and self.token_public_keys is None:
            raise ValueError(
                f"{PREFIX}BIND={self.bind}: anybody could call; set {PREFIX}TLS_CLIENT_CA or {PREFIX}TOKEN_PUBLIC_KEYS"
            )
        return self

    def unusable(self) -> list[str]:
        """What is wrong with the files that the settings name."""
        if not (self.tls_certificate or self.token_public_keys or self.policy):
            return []
        from servicekit.security.policy import Policy  # these cost time that plaintext need not spend
        from servicekit.security.tls import read_pem, server_credentials
        from servicekit.security.tokens import read_keys

        readers: Mapping[str, Callable[[Any], object]] = {
            "tls_certificate": read_pem,
            "tls_key": read_pem,
            "tls_client_ca": read_pem,
            "token_public_keys": read_keys,
            "policy": Policy.read,
        }
        found = []
        for name, read in readers.items():
            if (path := getattr(self, name)) is not None and (problem := _problem(read, path)):
                found.append(f"{PREFIX}{name.upper()}: {problem}")
        if not found and (problem := _problem(server_credentials, self)):
            found.append(f"{PREFIX}TLS_KEY: {problem}")
        return found

    @property
    def is_guarded(self) -> bool:
        """Whether callers must prove who they are."""
        return self.tls_client_ca is not None or self.token_public_keys is not None


def _problem(read: Callable[[Any], object], what: object) -> str | None:
    try:
        read(what)
    except SecurityFilesError as exc:
        return str(exc)
    return None
