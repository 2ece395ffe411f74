"""Ports, and a TCP proxy that fails like networks do."""

import contextlib
import itertools
import random
import socket
import ssl
import threading

# As `verify` of an HTTP client that is one of many: to load the CAs' certificates takes 30 ms.
NO_CAS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

# Below the kernel's ephemeral ports, so that no outgoing connection takes one in between.
_candidates = itertools.cycle(random.sample(range(15000, 32000), 17000))


def free_port() -> int:
    for port in _candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class TcpProxy:
    """Passes connections on to `target`, until told to fail.

    refuse  no listener, connections reset: the server is gone
    silence no byte moves and new connections get no answer: packets are dropped
    forget  connections so far get no answer any more: a firewall has lost them
    restore all is well; connections from before a silence go on, as after a cut cable
    """

    def __init__(self, target_port: int, *, host: str = "127.0.0.1", port: int | None = None):
        self.target_port = target_port
        self.address = (host, port or free_port())
        self._flowing = threading.Event()
        self._accepting = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._fillers: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.restore()

    @property
    def port(self) -> int:
        return self.address[1]

    def restore(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(self.address, backlog=128)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        else:
            self._listener.listen(128)
        self._flowing.set()
        self._accepting.set()
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    def silence(self) -> None:
        assert self._listener
        self._flowing.clear()
        self._accepting.clear()
        # A full accept queue makes the kernel drop further SYNs, as a firewall's DROP does.
        self._listener.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self.address)
            self._fillers.append(filler)

    def refuse(self) -> None:
        if self._listener:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in list(self._sockets):
            _reset(connection)
        self._flowing.set()
        self._accepting.set()

    close = refuse

    def forget(self) -> None:
        self._forgotten |= self._sockets

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._accepting.wait()
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port), timeout=5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            self._sockets |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                if sink not in self._forgotten:
                    sink.sendall(data)
        self._flowing.wait()
        for end in (source, sink):
            self._sockets.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        linger_for_no_time = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time)
        connection.shutdown(socket.SHUT_RDWR)
