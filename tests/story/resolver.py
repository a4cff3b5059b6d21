"""A name server of somebody else: knows example.com, a long text, and nothing more. Prints what it is asked."""

import socket
import struct
import sys
import threading


def answer(query, limit):
    end, labels = 12, []
    while query[end]:
        labels.append(query[end + 1 : end + 1 + query[end]].decode().lower())
        end += 1 + query[end]
    name, kind = ".".join(labels), struct.unpack(">H", query[end + 1 : end + 3])[0]
    print(name, kind, flush=True)
    question = query[12 : end + 5]
    if name == "example.com" and kind == 1:
        data = [socket.inet_aton("192.0.2.7")]
    elif name == "long.example" and kind == 16:
        data = [bytes([100]) + b"%03d" % n + b"x" * 97 for n in range(40)]
    else:
        data = []
    code = 0 if data else 3
    records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(one)) + one for one in data)
    head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(data), 0, 0)
    whole = head + question + records
    if len(whole) > limit:
        return query[:2] + struct.pack(">HHHHH", 0x8380 | code, 1, 0, 0, 0) + question
    return whole


def tcp(listener):
    while True:
        stream, _ = listener.accept()
        with stream:
            while size := stream.recv(2):
                query = stream.recv(struct.unpack(">H", size)[0])
                whole = answer(query, 65535)
                stream.sendall(struct.pack(">H", len(whole)) + whole)


place = ("127.0.0.1", int(sys.argv[1]))
listener = socket.create_server(place)
threading.Thread(target=tcp, args=(listener,), daemon=True).start()
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.bind(place)
while True:
    query, client = door.recvfrom(4096)
    door.sendto(answer(query, 512), client)
