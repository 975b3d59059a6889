"""Make the certificates that the tests use: ``python tests/certs/make.py``, with OpenSSL 3 at hand.

Each NAME.pem that a peer presents holds its private key and then its certificate, as
``load_cert_chain`` takes them; ``ca.pem`` and ``other-ca.pem`` are what clients may trust. The keys
of the authorities are thrown away, so the files belong together: make all or none.

Everything keeps to RFC 5280 by the letter (critical basicConstraints and keyUsage, both key
identifiers), because ``ssl.create_default_context`` sets VERIFY_X509_STRICT from Python 3.13 on.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

# The years on whose first days the certificates begin and end.
VALID = (2000, 2090)

# `openssl ca` and its database of what was issued, where `openssl x509` would be shorter: before
# OpenSSL 3.4 only `ca` can set the first day of validity.
CONFIGURATION = """
[here]
database = index.txt
new_certs_dir = .
default_md = sha256
policy = anything
unique_subject = no
rand_serial = yes
x509_extensions = extensions

[anything]
commonName = supplied

[req]
distinguished_name = empty
[empty]

[extensions]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""

AUTHORITY = """
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
"""

LEAF = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = {usage}
subjectAltName = {names}
"""

LOOPBACK = (
    "DNS:localhost, DNS:server.test, DNS:xn--bcher-kva.example, IP:127.0.0.1, IP:::1"
    # What the samples of the documentation connect to.
    ", DNS:example.com, DNS:*.example.com"
)


def issue(
    where: Path, name: str, extensions: str, issuer: str, years: tuple[int, int] = VALID
) -> None:
    """Leave NAME.key and NAME.crt in *where*; an *issuer* of that same name signs for itself."""

    def openssl(command: str, *arguments: str) -> None:
        call = ("openssl", command, "-config", "openssl.cnf", *arguments)
        subprocess.run(call, cwd=where, check=True, capture_output=True)

    (where / "openssl.cnf").write_text(CONFIGURATION + extensions)
    (where / "index.txt").touch()
    # A common name that no client looks for: what is verified are the alternative names.
    subject = ("-subj", f"/CN=httpx_net tests: {name}")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    openssl("req", "-new", *subject, *key, "-keyout", f"{name}.key", "-out", f"{name}.csr")
    by = ("-selfsign",) if issuer == name else ("-cert", f"{issuer}.crt")
    dates = ("-startdate", f"{years[0]}0101000000Z", "-enddate", f"{years[1]}0101000000Z")
    files = ("-keyfile", f"{issuer}.key", "-in", f"{name}.csr", "-out", f"{name}.crt")
    openssl("ca", "-name", "here", "-batch", "-notext", *by, *dates, *files)


def publish(where: Path, name: str, *parts: str) -> None:
    text = "".join((where / f"{name}.{part}").read_text() for part in parts)
    (HERE / f"{name}.pem").write_text(text)


def authority(where: Path, name: str) -> None:
    issue(where, name, AUTHORITY, name)
    publish(where, name, "crt")


def leaf(
    where: Path,
    name: str,
    names: str = LOOPBACK,
    *,
    usage: str = "serverAuth",
    issuer: str = "ca",
    years: tuple[int, int] = VALID,
) -> None:
    issue(where, name, LEAF.format(names=names, usage=usage), issuer, years)
    publish(where, name, "key", "crt")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory)
        authority(where, "ca")
        leaf(where, "server")
        leaf(where, "proxy", "DNS:localhost, DNS:proxy.test, DNS:proxy.example.com")
        leaf(where, "client", "DNS:client.test", usage="clientAuth")

        # What a client has to refuse, each with one thing wrong.
        leaf(where, "wrong-name", "DNS:elsewhere.test")
        leaf(where, "expired", years=(2001, 2002))
        leaf(where, "self-signed", issuer="self-signed")
        authority(where, "other-ca")
        leaf(where, "untrusted", issuer="other-ca")


if __name__ == "__main__":
    main()
