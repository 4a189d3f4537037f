"""`millrace certs`: what a secured stack needs, made once; and how the command gets in itself."""

import json
from pathlib import Path
from typing import Any

from millrace.client import Access
from millrace_cli import environment, secured
from millrace_cli import settings as command_settings
from servicekit.security.tokens import TokenVerifier


def test_certificates_are_made_once_and_secrets_are_their_owners(run: Any, tmp_path: Path) -> None:
    """A second call changes nothing, so that what was handed out goes on; keys are for nobody else's eyes."""
    first = json.loads(run("certs", "--json", MILLRACE_HOME=str(tmp_path)).stdout.splitlines()[-1])
    ca = (tmp_path / "certs" / "ca.pem").read_bytes()
    second = json.loads(run("certs", "--json", MILLRACE_HOME=str(tmp_path)).stdout.splitlines()[-1])

    assert (True, False) == (first["made"], second["made"])
    assert ["operator", "product-shop", "simulator"] == first["clients"]
    assert ca == (tmp_path / "certs" / "ca.pem").read_bytes()
    keys = list((tmp_path / "certs").rglob("*.key"))
    assert 6 == len(keys)
    assert {0o600} == {key.stat().st_mode & 0o777 for key in keys}
    run("certs", "--host", "gateway.example", MILLRACE_HOME=str(tmp_path))
    assert ca != (tmp_path / "certs" / "ca.pem").read_bytes()


def test_a_token_is_one_that_the_servers_take(run: Any, tmp_path: Path) -> None:
    """Alone on the line, to be put into a variable."""
    run("certs", MILLRACE_HOME=str(tmp_path))
    done = run("certs", "token", "--caller", "me", "--role", "events.write", MILLRACE_HOME=str(tmp_path))
    verifier = TokenVerifier(tmp_path / "certs" / "tokens", audience="millrace", issuer="millrace")

    found = verifier.verify(done.stdout.strip())
    assert ("me", {"events.write"}) == (found.subject, found.roles)


def test_a_token_needs_keys_and_a_role_that_exists(run: Any, tmp_path: Path) -> None:
    """Bad input, with what to do."""
    assert (2, True) == (
        (done := run("certs", "token", MILLRACE_HOME=str(tmp_path))).code,
        "run: millrace certs" in done.stderr,
    )
    assert 2 == run("certs", "token", "--role", "admin", MILLRACE_HOME=str(tmp_path)).code
    assert 2 == run("certs", MILLRACE_HOME=str(tmp_path), MILLRACE_ENV="production").code


def test_the_command_shows_a_secured_stack_its_certificate(run: Any, tmp_path: Path) -> None:
    """And nothing to one that asks for nothing."""
    run("certs", MILLRACE_HOME=str(tmp_path), MILLRACE_PORT_OFFSET="100")
    settings = command_settings.load()
    assert "127.0.0.1:50151" == environment.gateway(settings)
    assert secured.server_settings(settings) == {}

    secured.choose(settings, wanted=True)
    access = Access.of(environment.gateway(settings))
    assert ("127.0.0.1:50151",) == access.targets
    assert access.tls is not None
    assert tmp_path / "certs" / "clients" / "operator.pem" == access.tls.certificate
    assert all(Path(value).exists() for value in secured.server_settings(settings).values())
    secured.choose(settings, wanted=None)
    assert secured.is_on(settings)
    secured.choose(settings, wanted=False)
    assert not secured.is_on(settings)
