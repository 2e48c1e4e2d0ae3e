"""A small client of the worker protocol, for saying what no real client says."""
import hashlib
import socket
import struct

MAGIC_CLIENT, MAGIC_SERVER = 0x6e697863, 0x6478696f
NEXT, READ, WRITE, LAST, ERROR = 0x6f6c6d67, 0x64617461, 0x64617416, 0x616c7473, 0x63787470
START, STOP, RESULT = 0x53545254, 0x53544f50, 0x52534c54


def u64(n):
    return struct.pack("<Q", n)


def string(s):
    s = s.encode() if isinstance(s, str) else s
    return u64(len(s)) + s + bytes(-len(s) % 8)


def strings(items):
    return u64(len(items)) + b"".join(map(string, items))


def frames(data, size=65536):
    return b"".join(u64(len(data[i:i + size])) + data[i:i + size] for i in range(0, len(data), size)) + u64(0)


def nar(node):
    """bytes: a file. (bytes,): an executable. str: a link. dict: a directory (in its own order). Raw: as it is."""
    return string("nix-archive-1") + nar_node(node)


class Raw(bytes):
    pass


def nar_node(node):
    t = lambda *words: b"".join(map(string, words))
    if isinstance(node, Raw):
        return bytes(node)
    if isinstance(node, bytes):
        return t("(", "type", "regular", "contents", node, ")")
    if isinstance(node, tuple):
        return t("(", "type", "regular", "executable", "", "contents", node[0], ")")
    if isinstance(node, str):
        return t("(", "type", "symlink", "target", node, ")")
    body = b"".join(t("entry", "(", "name", name, "node") + nar_node(child) + t(")") for name, child in
                    (node.items() if isinstance(node, dict) else node))
    return t("(", "type", "directory") + body + t(")")


class Refused(Exception):
    """The daemon's error message for one operation."""


class Closed(Exception):
    """The daemon closed the connection."""


class Worker:
    def __init__(self, path, version=(1, 38), greet=True, timeout=20):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(timeout)
        self.s.connect(str(path))
        self.log, self.version = [], version
        if greet:
            self.greet()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.s.close()

    def send(self, *parts):
        data = b"".join(u64(p) if isinstance(p, int) else string(p) if isinstance(p, str) else p for p in parts)
        try:
            self.s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what it said before it closed can still be read

    def read(self, n):
        out = b""
        while len(out) < n:
            try:
                part = self.s.recv(n - len(out))
            except ConnectionResetError:
                part = b""
            if not part:
                raise Closed(f"after {len(out)} of {n} bytes")
            out += part
        return out

    def u64(self):
        return struct.unpack("<Q", self.read(8))[0]

    def string(self):
        n = self.u64()
        assert n < 1 << 26
        data = self.read(n)
        assert self.read(-n % 8) == bytes(-n % 8)
        return data.decode(errors="surrogateescape")

    def strings(self):
        return [self.string() for _ in range(self.u64())]

    def greet(self, features=()):
        minor = self.version[1]
        self.send(MAGIC_CLIENT)
        assert self.u64() == MAGIC_SERVER
        self.server = self.u64()
        self.send(self.version[0] << 8 | minor)
        minor = min(minor, self.server & 0xff)  # who is refused meets an older one
        if minor >= 38:
            self.send(strings(list(features)))
            self.features = self.strings()
        self.send(0, 0)
        self.daemon_version = self.string() if minor >= 33 else None
        self.trust = self.u64() if minor >= 35 else None
        self.finish()

    def fields(self):
        return [self.string() if self.u64() else self.u64() for _ in range(self.u64())]

    def finish(self, on_read=None):
        """Everything up to LAST; raises Refused."""
        while True:
            kind = self.u64()
            if kind == LAST:
                return
            if kind == NEXT:
                self.log.append(self.string())
            elif kind == READ:
                self.send(string(on_read(self.u64())))
            elif kind == WRITE:
                self.log.append(self.string())
            elif kind == START:
                assert self.version[1] >= 20
                self.u64(), self.u64(), self.u64()
                self.log.append(self.string())
                self.fields(), self.u64()
            elif kind == STOP:
                self.u64()
            elif kind == RESULT:
                self.u64(), self.u64()
                self.log += [f for f in self.fields() if isinstance(f, str)]
            elif kind == ERROR:
                if self.version[1] >= 26:
                    assert self.string() == "Error"
                    self.u64(), self.string()
                    text = self.string()
                    assert self.u64() == 0
                    for _ in range(self.u64()):
                        self.u64(), self.string()
                else:
                    text = self.string()
                    self.u64()
                raise Refused(text)
            else:
                raise AssertionError(f"unknown message {kind:#x}")

    def op(self, number, *parts, on_read=None):
        self.send(number, *parts)
        self.finish(on_read)

    # One method per operation whose answer the tests look into.

    def options(self, *overrides):
        self.op(19, *[0] * 12, u64(len(overrides)), *[string(x) for pair in overrides for x in pair])

    def valid(self, path):
        self.op(1, path)
        return self.u64()

    def info(self):
        d = {"deriver": self.string(), "hash": self.string(), "refs": self.strings(), "time": self.u64(),
             "size": self.u64()}
        if self.version[1] >= 16:
            d |= {"ultimate": self.u64(), "sigs": self.strings(), "ca": self.string()}
        return d

    def path_info(self, path):
        self.op(26, path)
        if self.version[1] >= 17 and not self.u64():
            return None
        return self.info()

    def add(self, name, method, dump, refs=(), repair=0):
        """op 7 in the framed form."""
        self.op(7, name, method, strings(list(refs)), repair, frames(dump))
        path = self.string()
        return path, self.info()

    def add_old(self, name, fixed, recursive, algo, dump):
        self.op(7, name, fixed, recursive, algo, dump)
        return self.string()

    def add_text(self, name, text, refs=()):
        """text: bytes."""
        if self.version[1] >= 25:
            return self.add(name, "text:sha256", text, refs)[0]
        self.op(8, name, string(text), strings(list(refs)))
        return self.string()

    def add_nar(self, path, dump, **kw):
        head = nar_head(path, dump, **kw)
        if self.version[1] >= 23:
            return self.op(39, head, frames(dump))
        if self.version[1] >= 21:
            rest = [dump]

            def give(n):
                part, rest[0] = rest[0][:n], rest[0][n:]
                return part
            return self.op(39, head, on_read=give)
        return self.op(39, head, dump)

    def add_multiple(self, items, repair=0, no_sigs=0):
        body = u64(len(items)) + b"".join(
            string(path) + info_tail(dump, **kw) + dump for path, dump, kw in items)
        self.op(44, repair, no_sigs, frames(body))


def info_tail(dump, deriver="", digest=None, refs=(), size=None, ultimate=0, sigs=(), ca=""):
    digest = hashlib.sha256(dump).hexdigest() if digest is None else digest
    return (string(deriver) + string(digest) + strings(list(refs)) + u64(0) +
            u64(len(dump) if size is None else size) + u64(ultimate) + strings(list(sigs)) + string(ca))


def nar_head(path, dump, repair=0, no_sigs=0, **kw):
    return string(path) + info_tail(dump, **kw) + u64(repair) + u64(no_sigs)


def base32(data):
    """Nix's base 32."""
    chars = "0123456789abcdfghijklmnpqrsvwxyz"
    n = int.from_bytes(data, "little")
    return "".join(chars[n >> (5 * i) & 31] for i in reversed(range((len(data) * 8 + 4) // 5)))


def store_path(store, kind, digest_hex, name):
    """make_store_path: kind is e.g. "source" or "output:out"."""
    h = hashlib.sha256(f"{kind}:sha256:{digest_hex}:{store}:{name}".encode()).digest()
    short = bytearray(20)
    for i, b in enumerate(h):
        short[i % 20] ^= b
    return f"{store}/{base32(bytes(short))}-{name}"


def source_path(store, name, dump):
    return store_path(store, "source", hashlib.sha256(dump).hexdigest(), name)


def source_ca(dump):
    return "fixed:r:sha256:" + base32(hashlib.sha256(dump).digest())
