"""stuck_fuse.py DIR UID [,allow_other]: a file system of user UID on DIR, in which to look up a name
takes for ever. It ends with its standard input. Needs root to mount; users have fusermount for that."""
import ctypes
import os
import struct
import sys
import threading

where, uid, options = sys.argv[1], int(sys.argv[2]), "".join(sys.argv[3:])
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
if libc.mount(b"stuck", os.fsencode(where), b"fuse", 6,
              f"fd={fd},rootmode=40000,user_id={uid},group_id={uid}{options}".encode()) != 0:
    raise OSError(ctypes.get_errno(), "mount")


def server():
    while True:
        _, op, unique, _ = struct.unpack_from("<IIQQ", os.read(fd, 1 << 17))
        if op == 26:  # INIT
            body = struct.pack("<IIIIHHIIHH", 7, 31, 65536, 0, 12, 10, 65536, 1, 32, 0) + bytes(28)
        elif op == 3:  # GETATTR
            body = struct.pack("<QQ", 100, 0) + struct.pack("<QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755,
                                                            1, uid, uid, 0, 4096, 0)
        else:
            continue
        os.write(fd, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)


threading.Thread(target=server, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
libc.umount2(os.fsencode(where), 2)
