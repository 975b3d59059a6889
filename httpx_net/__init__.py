"""The network layer of an HTTP client: a TCP/TLS byte stream, and deadlines that hold.

    import ssl
    import httpx_net

    net = httpx_net.NetworkBackend()

    with httpx_net.timeout(10.0):                      # for everything below
        with httpx_net.timeout(3.0) as connecting:     # and within that, for the beginning
            stream = net.connect("www.example.com", 443)
            stream.start_tls(ssl.create_default_context(), hostname="www.example.com")
            connecting.cancel()                        # done: the ten seconds still hold
        with stream:
            stream.write(
                b"GET / HTTP/1.1\\r\\nHost: www.example.com\\r\\nConnection: close\\r\\n\\r\\n"
            )
            while data := stream.read():
                print(data)

``with timeout(3.0):`` is three seconds for all that waits on the network inside the block: name
resolution, every address that is tried, the TLS handshake, each read and write. Nothing a peer does
extends it, and nothing has to be passed down to the code that waits.

Read on in ``timeout``, ``NetworkBackend`` and ``NetworkStream``; to bring a backend of your own, in
``NetworkBackendInterface``, ``NetworkStreamInterface`` and ``remaining``.
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
    "__version__",
    "remaining",
    "timeout",
]
