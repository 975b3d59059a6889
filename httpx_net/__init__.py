r"""The network layer of an HTTP client: a TCP/TLS byte stream, and deadlines that hold.

    import ssl
    import httpx_net

    net = httpx_net.NetworkBackend()
    ctx = ssl.create_default_context()

    with httpx_net.timeout(10.0):                               # for everything below
        with httpx_net.timeout(3.0) as connecting:              # and less for the beginning
            with net.connect("www.example.com", 443) as stream:
                stream.start_tls(ctx, hostname="www.example.com")
                connecting.cancel()                             # The ten seconds still hold.
                stream.write(b"GET / HTTP/1.0\r\nHost: www.example.com\r\n\r\n")
                while data := stream.read():
                    print(data)

``with timeout(3.0):`` means three seconds for everything inside the block that waits on the
network: name resolution, every address that is tried, the TLS handshake, each read and each write.
Nothing that a peer does extends it, and nothing has to be passed down to the code that waits.

Read on in ``timeout``, ``NetworkBackend`` and ``NetworkStream``. If you write a backend of your
own, read ``NetworkBackendInterface``, ``NetworkStreamInterface`` and ``remaining``.
"""

from ._backend import NetworkBackend
from ._deadlines import remaining, timeout
from ._interfaces import NetworkBackendInterface, NetworkStreamInterface
from ._resolve import AddressInfo
from ._stream import NetworkStream

__version__ = "0.1.0"

__all__ = [
    "AddressInfo",
    "NetworkBackend",
    "NetworkBackendInterface",
    "NetworkStream",
    "NetworkStreamInterface",
    "remaining",
    "timeout",
]
