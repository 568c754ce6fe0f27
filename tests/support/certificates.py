"""Authorities and certificates for TLS on 127.0.0.1, made with openssl."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


class Authority:
    """Signs certificates; its own is the file ``pem``, the others lie beside it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self.pem = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        _openssl("req", "-x509", *NEW_KEY, "-keyout", self._key, "-out", self.pem, "-days", "2",
                 "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
                 "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip

    def sign(self, name: str) -> tuple[Path, Path]:
        """Files with a new certificate for 127.0.0.1 and its key."""
        pem, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        _openssl("req", *NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        _openssl("x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self._key,
                 "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", pem)  # fmt: skip
        return pem, key

    def server(self, name: str = "server") -> ssl.SSLContext:
        """Of a server with such a certificate, which wants one of its clients, too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.sign(name))
        context.load_verify_locations(self.pem)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def _openssl(*args: str | Path) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True)
