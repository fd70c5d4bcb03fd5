"""TLS and cross-origin requests: off unless configured, and then as configured."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from jobserver.errors import ConfigurationError
from jobserver.settings import Settings
from tests.conftest import Pair
from tests.keys import bearer, made
from tests.servers import running

APP = "https://app.example.com"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return certificate, key


async def test_a_server_speaks_tls_and_nothing_older_than_1_2(pair: Pair, certificate: tuple[Path, Path]) -> None:
    options = {"workers": 1, "tls_certificate": certificate[0], "tls_key": certificate[1]}
    async with running(pair, **options) as server:
        assert server.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate[0]))
        async with httpx.AsyncClient(base_url=server.url, verify=trust) as client:
            answer = await client.post("/jobs", json={"type": "echo", "payload": "x" * 100_000})
            assert answer.status_code == 201
            assert (await client.get(f"/jobs/{answer.json()['id']}")).json()["payload"] == "x" * 100_000
            # It would bind every server on this machine's loopback.
            assert "strict-transport-security" not in answer.headers
        with pytest.raises(httpx.TransportError):
            await httpx.AsyncClient().get(server.url.replace("https", "http") + "/health")
        assert server._http is not None
        context = server._http.config.ssl
        assert context is not None
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_a_certificate_that_cannot_be_used_is_told_at_start(pair: Pair, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for certificate in (tmp_path / "missing.pem", nonsense):
        with pytest.raises(ConfigurationError, match=r"\.pem"):
            async with running(pair, workers=1, tls_certificate=certificate, tls_key=certificate):
                pytest.fail("it started")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tls_key": Path("x")}, "--tls-certificate"),
        ({"cors_origins": ("*",)}, "--cors-origins"),
        ({"cors_origins": ("https://a.example/path",)}, "--cors-origins"),
        ({"cors_origins": ("null",)}, "--cors-origins"),
        ({"trusted_proxies": ("*",)}, "--trusted-proxies"),
        ({"trusted_proxies": ("0.0.0.0/0",)}, "trusts everybody"),
        ({"trusted_proxies": ("::/0",)}, "trusts everybody"),
        ({"trusted_proxies": ("proxy.example",)}, "--trusted-proxies"),
        ({"rate_limit": "many"}, "--rate-limit"),
        ({"max_waiting": 0}, "--max-waiting"),
    ],
    ids=str,
)
def test_a_careless_setting_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Settings(**options)  # type: ignore[arg-type]


async def test_only_pages_that_were_named_may_call(pair: Pair) -> None:
    async with (
        running(pair, workers=1, cors_origins=(APP,)) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        key = bearer(await made(server, "submit"))
        asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        preflight = await client.options("/jobs", headers={"origin": APP, **asks})
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == APP
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in preflight.headers
        named = {"origin": APP, "sec-fetch-site": "cross-site"}
        answer = await client.post("/jobs", json={"type": "echo"}, headers={**named, **key})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, APP)
        assert "Location" in answer.headers["access-control-expose-headers"]
        # A page may read why it was refused.
        refused = await client.get("/jobs", headers=named)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, APP)
        for origin in ("https://evil.example", "https://app.example.com.evil.example", f"{APP}:444", "null", APP + "/"):
            strange = await client.options("/jobs", headers={"origin": origin, **asks})
            assert "access-control-allow-origin" not in strange.headers
            assert strange.headers["vary"] == "Origin"
            answer = await client.post("/jobs", json={"type": "echo"}, headers={"origin": origin, **key})
            assert answer.status_code == 403
