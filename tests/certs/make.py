"""Make the certificates that the tests use: ``python tests/certs/make.py``, with OpenSSL 3 at hand.

Each NAME.pem that a peer presents holds its private key and then its chain, as ``load_cert_chain``
takes them. ``ca.pem`` is what the clients of the tests trust, ``crl.pem`` is its revocation list.
The keys of the authorities are thrown away, so the files belong together: make all or none.

Everything keeps to RFC 5280 by the letter (critical basicConstraints and keyUsage, both key
identifiers), because ``ssl.create_default_context`` sets VERIFY_X509_STRICT from Python 3.13 on.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

FROM, UNTIL = "20000101000000Z", "20900101000000Z"
YEAR_2001 = "20010101000000Z", "20020101000000Z"

# `openssl ca` and its database of what was issued, where `openssl x509` would be shorter: before
# OpenSSL 3.4 only `ca` can set the first day of validity, and only `ca` writes a revocation list.
CONFIGURATION = """
[ca]
default_ca = here

[here]
database = index.txt
crlnumber = crlnumber
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

[crl]
authorityKeyIdentifier = keyid

[extensions]
"""

AUTHORITY = """
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""

LEAF = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
extendedKeyUsage = {usage}
subjectAltName = {names}
"""

LOOPBACK = (
    "DNS:localhost, DNS:server.test, DNS:xn--bcher-kva.example, IP:127.0.0.1, IP:::1"
    ", DNS:example.com, DNS:*.example.com"  # what the samples of the documentation connect to
)


class Desk:
    """Where certificates are issued: a directory that ends with the program."""

    def __init__(self, where: Path) -> None:
        self.where = where
        (where / "index.txt").touch()
        (where / "crlnumber").write_text("01\n")

    def openssl(self, *arguments: str) -> None:
        subprocess.run(("openssl", *arguments), cwd=self.where, check=True, capture_output=True)

    def issue(
        self, name: str, extensions: str, issuer: str, valid: tuple[str, str] = (FROM, UNTIL)
    ) -> None:
        """Leave NAME.key and NAME.crt; an *issuer* of that same name signs for itself."""
        (self.where / "openssl.cnf").write_text(CONFIGURATION + extensions)
        # A common name that no client looks for: what is verified are the alternative names.
        subject = f"/CN=httpx_net tests: {name}"
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
        self.openssl("req", "-new", "-config", "openssl.cnf", "-subj", subject, *new_key, *files)
        by = ("-selfsign",) if issuer == name else ("-cert", f"{issuer}.crt")
        dates = ("-startdate", valid[0], "-enddate", valid[1])
        result = ("-keyfile", f"{issuer}.key", "-in", f"{name}.csr", "-out", f"{name}.crt")
        self.openssl("ca", "-config", "openssl.cnf", "-batch", "-notext", *by, *dates, *result)

    def revocation_list(self, issuer: str, revoked: str) -> None:
        """Leave crl.crt, in which *issuer* takes back *revoked*."""
        by = ("-config", "openssl.cnf", "-cert", f"{issuer}.crt", "-keyfile", f"{issuer}.key")
        self.openssl("ca", *by, "-revoke", f"{revoked}.crt")
        dates = ("-crl_lastupdate", FROM, "-crl_nextupdate", UNTIL)
        self.openssl("ca", *by, "-gencrl", "-crlexts", "crl", *dates, "-out", "crl.crt")

    def publish(self, file: str, *parts: str) -> None:
        (HERE / file).write_text("".join((self.where / part).read_text() for part in parts))

    def authority(self, name: str) -> None:
        self.issue(name, AUTHORITY, issuer=name)
        self.publish(f"{name}.pem", f"{name}.crt")

    def leaf(
        self,
        name: str,
        names: str = LOOPBACK,
        *,
        issuer: str = "ca",
        usage: str = "serverAuth",
        valid: tuple[str, str] = (FROM, UNTIL),
    ) -> None:
        self.issue(name, LEAF.format(names=names, usage=usage), issuer, valid)
        self.publish(f"{name}.pem", f"{name}.key", f"{name}.crt")


def main() -> None:
    with tempfile.TemporaryDirectory() as where:
        desk = Desk(Path(where))
        desk.authority("ca")
        desk.leaf("server")
        desk.leaf("proxy", "DNS:localhost, DNS:proxy.test, DNS:proxy.example.com")
        desk.leaf("client", "DNS:client.test", usage="clientAuth")

        # What a client has to refuse, each with one thing wrong.
        desk.leaf("wrong-name", "DNS:elsewhere.test")
        desk.leaf("expired", valid=YEAR_2001)
        desk.leaf("self-signed", issuer="self-signed")
        desk.authority("other-ca")
        desk.leaf("untrusted", issuer="other-ca")
        desk.leaf("revoked")
        desk.revocation_list("ca", "revoked")
        desk.publish("crl.pem", "crl.crt")

        desk.issue("intermediate", AUTHORITY, issuer="ca")
        desk.leaf("incomplete-chain", issuer="intermediate")
        parts = ("incomplete-chain.key", "incomplete-chain.crt", "intermediate.crt")
        desk.publish("chained.pem", *parts)


if __name__ == "__main__":
    main()
